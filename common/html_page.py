"""HTML pages in one file, which open without a server and load nothing from elsewhere. Every text is escaped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from common.terminal import printable

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #202124; background: white }
body { max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #dadce0 }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { border-bottom: 1px solid #dadce0; padding: .3rem .8rem; text-align: left; vertical-align: top }
td { font-variant-numeric: tabular-nums }
pre { background: #f8f9fa; padding: 1rem; overflow-x: auto } .keep { font-weight: 600 } .quiet { color: #5f6368 }
svg { max-width: 100%; height: auto }
@media print { details { display: none } }
"""
_WITHOUT_SCRIPTS = "default-src 'none'; style-src 'unsafe-inline'"


def text(value: str) -> str:
    """Return a text in which no character is markup, and none is hidden."""
    return escape(printable(value))


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts."""
    return markup_table(titles, [[text(cell) for cell in row] for row in rows])


def markup_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose cells are HTML; its titles are texts."""
    head = "".join(f"<th>{text(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def folded(title: str, content: str) -> str:
    """Return HTML behind a title that opens it."""
    return f"<details><summary>{text(title)}</summary>{content}</details>"


def data_block(name: str, value: Any) -> str:
    """Return data as JSON that no text in it can end."""
    content = json.dumps(value, allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{content}</script>'


def page(title: str, body: str) -> str:
    """Return a page without scripts.

    Args:
        title: Its title, a text.
        body: Its content, HTML.
    """
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_WITHOUT_SCRIPTS}">'
        f'<meta name="viewport" content="width=device-width"><title>{text(title)}</title><style>{STYLE}</style>'
    )
    return f'<!DOCTYPE html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'
