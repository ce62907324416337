"""An experiment of 30 methods and 3 seeds, for pages that show many methods.

Most of the methods are entries of the catalog that cannot be trained. As a program it serves the finished experiment
until it is stopped: ``python -m tests.dashboard.many_methods --port 8124``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

from pydantic import Field

from core.catalog import METHODS, MethodEntry, Metric
from core.catalog.methods.entry import Family
from core.catalog.methods.shared import CE_TERM
from core.catalog.registry import Params
from core.catalog.taps import Taps
from tests.dashboard.fakes import FakeBackend, FakeServer, digits_spec

_KEPT = ("ce", "kd", "dkd", "dkd_align", "dist", "nkd", "rld")
"""Methods of the catalog that are among the 30."""
_OTHERS: dict[Family, tuple[str, ...]] = {
    "logits": ("ctkd", "mlkd", "wkd_l", "skd"),
    "decoupled": ("gdkd", "deepkd"),
    "features": ("fitnet", "at", "vid", "ofd", "reviewkd", "srrl", "norm"),
    "relations": ("rkd", "sp", "cc", "pkt"),
    "contrastive": ("crd",),
    "two_stage": ("ab", "ft", "fsp"),
    "several_networks": ("dml",),
}
_ALIGN = {"name": "dkd_align", "params": {"reduction": "log", "epsilon": 6.0}}
_WARM = {"name": "kd", "label": "kd, T = 8", "params": {"temperature": 8.0}}
LABELS = (
    *(name for name in _KEPT if name != "dkd_align"),
    *(name for names in _OTHERS.values() for name in names),
    "dkd_align (log)",
    "kd, T = 8",
)
"""Labels of the methods: 30, of which two belong to one method."""


class MapParams(Params):
    """Parameters of a method that reads maps."""

    student_taps: tuple[str, ...] = Field(("stages",), description="Layers of the student.")
    teacher_taps: tuple[str, ...] = Field(("stages",), description="Layers of the teacher, from shallow to deep.")
    weight: float = Field(1.0, ge=0, description="Weight of the distance of the maps.")
    level_weights: tuple[float, ...] = Field((), description="Weights of the pairs of layers; empty: equal weights.")


class HintParams(Params):
    """Parameters of a method that reads one layer of each network."""

    student_tap: str = Field("stage1", description="Layer of the student.")
    teacher_tap: str = Field("stage2:preact", description="Layer of the teacher.")
    weight: float = Field(100.0, ge=0, description="Weight of the hint.")


def _maps(params: MapParams) -> Taps:
    return Taps(params.student_taps, params.teacher_taps)


def _hint(params: HintParams) -> Taps:
    return Taps((params.student_tap,), (params.teacher_tap,))


def _entry(name: str, family: Family) -> MethodEntry:
    term = Metric(f"train/{name}", f"Distance of {name.upper()}, unweighted", panel=f"Terms of {name.upper()}")
    entry = MethodEntry(
        name=name,
        title=name.upper(),
        summary=f"A method of the family {family}.",
        target="",
        family=family,
        source="Somebody et al., 2020",
        cost="One more layer.",
        metrics=(CE_TERM, term),
    )
    if family != "features":
        return entry
    weighted = replace(entry, weight_params={name: "weight"})
    if name == "fitnet":
        return replace(weighted, params=HintParams, taps=_hint)
    return replace(weighted, params=MapParams, taps=_maps)


@contextmanager
def many_methods() -> Iterator[FakeBackend]:
    """Yield a backend with a finished experiment of 30 methods, whose entries are the catalog until the end."""
    kept = {name: METHODS[name] for name in _KEPT}
    others = {name: _entry(name, family) for family, names in _OTHERS.items() for name in names}
    with mock.patch.object(METHODS, "_entries", kept | others):
        backend = FakeBackend()
        backend.submit(
            digits_spec(
                name="thirty-methods",
                methods=[*LABELS[:-2], _ALIGN, _WARM],
            )
        )
        for run in list(backend.runs.values()):
            backend.advance(run.id, 30)
        yield backend


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8124)
    with many_methods() as backend, FakeServer(backend, parser.parse_args().port):
        while True:
            time.sleep(1)


if __name__ == "__main__":
    main()
