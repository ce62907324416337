"""How text that others wrote enters markup: names, labels, reasons, log lines, hosts, and what an address says.

Streamlit reads nearly every text that it shows as Markdown, Plotly reads its titles as a kind of HTML, and a part of a
page that is HTML is read as such. ``escape``, ``code``, ``html`` and ``figure_text`` give text the form in which each
of them shows it as it is: no picture, link, colour, icon, formula, heading or list comes of it.
``tests/dashboard/test_markup_is_escaped.py`` looks through all pages for text that enters markup otherwise.
"""

from __future__ import annotations

import re
from html import escape as _html_escape

_SIGNS = re.compile(r"[\\\[\]*_`$~&<]")
# As ``:red``; a colon before anything but a letter means nothing.
_DIRECTIVE = re.compile(r":(?=[A-Za-z+])")
_LINES = re.compile(r"[ \t]*[\r\n]\s*")
_FIRST = re.compile(r"^(?=[#>+=|:-])", re.MULTILINE)
_NUMBERED = re.compile(r"^(\d{1,9})([.)])", re.MULTILINE)
# Streamlit looks for these once Markdown has been read, when a backslash is gone, but within one piece of text only: a
# span with nothing in it stands between two pieces, and adds nothing to what is seen or copied.
_SPLIT = ":color[]"
_ICON = re.compile(r"\\?:(?!(?!100:|1234:)\d+:)(?=(?:[\w/+-]|\\.)+:)")
_ADDRESS = re.compile(r"htt(?=ps?://)|w(?=ww\.)|(?<=[\w.+-])(?=@)", re.IGNORECASE)
_ARROW = re.compile(r"(?<!\S)\\?[<>~-](?:\\?[<>=-])+(?!\S)")


def escape(text: object) -> str:
    """Text inside Markdown, as one paragraph: a new line is a line break."""
    found = _LINES.sub("\n", str(text).strip())
    found = _DIRECTIVE.sub(r"\\:", _SIGNS.sub(r"\\\g<0>", found))
    found = _NUMBERED.sub(r"\1\\\2", _FIRST.sub(r"\\", found))
    found = _ICON.sub(rf"\\:{_SPLIT}", found)
    found = _ADDRESS.sub(rf"\g<0>{_SPLIT}", found)
    found = _ARROW.sub(lambda arrow: re.sub(r"\\?[<>~=-]", rf"\g<0>{_SPLIT}", arrow[0]), found)
    return found.replace("\n", "\\\n")


def code(text: object) -> str:
    """Text inside Markdown, as code."""
    found = " ".join(str(text).split())
    if ":material/" in found:  # Streamlit rewrites that before it knows what is code
        return escape(found)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", found)), default=0))
    space = " " if found.startswith("`") or found.endswith("`") or not found else ""
    return f"{fence}{space}{found}{space}{fence}"


def html(text: object) -> str:
    """Text inside HTML."""
    return _html_escape(str(text))


def figure_text(text: object) -> str:
    """Text in a Plotly figure, which takes tags and entities for markup."""
    return _html_escape(str(text), quote=False)
