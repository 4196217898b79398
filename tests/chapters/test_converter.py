"""What the converter makes of each piece of MyST, and what it refuses."""

import nbformat
import notebooks
import pytest
from myst_blocks import SourceError
from small_book import CODE

SITE = "https://some-one.github.io/lab/book/"

# Inline notation, and what stands in the notebook.
INLINE = {
    "{cite:t}`ab2020`": "[Alef and Bét (2020)](https://doi.org/10.1/xy)",
    "{cite:p}`abc2021`": "([van Alef et al., 2021](https://arxiv.org/abs/2101.00001))",
    "{cite}`old1998`": "(Old, 1998)",
    "{cite:p}`old1998, ab2020`": "(Old, 1998; [Alef and Bét, 2020](https://doi.org/10.1/xy))",
    "{cite:year}`ab2020`": "[2020](https://doi.org/10.1/xy)",
    "{doc}`../notation`": f"[]({SITE}notation.html)",
    "{doc}`words <../index>`": f"[words]({SITE}index.html)",
    "[words](../notation.md)": f"[words]({SITE}notation.html)",
    "[words](two.md#far-away)": f"[words]({SITE}part/two.html#far-away)",
    "[words](https://a.b/c_d)": "[words](https://a.b/c_d)",
    "{ref}`sec-far`": f"[Far away]({SITE}part/two.html#sec-far)",
    "{ref}`there <sec-far>`": f"[there]({SITE}part/two.html#sec-far)",
    "[](#sec-far)": f"[Far away]({SITE}part/two.html#sec-far)",
    "{eq}`eq-far`": f"[(2.1) in Two]({SITE}part/two.html#equation-eq-far)",
    "{term}`NTK`": f"[NTK]({SITE}notation.html#term-NTK)",
    "{term}`kernels <NTK>`": f"[kernels]({SITE}notation.html#term-NTK)",
    "{math}`a_1`": "$a_1$",
    "{glue:text}`acc:.3f`": "(printed above)",
    "{sub}`2`": "<sub>2</sub>",
    "`{cite:t}` stays, $\\{a\\}`$": "`{cite:t}` stays, $\\{a\\}`$",
    "``a ` {eq}`x` ``": "``a ` {eq}`x` ``",
    "a<!-- gone -->b": "ab",
    "one[^a] two[^b] one[^a]": "one<sup>1</sup> two<sup>2</sup> one<sup>1</sup>",
    "![dot](pixel.png){width=90%}": "![dot](pixel.png)",
    "over $a\n+ b$ lines": "over $a + b$ lines",
    "5 \\$ and \\{doc}": "5 \\$ and \\{doc}",
}


@pytest.mark.parametrize("source", INLINE)
def test_inline(book, source):
    expected = INLINE[source].replace("[](", "[Notation](")
    book.write("book/notation.md", "# Notation\n\n```{glossary}\nNTK\n  A kernel\n```\n")
    assert book.markdown(f"Before {source} after.") == f"Before {expected} after."


# Blocks, and what stands in the notebook. `one` is chapter 1 of the numbered part.
BLOCKS = {
    "$$\na = b\n$$ (eq-a)\n\nBy {eq}`eq-a`.": "$$\na = b\n\\tag{1.1}\n$$\n\nBy (1.1).",
    "$$ a $$ (eq-a)": "$$\na\n\\tag{1.1}\n$$",
    "$$\na\n$$": "$$\na\n$$",
    "```{math}\n:label: eq-a\na \\\\\nb\n```": (
        "$$\n\\begin{split}\na \\\\\nb\n\\end{split}\n\\tag{1.1}\n$$"
    ),
    "\\begin{align}\na \\\\ b\n\\end{align}": "$$\n\\begin{align}\na \\\\ b\n\\end{align}\n$$",
    "Words $$a$$ and words.": "Words $$a$$ and words.",
    ":::{note}\nOne\n:::": "> **Note**\n>\n> One",
    ":::{warning} Mind {math}`x`\nOne\n\nTwo\n:::": "> **Mind $x$**\n>\n> One\n>\n> Two",
    "```{seealso}\nOne\n```": "> **See also**\n>\n> One",
    ":::{dropdown} More\n:open:\n\nOne\n:::": "> **More**\n>\n> One",
    "::::{note}\n:::{tip}\nIn\n:::\nOut\n::::": "> **Note**\n>\n> > **Tip**\n> >\n> > In\n>\n> Out",
    "````{note}\n```python\n# {eq}`x`\n```\n````": "> **Note**\n>\n> ```python\n> # {eq}`x`\n> ```",
    "```{prf:theorem} Gauß\n:label: t\nSo.\n```\n{prf:ref}`t`": (
        "> **Theorem 1.1 (Gauß).** So.\n\nTheorem 1.1"
    ),
    "```{prf:lemma}\n:nonumber:\nSo.\n```": "> **Lemma.** So.",
    "```{prf:theorem}\nA\n```\n```{prf:lemma}\nB\n```": (
        "> **Theorem 1.1.** A\n\n> **Lemma 1.1.** B"
    ),
    "```{prf:definition}\n- a\n- b\n```": "> **Definition 1.1.**\n>\n> - a\n> - b",
    "```{prf:proof}\nClear.\n```": "> **Proof.** Clear. $\\square$",
    "````{prf:remark}\n$$\na\n+ b  % why\n$$ (eq-r)\n````": (
        "> **Remark 1.1.**\n>\n> $$ a + b \\tag{1.1} $$"
    ),
    "```{exercise} Hard\n:label: e\nTry.\n```\n{ref}`e`": (
        "**Exercise 1.1 (Hard).** Try.\n\nExercise 1.1"
    ),
    "```{exercise}\n:label: e\nTry.\n```\n```{solution} e\n:class: dropdown\nDone.\n```": (
        "**Exercise 1.1.** Try.\n\n"
        "<details>\n<summary>Solution of exercise 1.1</summary>\n\nDone.\n\n</details>"
    ),
    "```{exercise-start}\n:label: e\n```\nTry.\n```{exercise-end}\n```": "**Exercise 1.1.** Try.",
    "```{figure} pixel.png\n:alt: a dot\n:name: f\nA {math}`x`.\n```\n{numref}`f`": (
        "![a dot](pixel.png)\n\n**Figure 1.1.** *A $x$.*\n\nFigure 1.1"
    ),
    "```{image} pixel.png\n:alt: a dot\n:width: 3px\n```": "![a dot](pixel.png)",
    "```{table} Sizes\n:name: t\n| a |\n|---|\n```\n{numref}`Tab. %s <t>`": (
        "**Table 1.1.** *Sizes*\n\n| a |\n|---|\n\nTab. 1.1"
    ),
    "```{code-block} python\nx = '{eq}`a`'\n```": "```python\nx = '{eq}`a`'\n```",
    "{cite:t}`old1998`\n\n```{bibliography}\n:filter: docname in docnames\n```": (
        "Old (1998)\n\n- Old, O. (1998). *Book.* P."
    ),
    "% a comment\nText\n% more": "Text",
    "<!-- one\ntwo -->\nText": "Text",
    "(here)=\n## A *title*\n\nSee {ref}`here`.": "## A *title*\n\nSee *A *title**.",
    "{#id .class}\nText": "Text",
    "```{tableofcontents}\n```\nText": "Text",
    "- item\n\n  ```{note}\n  In\n  ```\n- two": "- item\n\n  > **Note**\n  >\n  > In\n\n- two",
    "```{ledger}\n:chapter: x\n```": (
        f"*[The ledger's rows, with their criteria and verdicts]({SITE}ledger.html) "
        "are on a page of the book.*"
    ),
    "Note[^a].\n\n[^a]: Words.": "Note<sup>1</sup>.\n\n<sup>1</sup>  Words.",
}


@pytest.mark.parametrize("source", BLOCKS)
def test_blocks(book, source):
    assert book.markdown(source) == BLOCKS[source]


# Notation that is refused: the file, the line (counted in the chapter), and why.
REFUSED = {
    "a\n\n{foo}`x`": (3, r"does not know the role \{foo\}"),
    "a\n```{foo}\nx\n```": (2, r"does not know the directive \{foo\}"),
    ":::{note}\n```{foo}\n```\n:::": (2, r"does not know the directive \{foo\}"),
    "a {eq}`none`": (1, "names no label"),
    "(s)=\n## S\n\n{eq}`s`": (4, "names no equation but a Section"),
    "a\nb {cite:t}`none`": (2, "no entry 'none'"),
    "{doc}`nowhere`": (1, "is no page"),
    "{term}`nothing`": (1, "No glossary"),
    "[a](nowhere.html)": (1, "neither a page"),
    "![](pixel.png)": (1, "no description"),
    "![a](gone.png)": (1, "does not exist"),
    "```{figure} pixel.png\nCaption\n```": (1, "needs an :alt:"),
    "{{ version }}": (1, "Write the substitution"),
    "Term\n: meaning": (2, "no definition lists"),
    ":::{note}\nOpen": (1, "is not closed"),
    "::: note\nx\n:::": (1, "names no directive"),
    "$$\na": (1, "never closed"),
    "\\begin{align}\na": (1, "is missing"),
    "\\begin{align}\n\\label{x}\n\\end{align}": (1, "is not read here"),
    "```{solution} none\nx\n```": (1, "names no exercise"),
    "{eq}`never closed": (1, "never closed"),
    "$$\na\n$$ (eq-far)": (1, "already used on book/part/"),
    ":::{note}\n\n```{code-cell} ipython3\n1\n```\n:::": (1, "cell cannot stand inside"),
}


@pytest.mark.parametrize("source", REFUSED)
def test_what_is_not_known_is_an_error_with_its_place(book, source):
    line, message = REFUSED[source]
    before = book.chapter("book/part/one", "").read_text().count("\n")
    with pytest.raises(SourceError, match=message) as caught:
        book.markdown(source)
    place = str(caught.value).split(": ")[0]
    if "already used" in message:  # either of the two places is a good answer
        assert place.startswith("book/part/")
    else:
        assert place == f"book/part/one.md:{before + line}"


# --- cells ----------------------------------------------------------------------------------


def test_code_cells_keep_tags_and_text(book):
    first, code, figure, caption, last = book.cells(CODE)
    assert code.source == "x = n" and code.metadata["tags"] == ["hide-input", "mine"]
    assert code.metadata["cellView"] == "form"
    assert figure.metadata == {"tags": ["hide-output"]}
    assert caption.source.startswith("**Figure 1.1.** *A $y$, see [(2.1) in Two](")
    assert (first.source, last.source) == ("First.", "Last Figure 1.1.")


SOLUTION = """\
```{exercise}
:label: e
Try.
```

```{solution-start} e
:class: dropdown
```
Think.

```{code-cell} ipython3
print(n)
```

```{solution-end}
```

After.
"""


def test_a_solution_over_code_cells_says_so(book):
    before, code, after = book.cells(SOLUTION)
    assert before.source.endswith("**Solution of exercise 1.1 (next cells).**\n\nThink.")
    assert code.source == "print(n)"
    assert after.source == "*End of the solution.*\n\nAfter."


def test_ids_are_valid_unique_and_always_the_same(book):
    first, second = (book.notebook(CODE) for _ in range(2))
    ids = [cell.id for cell in first.cells]
    assert ids == [cell.id for cell in second.cells]
    assert len(set(ids)) == len(ids)
    other = notebooks.convert(notebooks.chapters(book.root)[1], book.root)
    assert not set(ids) & {cell.id for cell in other.cells}


def test_ids_do_not_depend_on_the_text(book):
    before = [cell.id for cell in book.notebook("One.\n\n" + CODE).cells]
    assert before == [cell.id for cell in book.notebook("Two.\n\n" + CODE).cells]


def test_notebooks_hold_no_outputs_and_little_metadata(book):
    made = book.notebook(CODE)
    nbformat.validate(made)
    assert set(made.metadata) == {"accelerator", "colab", "kernelspec", "language_info"}
    assert all(c.outputs == [] and c.execution_count is None for c in made.cells if "outputs" in c)


def test_the_first_cell_links_to_the_page_and_to_colab(book):
    text = book.notebook("").cells[0].source
    assert f"({SITE}part/one.html)" in text
    assert "/github/Some-One/lab/blob/main/book/part/one.ipynb)" in text


def test_another_public_address_is_one_setting(book):
    book.address("https://host.org/a/b", "html: {baseurl: https://x.y/z}\n")
    text = book.notebook("See {doc}`two`.").cells
    assert "colab" not in text[0].source
    assert text[3].source == "See [Two](https://x.y/z/book/part/two.html)."
    assert "git+https://host.org/a/b" in text[1].source


def test_unnumbered_pages_share_one_count(book):
    book.write(
        "_toc.yml", "root: book/index\nchapters: [{file: book/part/two}, {file: book/part/one}]\n"
    )
    assert "\\tag{2}" in book.markdown("$$\nb\n$$ (eq-b)")
