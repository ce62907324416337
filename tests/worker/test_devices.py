"""Devices and the environment of a training."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.events import GPUS_GIVEN
from worker.devices import DeviceError, Devices, find_devices, training_environment


@pytest.mark.parametrize(("variables", "cache"), [({}, "/home/of/it/cache"), ({"DKD_CACHE_DIR": "/big"}, "/big")])
def test_cache_is_in_the_home_unless_the_environment_names_another(variables: dict[str, str], cache: str) -> None:
    environment = training_environment(
        Devices(), (), threads=1, share=1, worker_id="w", cache=Path("/home/of/it/cache"), environment=variables
    )
    assert environment["DKD_CACHE_DIR"] == cache


@pytest.mark.parametrize(
    ("threads", "expected"), [(3, {"DKD_THREADS": "3"}), (None, {"DKD_MOST_THREADS": "2"})], ids=["set", "shared"]
)
def test_threads_are_fixed_or_limited(threads: int | None, expected: dict[str, str]) -> None:
    environment = training_environment(
        Devices(), (), threads=threads, share=2, worker_id="w", cache=Path("cache"), environment={}
    )
    assert {
        name: value for name, value in environment.items() if name.endswith("_THREADS") and "DKD" in name
    } == expected
    assert environment["OMP_NUM_THREADS"] == str(threads or 2)


@pytest.mark.parametrize(
    ("visible", "gpus"), [("", ()), ("-1", ()), ("0", ("0",)), ("3, 1", ("3", "1")), ("GPU-abc", ("GPU-abc",))]
)
def test_find_devices_uses_visible_gpus(visible: str, gpus: tuple[str, ...]) -> None:
    devices = find_devices("auto", {"CUDA_VISIBLE_DEVICES": visible})
    assert devices.gpus == gpus
    assert devices.kind == ("gpu" if gpus else "cpu")


def test_training_sees_only_the_gpus_of_its_slots() -> None:
    devices = find_devices("gpu", {"CUDA_VISIBLE_DEVICES": "4,GPU-b,6"})
    assert devices.environment((0,)) == {"CUDA_VISIBLE_DEVICES": "4", GPUS_GIVEN: "1"}
    assert devices.environment((1, 2)) == {"CUDA_VISIBLE_DEVICES": "GPU-b,6", GPUS_GIVEN: "2"}
    assert find_devices("cpu").environment(()) == {"CUDA_VISIBLE_DEVICES": "", GPUS_GIVEN: "0"}


def test_missing_gpu_is_refused() -> None:
    with pytest.raises(DeviceError, match="DKD_DEVICE is gpu"):
        find_devices("gpu", {"CUDA_VISIBLE_DEVICES": ""})
