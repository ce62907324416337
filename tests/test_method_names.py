"""Only a method's own modules name it: everything else reads what it shows from the catalog."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.catalog import METHODS

ROOT = Path(__file__).parents[1]
ROOMS = ("common", "core", "backend", "worker", "client", "dashboard", "dkd_lab")

MAY_NAME_METHODS = (
    "core/distill/",
    "core/catalog/methods/",
    "core/papers/",
    "core/explain.py",  # the closed forms of one method, for the loss explorer
    "core/methods.py",  # the losses as functions for scripts
    "dkd_lab/__init__.py",  # passes the names of core.methods on
    "dashboard/charts/loss_charts.py",
    "dashboard/charts/loss_functions.py",
    "dashboard/views/loss_explorer.py",
)

ALLOWED = {
    # The program's own name.
    ("client/cli/app.py", "dkd"),
    ("client/exporters/wandb.py", "dkd"),
    ("dashboard/views/accuracy_cost.py", "dkd"),
    ("common/celery_config.py", "dkd"),
    ("common/terminal.py", "dkd"),
    ("worker/app.py", "dkd"),
    # Examples to start from, which are specs.
    ("backend/api/openapi.py", "dkd"),
    ("backend/api/openapi.py", "dkd_align"),
    ("core/specs/presets.py", "dkd"),
    ("core/specs/presets.py", "dkd_align"),
    ("core/specs/components.py", "nckd"),
    # The key of a control of the page.
    ("dashboard/views/comparison_results.py", "at"),
    # A column with a time.
    ("backend/db/access_models.py", "at"),
    ("backend/migrations/versions/0012_people_and_audit_log.py", "at"),
    # Dashes of lines.
    ("client/rendering/figures.py", "dot"),
    ("dashboard/charts/board_figures.py", "dot"),
    ("dashboard/charts/cost_chart.py", "dot"),
    ("dashboard/charts/detection_figures.py", "dot"),
    ("dashboard/charts/look_charts.py", "dot"),
    ("dashboard/charts/comparison_charts.py", "dot"),
    ("dashboard/charts/panels.py", "dot"),
    ("dashboard/theme.py", "dot"),
    # The parameter that adds a term to several methods.
    ("core/specs/labels.py", "align"),
    # Normalisation in a detector.
    ("core/catalog/detectors.py", "norm"),
    # A mode in which files are opened.
    ("client/stack/process.py", "ab"),
    ("worker/training_process.py", "ab"),
    # Spelling of abbreviations in names of parameters.
    ("dashboard/forms/schema_fields.py", "ce"),
    ("dashboard/forms/schema_fields.py", "kd"),
}

ORDINARY_WORDS = {"target", "non_target", "divergence", "epsilon", "inter", "intra", "top", "rest", "pairs", "kl"}
ORDINARY_WORDS |= {"temperature", "distance", "angle", "transport"}
"""Names of terms that are words of other things too. Their metrics, such as ``train/target``, are looked for."""


def names_of_methods() -> set[str]:
    metrics = {metric.name for entry in METHODS for metric in entry.metrics}
    terms = {name.removeprefix("train/") for name in metrics if name.startswith("train/")} - ORDINARY_WORDS
    labels = {label for entry in METHODS for label in entry.label_colors}
    return {entry.name for entry in METHODS} | metrics | terms | labels


def modules() -> Iterator[tuple[str, Path]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(MAY_NAME_METHODS):
                yield name, path


def literals(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def named() -> set[tuple[str, str]]:
    looked_for = names_of_methods()
    return {(name, text) for name, path in modules() for text in literals(path) if text in looked_for}


def test_no_other_module_names_a_method_or_its_terms() -> None:
    assert named() - ALLOWED == set()


def test_every_exception_is_needed() -> None:
    assert ALLOWED - named() == set()
    for prefix in MAY_NAME_METHODS:
        found = (ROOT / prefix).rglob("*.py") if prefix.endswith("/") else [ROOT / prefix]
        assert any(text in names_of_methods() for path in found for text in literals(path)), prefix


@pytest.mark.parametrize("name", ["dkd", "dkd_align", "tckd", "nckd", "align", "grad/similarity", "train/target"])
def test_the_names_come_from_the_catalog(name: str) -> None:
    assert name in names_of_methods()
