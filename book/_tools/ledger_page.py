"""The ledger as a page: every claim, its criterion, what was measured, and the verdict.

    ```{ledger}
    :paper: tsilivis2022        (each option is a filter and may be left out)
    :chapter: book/part2/...
    :id: some-claim
    ```

    ```{ledger-runs}
    ```

Nothing is written by hand: claims come from `claims.yaml`, values from `runs/*.json`, verdicts
from `ntklab.ledger`. A claim has the anchor `claim-<id>`, so prose can link to it.
"""

from collections import Counter
from typing import ClassVar

import book_config
from citations import names, read_bibliography, year
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective


class LedgerDirective(SphinxDirective):
    """All claims, or those that the options choose, a section for each paper."""

    option_spec: ClassVar[dict] = {
        k: directives.unchanged_required for k in ("paper", "chapter", "id")
    }

    def run(self) -> list[nodes.Node]:
        """Build the sections."""
        ledger = load_ledger()
        pages = vars(self.env).setdefault("ntklab_ledger_pages", set())
        pages.add(self.env.docname)
        wanted = self.options.get("id")
        found = ledger.verdicts(
            paper=self.options.get("paper"), chapter=self.options.get("chapter")
        )
        found = [v for v in found if wanted in (None, v.claim.id)]
        if not found:
            raise self.error(f"The ledger has no claim that fits {self.options}.")
        works = read_bibliography(book_config.ROOT / "book" / "references.bib").entries
        result: list[nodes.Node] = [self.summary(found)]
        for paper in dict.fromkeys(v.claim.paper for v in found):
            if paper not in works:
                raise self.error(f"The ledger cites {paper!r}, which references.bib lacks.")
            result.append(self.section(paper, works[paper], found))
        return result

    def summary(self, found: list) -> nodes.paragraph:
        """How many claims have which verdict, in one sentence a size."""
        lines = []
        for size in dict.fromkeys(v.size for v in found):
            words = Counter(v.verdict for v in found if v.size == size)
            counts = ", ".join(f"{n} {word}" for word, n in words.items())
            total = sum(words.values())
            claims = "1 claim" if total == 1 else f"{total} claims"
            lines.append(f"At {size} size: {claims}, {counts}.")
        return nodes.paragraph(text=" ".join(lines))

    def section(self, paper: str, work, found: list) -> nodes.section:
        """One paper's claims."""
        section = nodes.section(ids=[nodes.make_id(f"paper-{paper}")])
        section += nodes.title(text=f"{names(work)} ({year(work)})")
        section += self.markdown(f"{{cite:t}}`{paper}`: *{work.fields['title'].strip('{}')}*")
        mine = [v for v in found if v.claim.paper == paper]
        for claim in dict.fromkeys(v.claim for v in mine):
            section += self.claim(claim, [v for v in mine if v.claim == claim])
        return section

    def claim(self, claim, found: list) -> nodes.container:
        """One claim with a verdict for each size."""
        anchor = f"claim-{claim.id}"
        box = nodes.container(classes=["ntklab-claim"], ids=[anchor], names=[anchor])
        self.state.document.note_explicit_target(box, box)
        head = nodes.paragraph(classes=["ntklab-id"])
        head += nodes.literal(text=claim.id)
        for v in found:
            head += badge(v)
        box += head
        box += self.markdown(claim.statement)
        criterion = "; ".join(map(str, claim.criterion))
        facts = [fact("Where", plain(claim.where)), fact("The paper says", plain(said(claim)))]
        facts.append(fact("We would accept", plain(criterion)))
        if claim.note:
            facts.append(fact("Note", self.markdown(claim.note)))
        box += nodes.definition_list("", *facts)
        if not any(v.run for v in found):
            command = f"python -m ntklab run {claim.experiment} --size {claim.sizes[0]}"
            box += nodes.paragraph(text="Not run yet. This runs it:")
            box += nodes.literal_block(command, command, language="bash")
        for v in found:
            if v.run:
                box += measured(v)
        box += self.shown_in(claim.chapter)
        return box

    def markdown(self, text: str) -> list[nodes.Node]:
        """Inline Markdown of the ledger, rendered."""
        box = nodes.container()
        self.state.nested_parse(StringList([text], "claims.yaml"), self.content_offset, box)
        return box.children

    def shown_in(self, chapter: str) -> nodes.paragraph:
        """A link to the chapter that shows the claim."""
        if chapter not in self.env.found_docs:
            raise self.error(f"The ledger names the chapter {chapter!r}, which is no page.")
        link = addnodes.pending_xref(
            "",
            nodes.inline(text=chapter),
            refdomain="std",
            reftype="doc",
            refdoc=self.env.docname,
            reftarget=f"/{chapter}",
            refexplicit=False,
            refwarn=True,
        )
        return nodes.paragraph("", nodes.Text("Shown in "), link, nodes.Text("."))


class RunsDirective(SphinxDirective):
    """Every stored run, newest first, those included that never count."""

    def run(self) -> list[nodes.Node]:
        """Build the table."""
        pages = vars(self.env).setdefault("ntklab_ledger_pages", set())
        pages.add(self.env.docname)
        runs = load_ledger().runs()[::-1]
        if not runs:
            return [nodes.paragraph(text="No run is stored yet.")]
        heads = [
            "Experiment",
            "Size",
            "Seeds",
            "Seconds",
            "Memory (MiB)",
            "Device",
            "Commit",
            "Time",
        ]
        return [table(heads, [run_row(run) for run in runs])]


def run_row(run) -> list:
    """One stored run in the list of all."""
    cost = [f"{run.seconds:.0f}", f"{run.peak_memory_mib:.0f}"]
    commit = run.commit[:12] + (" (dirty: does not count)" if run.dirty else "")
    return [run.experiment, run.size, len(run.seeds), *cost, run.device, commit, run.time]


def load_ledger():
    """`ntklab.ledger`; a damaged ledger stops the build with its one sentence."""
    from ntklab import ledger

    try:
        ledger.verdicts()
    except ledger.LedgerError as error:
        raise ExtensionError(str(error)) from error
    return ledger


def plain(text: str) -> list[nodes.Node]:
    """Text in which no sign is markup."""
    return [nodes.paragraph(text=text)]


def fact(term: str, content: list[nodes.Node]) -> nodes.definition_list_item:
    """A term and what belongs to it."""
    return nodes.definition_list_item("", nodes.term(text=term), nodes.definition("", *content))


def said(claim) -> str:
    """What the paper reports, with its source."""
    value = claim.reported if isinstance(claim.reported, str) else f"{claim.reported:g}"
    return f"{value} ({claim.source})" if claim.source else value


def badge(v) -> nodes.inline:
    """A verdict: a sign, the word, the size."""
    from ntklab.charts.tables import SIGNS

    text = f"{SIGNS[v.verdict]} {v}, {v.size} size"
    kind = v.verdict.replace(" ", "-")
    return nodes.inline(text=text, classes=["ntklab-verdict", f"ntklab-{kind}"])


def measured(v) -> nodes.container:
    """What one run measured: each predicate with its values, then how to repeat the run."""
    run, rows = v.run, []
    for outcome in v.outcomes:
        numbers = outcome.per_seed
        row = [str(outcome.predicate), "holds" if outcome.holds else "fails"]
        rows.append([*row, f"{sum(numbers) / len(numbers):.4g}", *(f"{n:.4g}" for n in numbers)])
    seeds = [f"seed {s}" for s in run.seeds]
    box = nodes.container("", table([f"Criterion, {v.size} size", "", "mean", *seeds], rows))
    data = ", ".join(f"{d['name']} {d['fingerprint']}" for d in run.data) or "none"
    versions = ", ".join(f"{k} {n}" for k, n in run.versions.items())
    text = (
        f"{run.seconds:.0f} s and {run.peak_memory_mib:.0f} MiB on {run.device}, {run.time}, "
        f"commit {run.commit[:12]}. Data: {data}. Versions: {versions}."
    )
    if "fraction_of_peak" in run.compute:
        speed = run.compute["flops_per_second"] / 1e9, run.compute["fraction_of_peak"]
        text += f" {speed[0]:.3g} GFLOP/s, {speed[1]:.0%} of a matrix product on the same device."
    text += "".join(f" Note: {note}." for note in run.compute.get("notes", ()))
    box += [
        nodes.raw("", "<details><summary>Device, data and versions</summary>", format="html"),
        nodes.paragraph(text=text),
        nodes.raw("", "</details>", format="html"),
        nodes.literal_block(run.command, run.command, language="bash"),
    ]
    return box


def table(heads: list[str], rows: list[list]) -> nodes.table:
    """A plain table; the style sheet gives it a scroll box."""
    group = nodes.tgroup(cols=len(heads))
    group += [nodes.colspec(colwidth=1) for _ in heads]
    group += nodes.thead("", _row(heads))
    group += nodes.tbody("", *[_row(row) for row in rows])
    return nodes.table("", group)


def _row(cells: list) -> nodes.row:
    return nodes.row("", *[nodes.entry("", nodes.paragraph(text=str(c))) for c in cells])


def setup(app: Sphinx) -> None:
    """Register the two directives."""
    app.add_directive("ledger", LedgerDirective)
    app.add_directive("ledger-runs", RunsDirective)
