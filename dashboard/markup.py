"""Escaping of untrusted text in markup: names, labels, reasons, log lines, hosts and query parameters.

Streamlit renders nearly every text as Markdown, Plotly renders its titles as a subset of HTML, and some parts of a page
are HTML. ``escape``, ``code``, ``html`` and ``figure_text`` each return text that is shown literally: it cannot become
an image, link, colour, icon, formula, heading or list. ``markdown_html`` shows notes, in which Markdown is allowed.
``tests/dashboard/test_markup_is_escaped.py`` searches all pages for text that enters markup without them.
"""

from __future__ import annotations

import re
from functools import cache
from html import escape as _html_escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_SIGNS = re.compile(r"[\\\[\]*_`$~&<]")
# ``:red`` is a directive; a colon that no letter follows is plain text.
_DIRECTIVE = re.compile(r":(?=[A-Za-z+])")
_LINES = re.compile(r"[ \t]*[\r\n]\s*")
_FIRST = re.compile(r"^(?=[#>+=|:-])", re.MULTILINE)
_NUMBERED = re.compile(r"^(\d{1,9})([.)])", re.MULTILINE)
# Streamlit searches for these patterns after Markdown has been parsed and backslashes are removed, but only within one
# text node. An empty span splits the node and does not change the shown or copied text.
_SPLIT = ":color[]"
_ICON = re.compile(r"\\?:(?!(?!100:|1234:)\d+:)(?=(?:[\w/+-]|\\.)+:)")
_ADDRESS = re.compile(r"htt(?=ps?://)|w(?=ww\.)|(?<=[\w.+-])(?=@)", re.IGNORECASE)
_ARROW = re.compile(r"(?<!\S)\\?[<>~-](?:\\?[<>=-])+(?!\S)")


def escape(text: object) -> str:
    """Escape text for Markdown, as one paragraph in which a new line is a line break."""
    escaped = _LINES.sub("\n", str(text).strip())
    escaped = _DIRECTIVE.sub(r"\\:", _SIGNS.sub(r"\\\g<0>", escaped))
    escaped = _NUMBERED.sub(r"\1\\\2", _FIRST.sub(r"\\", escaped))
    escaped = _ICON.sub(rf"\\:{_SPLIT}", escaped)
    escaped = _ADDRESS.sub(rf"\g<0>{_SPLIT}", escaped)
    escaped = _ARROW.sub(lambda arrow: re.sub(r"\\?[<>~=-]", rf"\g<0>{_SPLIT}", arrow[0]), escaped)
    return escaped.replace("\n", "\\\n")


def code(text: object) -> str:
    """Return text as an inline code span of Markdown."""
    line = " ".join(str(text).split())
    if ":material/" in line:  # Streamlit replaces icons before it parses code spans
        return escape(line)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{space}{line}{space}{fence}"


def html(text: object) -> str:
    """Escape text for HTML."""
    return _html_escape(str(text))


def figure_text(text: object) -> str:
    """Escape text for a Plotly figure, which interprets tags and entities."""
    return _html_escape(str(text), quote=False)


def markdown_html(text: str) -> str:
    """Return a person's Markdown as HTML for ``st.html``.

    HTML in the text is shown literally, links lead only to web and mail addresses, and there are no pictures: a picture
    on another server would tell that server who reads the notes. ``st.html`` sanitises the result once more.
    """
    rendered: str = _markdown().render(text)
    return rendered


@cache
def _markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"]).disable("image")
