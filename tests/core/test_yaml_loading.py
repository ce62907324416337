"""The size of what a YAML text expands to is bounded before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.specs import MAX_CHARACTERS, SpecError, load_file, load_text


def _laughs(levels: int, item: str = "[{}]", first: str = "lol") -> str:
    further = (f"a{at}: &a{at} {item.format(','.join([f'*a{at - 1}'] * 10))}" for at in range(1, levels + 1))
    return "\n".join([f"a0: &a0 {first}", *further])


@pytest.mark.parametrize(
    "text",
    [
        _laughs(6),
        _laughs(30),
        _laughs(9, item="{{<<: [{}]}}", first="{x: 1}"),
        "a: &a [*a]",
        "a: &a {b: {c: *a}}",
        "? &a [*a]\n: 1",
    ],
    ids=["six", "thirty", "merges", "itself", "itself within", "itself as a key"],
)
def test_aliases_that_expand_to_too_many_values_are_refused(text: str) -> None:
    assert len(text) < 3000
    with pytest.raises(SpecError, match=r"at line \d+, column \d+: more than 100,000 values"):
        load_text(text)


def test_ordinary_aliases_are_read() -> None:
    text = "base: &base {epochs: 3, lr: 0.1}\ntraining: {<<: *base, lr: 0.2}\nmethods: [&m dkd, *m]\n"
    loaded = load_text(text)
    assert loaded["training"] == {"epochs": 3, "lr": 0.2}
    assert loaded["methods"] == ["dkd", "dkd"]


def test_text_or_number_that_is_too_long_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("#" * (MAX_CHARACTERS + 1))
    with pytest.raises(SpecError, match="at most 1,048,576"):
        load_text("#" * (MAX_CHARACTERS + 1))
    with pytest.raises(SpecError, match="at most 1,048,576"):
        load_file(file)
    with pytest.raises(SpecError, match="too many digits"):
        load_text(f"a: {'1' * 50_000}")
    sixties = f"1{':1' * 50_000}"  # a number of base 60 in YAML 1.1, whose time grew with the square of its length
    assert load_text(f"a: {sixties}") == {"a": sixties}
