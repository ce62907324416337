"""The content security policy of the dashboard's pages."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from common.security_headers import script_hashes, source, style_hashes

# Streamlit forces two exceptions. It imports the modules of components from text (blob:). And Emotion, which writes its
# styles, adds empty style elements and fills them by the CSSOM, which no policy restricts: the hash of an empty text
# allows them. Attributes with styles are those of the dashboard's own markup (positions of boxes, colours of methods);
# style-src is for browsers that do not know the two more precise directives.
_POLICY = (
    "default-src 'self'; script-src 'self' blob:{scripts}; style-src 'self' 'unsafe-inline'; "
    "style-src-elem 'self' {own_styles}{styles}; style-src-attr 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; connect-src 'self'; "
    "worker-src 'self' blob:; frame-src 'none'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
# Style elements of React Aria, which is part of Streamlit's frontend, and of MapLibre, which is part of Plotly's full
# bundle. After an update of one of them, the browser's message in tests/dashboard/test_gate.py contains the new hash.
_LIBRARY_STYLES = (
    "'sha256-38RhXrc7EdReTKsOm23ZPOCUgniTUUcjky8QOOrQx6o='",
    "'sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o='",
)
_ASSETS = Path(__file__).parents[1] / "assets"


def policy(page: bytes = b"") -> str:
    """Return the content security policy, which allows the inline scripts and styles of a page and no others.

    Args:
        page: The HTML of the response.
    """
    return _POLICY.format(scripts=script_hashes(page), styles=style_hashes(page), own_styles=_own_styles())


@cache
def _own_styles() -> str:
    """Return the sources of the styles that scripts add: empty elements, those of libraries, and that of charts."""
    chart = (_ASSETS / "chart.css").read_bytes().strip()  # as Streamlit adds it
    return " ".join((source(b""), source(chart), *_LIBRARY_STYLES))
