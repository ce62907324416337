"""Words of others inside Markdown."""

from __future__ import annotations

import pytest

from dashboard.widgets import escape


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("dkd_align (log) **b** $y$", r"dkd\_align (log) \*\*b\*\* \$y\$"),
        ("a:red b, :red[r]", r"a\:red b, \:red\[r\]"),
        ("1&lt;2 <b>", r"1\&lt;2 \<b>"),
        # Streamlit looks for these once Markdown has been read, when a backslash is gone.
        (":tada: :material/home:", "\\:\u2060tada: \\:\u2060material/home:"),
        ("12:30:05, lr: 0.1", "12:30:05, lr: 0.1"),
    ],
)
def test_what_looks_like_markup_is_text(text: str, written: str) -> None:
    assert escape(text) == written
