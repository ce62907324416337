"""Untrusted text inside Markdown."""

from __future__ import annotations

import pytest

from dashboard.forms.widgets import escape


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("dkd_align (log) **b** $y$", r"dkd\_align (log) \*\*b\*\* \$y\$"),
        ("a:red b, :red[r]", r"a\:red b, \:red\[r\]"),
        ("1&lt;2 <b>", r"1\&lt;2 \<b>"),
        # Streamlit searches for these after Markdown is parsed, which removes backslashes: empty spans separate them.
        (":tada: :material/home:", "\\::color[]tada: \\::color[]material/home:"),
        (":100: www.x", "\\::color[]100: w:color[]ww.x"),
        ("https://a.b c@d.e", "htt:color[]ps://a.b c:color[]@d.e"),
        ("a -> b", "a -:color[]>:color[] b"),
        # Block markup is only recognised at the start of a line.
        ("# a\n\n - b\r\n1. c", "\\# a\\\n\\- b\\\n1\\. c"),
        ("a - 1. # b", "a - 1. # b"),
        ("12:30:05, lr: 0.1", "12:30:05, lr: 0.1"),
    ],
)
def test_escape_makes_markup_literal(text: str, written: str) -> None:
    assert escape(text) == written
