"""Differences over the test images in a terminal: beside the test over seeds, and named apart from it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from client.rendering.tables import new_table
from common.formatting import difference_text, difference_unit, value_text
from core.protocol.over_images import ComparedOverImages, DifferenceOverImages, MethodOverImages


def render_over_images(found: ComparedOverImages) -> RenderableType:
    """Return one row for each method over all its pairs, followed by a row for each pair."""
    unit = f" ({found.unit})" if found.unit else ""
    points = f" ({difference_unit(found.unit)})" if found.unit else ""
    value, base = f"{found.title}{unit}", found.baseline
    difference = f"difference to {base}{points}, 95 % bootstrap interval over images"
    table = new_table(
        "over the test images", "seed", value, found.baseline, difference, numbers=(value, found.baseline)
    )
    for method in found.methods:
        for seed, row in _rows(method):
            label = method.label if seed.startswith("all") or len(method.pairs) == 1 else ""
            values = (value_text(row.value, decimals=2), value_text(row.baseline, decimals=2))
            table.add_row(label, seed, *values, difference_text(row.difference, row.interval))
    sentences = [f"{method.label} against {base}: {method.sentence}" for method in found.methods]
    return Group(table, Text(), *(Text(line) for line in (*sentences, *found.notes)))


def _rows(method: MethodOverImages) -> list[tuple[str, DifferenceOverImages]]:
    pairs = [(f"{pair.seed}", pair) for pair in method.pairs]
    if method.pooled is None or len(pairs) == 1:
        return list(pairs)
    return [(f"all {len(pairs)}", method.pooled), *pairs]
