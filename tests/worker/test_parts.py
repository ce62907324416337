"""Identity, settings, devices, paths, and what the worker may import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from core.events import GPUS_GIVEN
from core.protocol.worker import ArtifactRef
from tests.worker.fake import RUN, FakeBackend
from worker.attempt_folder import ClaimError, prepare
from worker.devices import DeviceError, Devices, find_devices, training_environment
from worker.identity import Identity
from worker.settings import WorkerSettings


def test_id_stays_over_restarts(tmp_path: Path) -> None:
    with Identity(tmp_path, "gpu box/1") as first:
        pass
    with Identity(tmp_path, "gpu box/1") as second:
        assert second.id == first.id
    with Identity(tmp_path, "gpu box 1") as other:
        assert other.id != first.id


def test_two_workers_of_one_name_have_two_ids(tmp_path: Path) -> None:
    with Identity(tmp_path, "box") as first, Identity(tmp_path, "box") as second:
        assert first.id != second.id
        assert (first.name, second.name) == ("box", "box-2")
    with Identity(tmp_path, "box") as again:
        assert again.id == first.id


def test_torn_id_is_made_anew(tmp_path: Path) -> None:
    with Identity(tmp_path, "box") as first:
        pass
    [file] = (tmp_path / "workers").iterdir()
    file.write_text(first.id[:10])
    with Identity(tmp_path, "box") as second:
        assert len(second.id) == 36
        assert second.id != first.id


def test_settings_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DKD_HOME": str(tmp_path),
        "DKD_SLOTS": "2",
        "DKD_THREADS": "3",
        "DKD_DEVICE": "cpu",
        "DKD_TRAINING_COMMAND": json.dumps(["train", "this"]),
        "DKD_PLUGINS": "one, two",
        "DKD_LABELS": "h200, site/cellar",
    }.items():
        monkeypatch.setenv(name, value)
    settings = WorkerSettings()
    assert settings.artifact_root == tmp_path / "artifacts"
    assert settings.broker == tmp_path / "broker"
    assert (settings.slots_on(0), settings.threads) == (2, 3)
    assert settings.labels == ("h200", "site/cellar")
    assert settings.training_command == ("train", "this")
    assert settings.plugins == ("one", "two")


def test_wrong_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKD_SLOTS", "0")
    with pytest.raises(ValidationError, match="slots"):
        WorkerSettings()


@pytest.mark.parametrize(("given", "cache"), [({}, "/home/of/it/cache"), ({"DKD_CACHE_DIR": "/big"}, "/big")])
def test_trainings_keep_what_they_can_make_again_in_the_home(given: dict[str, str], cache: str) -> None:
    found = training_environment(
        Devices(), (), threads=1, share=1, worker_id="w", cache=Path("/home/of/it/cache"), environment=given
    )
    assert found["DKD_CACHE_DIR"] == cache


@pytest.mark.parametrize(
    ("threads", "said"), [(3, {"DKD_THREADS": "3"}), (None, {"DKD_MOST_THREADS": "2"})], ids=["set", "shared out"]
)
def test_a_training_is_given_its_threads_or_the_most_that_it_may_take(
    threads: int | None, said: dict[str, str]
) -> None:
    found = training_environment(
        Devices(), (), threads=threads, share=2, worker_id="w", cache=Path("cache"), environment={}
    )
    assert {name: value for name, value in found.items() if name.endswith("_THREADS") and "DKD" in name} == said
    assert found["OMP_NUM_THREADS"] == str(threads or 2)


def test_slots_share_the_cores_out() -> None:
    settings, cores = WorkerSettings(), len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    assert settings.threads_share(1) == cores
    assert settings.threads_share(cores + 1) == 1, "each has one at least"


@pytest.mark.parametrize(
    ("visible", "gpus"), [("", ()), ("-1", ()), ("0", ("0",)), ("3, 1", ("3", "1")), ("GPU-abc", ("GPU-abc",))]
)
def test_gpus_are_those_made_visible(visible: str, gpus: tuple[str, ...]) -> None:
    devices = find_devices("auto", {"CUDA_VISIBLE_DEVICES": visible})
    assert devices.gpus == gpus
    assert devices.kind == ("gpu" if gpus else "cpu")


def test_a_training_sees_the_gpus_of_its_slots() -> None:
    devices = find_devices("gpu", {"CUDA_VISIBLE_DEVICES": "4,GPU-b,6"})
    assert devices.environment((0,)) == {"CUDA_VISIBLE_DEVICES": "4", GPUS_GIVEN: "1"}
    assert devices.environment((1, 2)) == {"CUDA_VISIBLE_DEVICES": "GPU-b,6", GPUS_GIVEN: "2"}
    assert find_devices("cpu").environment(()) == {"CUDA_VISIBLE_DEVICES": "", GPUS_GIVEN: "0"}


@pytest.mark.parametrize(
    ("settings", "gpus", "slots"),
    [
        ({}, 0, 1),
        ({"DKD_CPU_SLOTS": "5"}, 0, 5),
        ({"DKD_CPU_SLOTS": "5"}, 4, 4),
        ({"DKD_RUNS_PER_GPU": "3"}, 2, 6),
        ({"DKD_SLOTS": "3"}, 4, 3),
    ],
)
def test_slots_of_a_machine(settings: dict[str, str], gpus: int, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert WorkerSettings().slots_on(gpus) == slots


def test_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(DeviceError, match="DKD_DEVICE is gpu"):
        find_devices("gpu", {"CUDA_VISIBLE_DEVICES": ""})


@pytest.mark.parametrize("what", ["folder", "teacher", "checkpoint"])
@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "runs/../../outside", "link/outside", ".", "", "a\0b"])
def test_path_out_of_the_store_is_refused(tmp_path: Path, what: str, path: str) -> None:
    root = tmp_path / "store"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    (tmp_path / "outside").write_bytes(b"not ours")
    parts: dict[str, object] = {
        "folder": {"folder": path},
        "teacher": {"teacher": ArtifactRef(path=path), "teacher_spec": RUN},
        "checkpoint": {"checkpoint": ArtifactRef(path=path)},
    }[what]  # type: ignore[assignment]
    claim = FakeBackend().add(**parts)  # type: ignore[arg-type]
    with pytest.raises(ClaimError, match=r"leads out of the artifact store|cannot be used"):
        prepare(root, claim)
    assert list(root.iterdir()) == [root / "link"]


def test_worker_is_free_of_torch() -> None:
    code = "import sys, worker.__main__; print([name for name in sys.modules if name.split('.')[0] == 'torch'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
