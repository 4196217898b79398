"""The ledger's rows inside a chapter, as a table that reads well aloud."""

import html

from ntklab.charts.images import Html

#: A sign beside each verdict, so that it needs no colour.
SIGNS = {"reproduced": "✓", "partly": "◐", "not reproduced": "✗", "not run": "–"}
_CELL = "text-align:left;vertical-align:top;min-width:9em"
_HEADS = ("Claim", "The paper says", "We would accept", "We measured", "Verdict")


def ledger_table(chapter: str | None = None, paper: str | None = None) -> Html:
    """The claims of a chapter or a paper: what was claimed, accepted and measured, the verdict.

    Args:
      chapter: page, as in `_toc.yml`, with or without the leading `book/`.
      paper: key of the bibliography.

    Returns:
      An HTML table with a caption, and with headers that name each column and row.

    Raises:
      ValueError: the ledger has no such claim.
      LedgerError: the ledger is missing or breaks its schema.
    """
    from ntklab import ledger

    names = [None] if chapter is None else [chapter, f"book/{chapter}"]
    found = [row for name in names for row in ledger.rows(chapter=name, paper=paper)]
    if not found:
        known = sorted({c.chapter for c in ledger.claims()} | {c.paper for c in ledger.claims()})
        raise ValueError(
            f"No claim of the ledger belongs to {chapter or paper!r}; it knows {', '.join(known)}."
        )
    heads = "".join(f'<th scope="col">{head}</th>' for head in _HEADS)
    body = "".join(map(_row, found))
    sizes = "row" if len(found) == 1 else "rows"
    caption = f"{len(found)} {sizes} of the ledger"
    return Html(
        f'<div class="ntklab-table" role="region" aria-label="{caption}" tabindex="0">'
        f"<table><caption>{caption}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(row: dict) -> str:
    verdict = row["verdict"]
    sign = next(s for word, s in SIGNS.items() if verdict.split(" (")[0] == word)
    size = f" at size {row['size']}" if row["measured"] else ""
    said = row["reported"] + (f" ({row['source']})" if row["source"] else "")
    claim = f"{_text(row['statement'])}<br><small>{_text(row['where'])}, {_text(row['id'])}</small>"
    cells = "".join(
        f"<td>{_text(t)}</td>" for t in (said, row["criterion"], row["measured"] or "–")
    )
    return (
        f'<tr style="{_CELL}">'
        f'<th scope="row" style="{_CELL};font-weight:normal">{claim}</th>{cells}'
        f'<td><span aria-hidden="true">{sign}</span> {_text(verdict + size)}</td></tr>'
    )


def _text(value: str) -> str:
    return html.escape(str(value)).replace("\n", "<br>")
