"""docs/methods.md is what the catalog, the losses and the measurements give."""

from __future__ import annotations

import pytest

from core.catalog import METHODS, MethodEntry
from docs import build_methods

OWN = [entry for entry in METHODS if entry.target.startswith("core.")]


def test_page_is_up_to_date() -> None:
    assert build_methods.PAGE.read_text(encoding="utf-8") == build_methods.page(), (
        "run: python -m docs.build_methods, and commit docs/methods.md"
    )


def test_every_method_has_a_section() -> None:
    headings = [line.removeprefix("### ") for line in build_methods.page().splitlines() if line.startswith("### ")]
    assert sorted(headings) == sorted(entry.title for entry in OWN)


@pytest.mark.parametrize("entry", build_methods.with_variants(OWN), ids=lambda entry: entry.name)
def test_difference_of_the_variants_is_measured_and_described(entry: MethodEntry) -> None:
    paper, code = build_methods.variants_of(entry)
    (row,) = [line for line in build_methods.page().splitlines() if line.startswith(f"| [{entry.title}](")]
    cells = [cell.strip() for cell in row.split(" | ")]
    assert paper.split("|")[0] in cells[1]
    assert code.split("|")[0] in cells[2]
    float(cells[3])
    float(cells[4].rstrip(" |"))


@pytest.mark.parametrize("entry", OWN, ids=lambda entry: entry.name)
def test_entry_says_source_and_cost(entry: MethodEntry) -> None:
    assert entry.cost
    assert entry.source or entry.name in ("ce", "dkd_divergence")
