"""Methods on the levels of a pyramid and on boxes, trained together on a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from core.specs import SpecError, parse_experiment, warnings_of
from core.specs.run import RunSpec
from core.testing_ranks import run_two_ranks
from core.train import TeacherSource
from tests.core.tasks.detection.runs import messages, metrics, planned, spec, train, train_as_rank

LEVELS = {"student_tap": "stages", "teacher_tap": "stages"}
METHOD: dict[str, Any] = {
    "name": "kd",
    "label": "all",
    "with": [
        "pkd",
        "cwd",
        "fgd",
        {"name": "reviewkd", "params": {"ramp_epochs": 0, "weight": 1.0}},
        {"name": "fitnet", "params": {"weight": 1.0, "variant": "public_code"} | LEVELS},
        {"name": "mgd", "params": {"weight": 1e-5, "masked": 0.45, "mask": "positions"} | LEVELS},
        "box_l1",
        "box_bounded",
    ],
}
TERMS = ("pkd", "cwd", "fgd_fg", "fgd_bg", "fgd_attention", "fgd_global", "reviewkd", "fitnet", "mgd", "box_l1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, TeacherSource, Path]:
    """The run with all methods, its teacher, and the folder of its training by one process."""
    # The sum of so many terms is large: at a higher rate, what is rounding becomes other proposals within an epoch.
    # As would 16 bits, which some processors have in hardware.
    training = {"epochs": 1, "batch_size": 4, "optimizer": {"lr": 1e-8}, "speed": {"precision": "float32"}}
    root, runs = tmp_path_factory.mktemp("runs"), planned(METHOD, training=training)
    assert train(runs["teacher"], root / "teacher") == "finished", messages(root / "teacher")
    teacher = TeacherSource(runs["teacher"], root / "teacher" / "weights.safetensors")
    assert train(runs["all"], root / "one", teacher) == "finished", messages(root / "one")
    return runs["all"], teacher, root / "one"


def test_every_term_is_trained_on(trained: tuple[RunSpec, TeacherSource, Path]) -> None:
    last = metrics(trained[2])[-1]
    for name in (*TERMS, "box_bounded"):
        assert last[f"train/{name}"] > 0, name
        assert last[f"grad/share_{name}"] > 0, name


def test_two_ranks_train_what_one_does(trained: tuple[RunSpec, TeacherSource, Path], tmp_path: Path) -> None:
    run, teacher, out = trained
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    run_two_ranks(train_as_rank, run, str(tmp_path / "two"), teacher, str(meeting))
    first, second = metrics(out)[0], metrics(tmp_path / "two")[0]
    for name in (*TERMS, "loss"):
        assert second[f"train/{name}"] == pytest.approx(first[f"train/{name}"], rel=1e-3), name
    one, two = (safetensors.torch.load_file(folder / "weights.safetensors") for folder in (out, tmp_path / "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text: f"{name}: {text}")  # noqa: B023


def test_level_that_the_pyramid_does_not_have_is_named(
    trained: tuple[RunSpec, TeacherSource, Path], tmp_path: Path
) -> None:
    run = planned({"name": "pkd", "params": {"student_taps": ["p9"]}})["pkd"]
    assert train(run, tmp_path / "run", trained[1]) == "failed"
    assert "the detector has no level 'p9'; " in (tmp_path / "run" / "events.jsonl").read_text()


def test_defaults_for_classification_are_warned_of() -> None:
    found = {problem.path: problem.message for problem in warnings_of(parse_experiment(spec("mgd", METHOD)))}
    assert '"mask": "positions"' in found["methods.0"]
    assert "methods.1.with.0" not in found
    assert '"mid_channels": 256' in found["methods.1.with.3"]


def test_methods_on_boxes_need_a_detector_with_regions() -> None:
    retinanet = {"model": {"name": "retinanet", "params": {"backbone": "resnet8"}}}
    with pytest.raises(SpecError, match="box_l1"):
        parse_experiment(spec("box_l1", student=retinanet))
    parse_experiment(spec("fgd", student=retinanet))
