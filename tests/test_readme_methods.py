"""README lists the methods of the catalog."""

from __future__ import annotations

import re
from pathlib import Path

from core.catalog import METHODS

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_table_of_families_has_every_method_once() -> None:
    (table,) = re.findall(r"\| family \| methods \|\n\|---\|---\|\n((?:\|.*\n)+)", README)
    listed = [title for row in table.splitlines() for title in row.split("|")[2].strip().split(", ")]
    # Without the methods of plug-ins, which other tests may have loaded into this process.
    assert sorted(listed) == sorted(entry.title for entry in METHODS if entry.target.startswith("core."))
