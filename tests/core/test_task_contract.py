"""The contract suite over the tasks of the catalog, and over a plug-in's task whose rows are tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from core.catalog import METRICS, TASKS, Metric, TaskEntry, load_plugins
from core.catalog.tasks import CLASSIFICATION
from core.specs import SpecError, parse_experiment
from core.testing_runs import metrics_of, train_interrupted
from core.testing_tasks import TaskContract
from tests.core.tasks.detection.runs import spec

TAGGING: dict[str, Any] = {
    "name": "contract",
    "dataset": {"name": "test_sentences", "params": {"val_fraction": 0.1}},
    "teacher": {
        "model": {"name": "test_tagger", "params": {"width": 16}},
        "training": {"epochs": 1, "batch_size": 8},
    },
    "student": {"model": "test_tagger"},
    "methods": ["dkd"],
    "seeds": [0],
    "training": {"epochs": 3, "batch_size": 8, "optimizer": {"lr": 0.05}},
}
HINT = {
    "name": "test_hint",
    "params": {"student_tap": "features", "teacher_tap": "features"},
    "shares": {"hint": 0.2},
    "with": ["kd"],
}
PLUGINS = ("tests.core.tagging_plugin",)


class TestClassification(TaskContract):
    experiment: ClassVar[dict[str, Any]] = {
        "name": "contract",
        "dataset": {
            "name": "synthetic",
            "params": {"num_classes": 5, "image_size": 8, "train_size": 69, "test_size": 40, "val_fraction": 0.1},
        },
        "teacher": {"model": "resnet8", "training": {"epochs": 1, "batch_size": 16}},
        "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
        "methods": ["kd"],
        "seeds": [0],
        "training": {"epochs": 3, "batch_size": 16, "optimizer": {"lr": 0.02}},
    }


class TestDetection(TaskContract):
    experiment: ClassVar[dict[str, Any]] = spec("dkd", training={"epochs": 4, "batch_size": 4})


class TestTagging(TaskContract):
    experiment = TAGGING
    plugins = PLUGINS


class TestTaggingWithALayer(TaskContract):
    experiment: ClassVar[dict[str, Any]] = TAGGING | {"methods": [HINT]}
    plugins = (*PLUGINS, "tests.core.hint_plugin")


@pytest.mark.parametrize("method", ["dot", HINT], ids=["momenta", "shares"])
def test_every_option_of_a_training_works_for_rows_that_are_no_samples(method: Any, tmp_path: Path) -> None:
    load_plugins((*PLUGINS, "tests.core.hint_plugin"))
    training = TAGGING["training"] | {
        "accumulate": 4,
        "ema": 0.8,
        "clip_grad_norm": 1.0,
        "evaluate_every": 2,
        "optimizer": {"name": "sgd", "lr": 0.05},
    }
    train_interrupted(TAGGING | {"methods": [method], "training": training}, tmp_path).check()
    values = metrics_of(tmp_path / "whole")
    assert ["test_ema/tagged" in of_epoch for of_epoch in values] == [False, True, True]
    assert values[-1]["test/tagged"] > 25, "of four tags"


def test_spec_of_a_plugins_task_is_checked() -> None:
    load_plugins(PLUGINS)
    with pytest.raises(SpecError, match="resnet8 is a network for classification"):
        parse_experiment(TAGGING | {"student": {"model": "resnet8"}})
    with pytest.raises(SpecError, match="the student test_tagger: there are no stages, only features"):
        parse_experiment(TAGGING | {"methods": ["at"]})


def entry(*metrics: Metric, **fields: Any) -> TaskEntry:
    names = {"headline": "test/own", "validation": "val/own"} | fields
    return TaskEntry(name="own", title="Own", summary="", target="", metrics=metrics, **names)


OWN = (Metric("test/own", "Own", better="higher"), Metric("val/own", "Own", better="higher"))


def test_metric_that_another_task_describes_differently_is_refused() -> None:
    with pytest.raises(ValueError, match="'own' and 'classification' describe the metric 'test/loss' differently"):
        TASKS.add(entry(*OWN, Metric("test/loss", "Own loss", better="lower")))
    assert METRICS["test/loss"] in CLASSIFICATION.metrics
    assert "own" not in TASKS


@pytest.mark.parametrize("better", ["lower", None])
def test_task_that_is_judged_by_a_lower_value_is_refused(better: Any) -> None:
    with pytest.raises(ValueError, match="of which a higher value has to be better"):
        entry(Metric("test/own", "Own error", better=better), OWN[1])
    with pytest.raises(ValueError, match="does not describe its metric 'val/own'"):
        entry(OWN[0])
