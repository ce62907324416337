"""The command: simulates, prints and stores the tables."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks.sequential.campaigns import NOISES, RULE, SPREAD, measure, measure_family
from benchmarks.sequential.races import SETTINGS, measure_race
from benchmarks.sequential.tables import percent, report, widths
from common.sequential import spending

RESULTS = Path(__file__).parents[1] / "results"
FREQUENT = ("normal", "t, 3 degrees of freedom")
"""Noise of the rows with all campaigns; the others have a tenth."""
_RHOS = (1.0, 1.5, 2.0, 3.0)


@contextmanager
def exponent(rho: float) -> Iterator[None]:
    """Use another exponent of the spending function for the duration of the block."""
    before = spending.RHO
    spending.RHO = rho
    try:
        yield
    finally:
        spending.RHO = before


def main(arguments: Sequence[str] = ()) -> None:
    """Run the simulation and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks sequential", description=_DESCRIPTION)
    parser.add_argument("--campaigns", type=int, default=100_000, metavar="N", help="campaigns a row; default: 100000")
    parser.add_argument("--families", type=int, default=2_000, metavar="N", help="experiments a row; default: 2000")
    parser.add_argument("--write", action="store_true", help="store the tables in benchmarks/results")
    options = parser.parse_args(arguments)
    whole = RULE.difference
    rows = []
    effects = (0.0, whole / 2, whole)
    for name in FREQUENT:
        for effect in effects:
            rows.append(measure(name, effect, SPREAD, options.campaigns))
            _progress(f"{name}, {effect:g}: false {percent(rows[-1].false)}, {rows[-1].seeds:.1f} seeds")
    fewer = max(1, options.campaigns // 10)
    others = [("normal", spread) for spread in (0.2, 1.0)] + [(name, SPREAD) for name in NOISES if name not in FREQUENT]
    spreads = [measure(name, effect, spread, fewer) for name, spread in others for effect in effects]
    _progress("spreads measured")
    families = [
        measure_family(name, effects, options.families)
        for name in NOISES
        for effects in ((0.0, 0.0, 0.0), (0.0, 0.0, 2 * whole), (whole, whole, whole))
    ]
    _progress("families measured")
    races = [measure_race(name, settings, options.families) for name in NOISES for settings in SETTINGS]
    _progress("races measured")
    rhos = {}
    for rho in _RHOS:
        with exponent(rho):
            rhos[rho] = [measure("normal", effect, SPREAD, fewer) for effect in (*effects, 2 * whole)]
    text = report(rows, spreads, families, races, rhos)
    print(text)
    if options.write:
        (RESULTS / "sequential.md").write_text(text, encoding="utf-8")
        record = {
            "rule": asdict(RULE),
            "rows": [asdict(row) for row in rows],
            "spreads": [asdict(row) for row in spreads],
            "families": [asdict(item) for item in families],
            "races": [asdict(item) for item in races],
            "widths": widths(),
            "exponents": {f"{rho:g}": [asdict(row) for row in measured] for rho, measured in rhos.items()},
        }
        (RESULTS / "sequential.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


_DESCRIPTION = "Simulate campaigns that add seeds until a comparison is decided."


def _progress(text: str) -> None:
    print(text, flush=True)
