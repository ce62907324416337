import io
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image

from core.items.detection_file import read_detections
from core.items.detection_table import DETECTIONS_NAME
from core.items.picture_choice import PICTURES_NAME
from core.items.pictures import read_pictures
from core.specs import ModelRef, RunSpec
from core.testing_ranks import run_two_ranks
from core.train import TeacherSource
from core.train.checkpoint import CHECKPOINT_NAME
from core.weights.metadata import read_metadata
from tests.core.tasks.detection.runs import IMAGES, detector, messages, metrics, planned, small, train, train_as_rank

FIXED: dict[str, Any] = {"name": "dkd", "label": "fixed", "regions": {"boxes": "fixed", "fixed_count": 16}}
METHODS = (
    "ce",
    {"name": "dkd", "label": "student"},
    {"name": "kd", "label": "proposals", "regions": "teacher"},
    {"name": "dkd_align", "label": "union", "params": {"reduction": "log", "epsilon": 1.0}, "regions": "union"},
    FIXED,
    {"name": "pkd", "label": "maps", "with": [{"name": "dkd", "shares": {"nckd": 0.3}}, "box_l1"]},
    {"name": "fgd", "label": "objects", "params": {"student_taps": ["p1", "p3"], "teacher_taps": ["p1", "p3"]}},
)
TERMS = {"objectness", "rpn_box", "box"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TeacherSource:
    out = tmp_path_factory.mktemp("runs") / "teacher"
    run = planned("kd")["teacher"]
    assert train(run, out) == "finished"
    return TeacherSource(run, out / "weights.safetensors")


@pytest.mark.parametrize("label", ["ce", "student", "proposals", "union", "fixed", "maps", "objects"])
def test_run_stopped_within_an_epoch_continues_bit_for_bit(label: str, teacher: TeacherSource, tmp_path: Path) -> None:
    run = planned(*METHODS)[label]
    assert train(run, tmp_path / "whole", teacher) == "finished", messages(tmp_path / "whole")
    polls = iter(range(100))
    # In the second epoch of three steps.
    assert train(run, tmp_path / "half", teacher, stop_requested=lambda: next(polls) == 4) == "stopped"
    assert train(run, tmp_path / "rest", teacher, tmp_path / "half" / CHECKPOINT_NAME) == "finished"
    whole, rest = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "rest"))
    assert whole == rest
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "rest")


def test_training_reports_its_own_terms_and_average_precision(teacher: TeacherSource, tmp_path: Path) -> None:
    assert train(planned(*METHODS)["student"], tmp_path / "run", teacher) == "finished"
    assert "the teacher runs in every step" in messages(tmp_path / "run")
    last = metrics(tmp_path / "run")[-1]
    assert {f"train/{name}" for name in (*TERMS, "ce", "tckd", "nckd", "loss")} <= last.keys()
    assert {"test/ap", "test/ap50", "oracle/ap", "train/region_top1", "fidelity/regions"} <= last.keys()
    table = read_detections(tmp_path / "run" / DETECTIONS_NAME)
    assert table.images == IMAGES["test_size"]
    assert table.scores["student"]["ap"] == pytest.approx(last["test/ap"])
    assert table.scores["teacher"]["ap"] == pytest.approx(last["test/ap_teacher"])
    pictures = read_pictures(tmp_path / "run" / PICTURES_NAME)
    assert list(pictures) == list(range(IMAGES["test_size"]))
    with Image.open(io.BytesIO(pictures[0])) as picture:
        assert picture.size == (64, 64)
    parts = sum(last[f"train/{name}"] for name in TERMS)
    assert last["train/loss"] > parts > 0


def test_kept_outputs_of_fixed_boxes_give_the_numbers_of_the_network(teacher: TeacherSource, tmp_path: Path) -> None:
    run = planned(FIXED)["fixed"]
    assert train(run, tmp_path / "first", teacher) == "finished"
    assert train(run, tmp_path / "second", teacher) == "finished"
    assert "epochs are there" in messages(tmp_path / "first")
    first, second = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second
    speeds = [Path(tmp_path / name / "events.jsonl").read_text() for name in ("first", "second")]
    assert '"speed/teacher_reused":100.0' not in speeds[0]
    assert '"speed/teacher_reused":100.0' in speeds[1]


def test_kept_outputs_of_fixed_boxes_are_read_by_methods_with_another_background(
    teacher: TeacherSource, tmp_path: Path
) -> None:
    assert train(planned(FIXED)["fixed"], tmp_path / "first", teacher) == "finished"
    apart = {"background": "separate", "background_params": {"beta": 0.5}}
    for name, background in (("none", {"background": "none"}), ("apart", apart)):
        run = planned({**FIXED, "regions": FIXED["regions"] | background})["fixed"]
        assert train(run, tmp_path / name, teacher) == "finished"
        assert '"speed/teacher_reused":100.0' in (tmp_path / name / "events.jsonl").read_text()


# Kept logits are rounded to float16: where a sum of another order falls on the other side, they move by 1e-3. The rate
# is low, because at 0.005 eight steps multiply what sums of another order round by a thousand; and 16 bits, which some
# processors have in hardware, would round more than that.
@pytest.mark.parametrize(
    ("label", "tolerance"), [("ce", 5e-5), ("union", 5e-5), ("fixed", 1e-3), ("maps", 5e-5), ("objects", 5e-5)]
)
def test_two_ranks_train_what_one_does(label: str, tolerance: float, teacher: TeacherSource, tmp_path: Path) -> None:
    exact = {"precision": "float32"}
    training = {"epochs": 2, "batch_size": 4, "optimizer": {"lr": 0.001}, "speed": exact}
    run = planned(*METHODS, training=training)[label]
    assert train(run, tmp_path / "one", teacher) == "finished"
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    run_two_ranks(train_as_rank, run, str(tmp_path / "two"), teacher, str(meeting))
    one, two = (safetensors.torch.load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=tolerance, msg=lambda text: f"{name}: {text}")  # noqa: B023
    first, second = metrics(tmp_path / "one")[0], metrics(tmp_path / "two")[0]
    for name in ("train/loss", "train/ce", "train/objectness", "train/box"):
        assert second[name] == pytest.approx(first[name], rel=1e-3), name


def test_anchors_of_an_ssd_are_compared_with_those_of_its_teacher(tmp_path: Path) -> None:
    networks = {"teacher": {"model": small("ssd", "resnet14")}, "student": {"model": small("ssd", "resnet8")}}
    runs = planned("dkd", **networks)
    assert train(runs["teacher"], tmp_path / "teacher") == "finished", messages(tmp_path / "teacher")
    source = TeacherSource(runs["teacher"], tmp_path / "teacher" / "weights.safetensors")
    assert train(runs["dkd"], tmp_path / "dkd", source) == "finished", messages(tmp_path / "dkd")
    last = metrics(tmp_path / "dkd")[-1]
    assert {"train/ce", "train/tckd", "train/nckd", "train/box"} <= last.keys()
    assert last["train/nckd"] > 0


def test_teacher_whose_backbone_gives_other_anchors_is_refused_before_the_first_step(tmp_path: Path) -> None:
    teacher = {"model": small("ssd", "resnet14", stem_stride=1)}
    runs = planned("dkd", teacher=teacher, student={"model": small("ssd", "resnet8")})
    assert train(runs["teacher"], tmp_path / "teacher") == "finished", messages(tmp_path / "teacher")
    source = TeacherSource(runs["teacher"], tmp_path / "teacher" / "weights.safetensors")
    assert train(runs["dkd"], tmp_path / "dkd", source) == "failed"
    assert "dkd compares logits of anchors, and in images of 64×64 pixels ssd has" in messages(tmp_path / "dkd")
    assert not metrics(tmp_path / "dkd")


def test_detector_without_logits_of_regions_is_trained_by_its_own_loss(tmp_path: Path) -> None:
    run = planned("ce", student={"model": small("retinanet", "resnet8", fpn_channels=16)})["ce"]
    assert train(run, tmp_path / "run") == "finished", messages(tmp_path / "run")
    last = metrics(tmp_path / "run")[-1]
    assert last["train/ce"] == 0
    assert last["train/loss"] == pytest.approx(last["train/classification"] + last["train/box"], rel=1e-5)


def supplied(teacher: TeacherSource, tmp_path: Path, **choice: Any) -> RunSpec:
    """Return the run of a teacher whose weights are a file below DATA_DIR."""
    folder = tmp_path / "data"
    folder.mkdir()
    torch.save(safetensors.torch.load_file(teacher.weights), folder / "detector.pth")
    weights = {"source": "detector.pth", **choice}
    networks = {"teacher": {"model": detector("resnet14"), "weights": weights, "training": {"epochs": 1}}}
    return planned("dkd", **networks)["teacher"]


def test_supplied_weights_are_tested_and_handed_out_unchanged(teacher: TeacherSource, tmp_path: Path) -> None:
    run = supplied(teacher, tmp_path)
    assert train(run, tmp_path / "run") == "finished", messages(tmp_path / "run")
    before, after = (
        safetensors.torch.load_file(path) for path in (teacher.weights, tmp_path / "run/weights.safetensors")
    )
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    assert all(name.endswith("num_batches_tracked") for name in changed)
    assert metrics(tmp_path / "run")[-1]["test/ap"] == pytest.approx(metrics(teacher.weights.parent)[-1]["test/ap"])
    assert read_metadata(tmp_path / "run/weights.safetensors").classes == tuple("0123456789")


def test_supplied_weights_can_be_trained_on(teacher: TeacherSource, tmp_path: Path) -> None:
    run = supplied(teacher, tmp_path, fine_tune=True)
    assert train(run, tmp_path / "run") == "finished", messages(tmp_path / "run")
    assert metrics(tmp_path / "run")[0]["train/loss"] < metrics(teacher.weights.parent)[0]["train/loss"]


def test_supplied_weights_of_another_network_are_refused(teacher: TeacherSource, tmp_path: Path) -> None:
    run = supplied(teacher, tmp_path)
    wrong = run.model_copy(update={"model": ModelRef(**detector("resnet20"))})
    assert train(wrong, tmp_path / "run") == "failed"
    assert "the teacher's weights: detector.pth: the weights do not match the network" in messages(tmp_path / "run")
