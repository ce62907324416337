"""Runs whose method has groups of boxes, maps beside boxes, or terms of a given share."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.catalog import DATASETS, METRICS, DatasetEntry
from core.errors import TrainingError
from core.specs import RunSpec, parse_experiment
from core.tasks.detection.data import DetectionData
from core.tasks.detection.preflight import check_data_fits, data_warnings
from core.train import TeacherSource
from tests.core.tasks.detection.runs import messages, metrics, planned, spec, train

LEVELS = {"student_taps": ["p1", "p2"], "teacher_taps": ["p1", "p2"]}
SEPARATE = {
    "name": "dkd_align",
    "label": "separate",
    "params": {"reduction": "log", "epsilon_share": 0.1, "ramp_epochs": 0},
    "regions": {"background": "separate", "background_params": {"beta": 1.0}},
}
SHARES = {"name": "dkd", "label": "shares", "params": {"ramp_epochs": 0}, "shares": {"nckd": 0.3}, "regions": "fixed"}
MAPS = {"name": "at", "label": "maps", "params": LEVELS}
BOTH = {"name": "dkd", "label": "both", "with": [{"name": "at", "params": LEVELS}], "regions": {"background": "none"}}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TeacherSource:
    out = tmp_path_factory.mktemp("runs") / "teacher"
    run = planned("kd")["teacher"]
    assert train(run, out) == "finished"
    return TeacherSource(run, out / "weights.safetensors")


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("separate", {"train/bg_nckd", "train/bg_epsilon", "grad/bg_similarity", "grad/share_bg_align"}),
        ("shares", {"train/weight_nckd", "grad/share_nckd"}),
        ("maps", {"train/at", "train/ce"}),
        ("both", {"train/at", "train/nckd", "grad/share_at", "grad/share_nckd", "grad/share_objectness"}),
    ],
)
def test_run_reports_every_term_with_a_description(
    label: str, expected: set[str], teacher: TeacherSource, tmp_path: Path
) -> None:
    assert train(planned(SEPARATE, SHARES, MAPS, BOTH)[label], tmp_path / "run", teacher) == "finished", messages(
        tmp_path / "run"
    )
    last = metrics(tmp_path / "run")[-1]
    assert expected <= last.keys()
    assert all(value == value for value in last.values())
    assert {name for name in last if name.startswith(("train/", "grad/"))} <= set(METRICS)
    if label == "shares":
        assert last["grad/share_nckd"] == pytest.approx(30.0)


@pytest.fixture
def _folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of which only the worker knows the classes."""
    entry = DatasetEntry(name="cells", title="", summary="", target="", facts=lambda _: None, task="detection")
    monkeypatch.setitem(DATASETS._entries, "cells", entry)


def photographs(method: dict[str, Any]) -> RunSpec:
    return parse_experiment({**spec(method), "dataset": "cells"}).plan()[-1].spec


def data_of(classes: int) -> DetectionData:
    return cast(DetectionData, SimpleNamespace(num_classes=classes, largest=(64, 96), train=range(9), test=range(3)))


@pytest.mark.usefixtures("_folder")
def test_bound_of_each_group_is_compared_with_the_classes_of_a_folder() -> None:
    params = {"reduction": "sample", "epsilon": 6.0, "ramp_epochs": 0}
    regions = {"background": "separate", "background_params": {"epsilon": 2.0, "beta": 0.25}}
    run = photographs({"name": "dkd_align", "params": params, "regions": regions})
    objects, background = data_warnings(run, data_of(4))
    assert objects.startswith("method.params.epsilon: ε is beyond the stability bound C·min(α, β) = 4")
    assert background.startswith("method.regions.background_params.epsilon: for boxes without an object, ε is beyond")
    assert "= 1: " in background
    assert not [text for text in data_warnings(run, data_of(81)) if "stability bound" in text]


@pytest.mark.usefixtures("_folder")
def test_one_kind_of_object_is_refused_before_the_first_step() -> None:
    text = r"^method: dkd .* cells has 2, the background included; with beta: 0 it is TCKD alone"
    with pytest.raises(TrainingError, match=text):
        check_data_fits(photographs({"name": "dkd"}), data_of(2))
    with pytest.raises(TrainingError, match=r"^method\.with\.0: dkd .* needs at least 3 classes"):
        check_data_fits(photographs({"name": "pkd", "with": ["dkd"]}), data_of(2))
    regions = {"background": "separate", "background_params": {"beta": 1.0}}
    with pytest.raises(TrainingError, match="needs at least 3 classes"):
        check_data_fits(photographs({"name": "dkd", "params": {"beta": 0}, "regions": regions}), data_of(2))
    check_data_fits(photographs({"name": "kd"}), data_of(2))
