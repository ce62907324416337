"""Bounds of external input: JSON, and texts that people write."""

from __future__ import annotations

from typing import Any

import pytest

from common.input_bounds import BoundsError, JsonBounds, check_data, read_json
from core.specs.text_rules import invisible_character, require_visible


def test_json_within_bounds_is_read_unchanged() -> None:
    raw = b'{"a": [1, -9223372036854775808, 9223372036854775807, 1e308, true, null], "b": {"c": "\xc3\xa9"}}'
    assert read_json(raw) == {"a": [1, -(2**63), 2**63 - 1, 1e308, True, None], "b": {"c": "é"}}


@pytest.mark.parametrize(
    ("raw", "path", "message"),
    [
        (b'{"a": {"b": [1, 9223372036854775808]}}', "a.b.1", "beyond 64 bits"),
        (b'{"a": -' + b"9" * 400 + b"}", "a", "beyond 64 bits"),
        (b"[" + b"9" * 10_000 + b"]", "", "more than 4300 digits"),
        (b'{"a": [1e400]}', "a.0", "range of a double"),
        (b'{"a": NaN}', "", "not a JSON number"),
        (b'{"a": "\\ud800"}', "a", "not text"),
        (b'{"a": "x\\u0000"}', "a", "not text"),
        (b'{"a": {"b\\udfff": 1}}', "a", "name contains"),
        (b'{"a": 1, "b": 2, "a": 3}', "", "'a' is given twice"),
        (b"{", "", "not JSON"),
        (b"", "", "not JSON"),
        (b"\xff", "", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "", "byte order mark"),
        (b'{"a": ' + b"[" * 33 + b"]" * 33 + b"}", "a.0.0.0.0.0.0", "more than 32 levels"),
        (b"[" * 100_000, "", "more than 32 levels"),
        (b'{"a":' * 100_000, "", "more than 32 levels"),
        (b'{"a": [' + b"0," * 10_000 + b"0]}", "a", "10001 entries; at most 10000"),
        (b"[" + b",".join([b"[" + b",".join([b"0"] * 11) + b"]"] * 10_000) + b"]", "", "more than 100000 values"),
    ],
)
def test_json_beyond_a_bound_is_refused_with_its_path(raw: bytes, path: str, message: str) -> None:
    with pytest.raises(BoundsError, match=message) as refused:
        read_json(raw)
    assert refused.value.path == path
    assert len(refused.value.message) < 200


def test_cyclic_or_shared_data_is_bounded() -> None:
    """As YAML's aliases make it."""
    shared: Any = ["x"]
    for _ in range(20):
        shared = [shared] * 10
    with pytest.raises(BoundsError, match="values"):
        check_data(shared)
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(BoundsError, match="levels"):
        check_data(endless)
    check_data({"a": 1}, JsonBounds(depth=1, values=3, items=1))


SEEN = [
    "a b", "ünï", "日本語", "नमस्ते", "क्\u200dष", "می\u200cخواهم", "👨\u200d👩\u200d👧", "❤\ufe0f", "1\ufe0f\u20e3",
    "Việt", "αβ 2.0 (log)", "שָּׁלוֹם", "👍🏽", "🇩🇪", "👁\ufe0f\u200d🗨\ufe0f",
]  # fmt: skip
UNSEEN = [
    "\x00", "a\x1b[31m", "a\x85b", "a\u00adb", "a\u034fb", "\u061c", "a\u115f", "\u1160", "\u17b4", "a\u180e",
    "a\u200b", "a\u200cb", "a\u200db", "\u200d", "👨\u200d", "\u202ea", "\u2060", "\u2800", "a\u3164", "a\ufe0f",
    "x\ufe00", "a\U000e0100", "❤\ufe0f\ufe0f", "\ufeff", "\uffa0", "\ufffc", "\uffff", "\ufdd0", "\U0001ffff",
    "\ud800", "\ue000",
    "\U000f0000", "\U0001d159", "\U000e0041", "a\u2028b", "e" + "\u0301" * 90, "\u0301a", "a \u0301", "a\u00a0b",
    "a\u2009b", "a\u202fb", "日\u3000本",
]  # fmt: skip


@pytest.mark.parametrize("text", SEEN)
def test_visible_text_is_accepted(text: str) -> None:
    assert require_visible(require_visible(text)) == require_visible(text)
    assert invisible_character(require_visible(text)) is None


@pytest.mark.parametrize("text", UNSEEN)
def test_invisible_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"U\+[0-9A-F]{4,6}|marks"):
        require_visible(text)


def test_equivalent_spellings_are_normalised() -> None:
    assert require_visible("re\u0301sume\u0301") == require_visible("résumé") == "résumé"
    assert require_visible("\u212b") == require_visible("A\u030a") == "Å"


def test_multiline_text_may_contain_lines_and_any_space() -> None:
    assert require_visible("two\nlines,\ta tab and 10\u202f%", lines=True) == "two\nlines,\ta tab and 10\u202f%"
    with pytest.raises(ValueError, match=r"U\+001B"):
        require_visible("two\nlines\x1b", lines=True)


def test_long_sequence_of_marks_is_refused_before_normalisation() -> None:
    with pytest.raises(ValueError, match="too long"):
        require_visible("a" + "\u0301\u0323" * 200_000)
