"""What a training measures of its machine, with a fake driver and fake counters."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from core.catalog import METRICS
from core.catalog.machine import CPU_ENERGY, GPU_ENERGY, MACHINE
from core.catalog.metric import VARYING_PREFIXES
from core.events import JOURNAL_NAME, Log, Metrics, read_journal
from core.machine import sampler as sampler_module
from core.machine.counters import MachineCounters, ProcessorEnergy
from core.machine.gpus import Gpus, GpuState, gauges, joules_between
from core.machine.sampler import MachineSampler, open_sampler
from core.settings import TrainingSettings
from core.train import TrainOptions, machine_report, run_training
from core.train.checkpoint import CHECKPOINT_NAME
from core.train.job import Job
from core.train.machine_report import POINTS_UNTHINNED, MachineReport
from tests.core.teacher_experiments import experiment


class NVMLError(Exception):
    """The driver refuses."""


class Driver:
    """NVML with the GPUs of the test: watts, and joules of a counter that not every GPU has."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, gpus: dict[str, dict[str, Any]], denied: str = "") -> None:
        self.gpus, self._denied = gpus, denied

    def nvmlInit(self) -> None:
        if self._denied:
            raise NVMLError(self._denied)

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:
        if name not in self.gpus:
            raise NVMLError("Not Found")
        return name

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return list(self.gpus)[index]

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return SimpleNamespace(gpu=self._value(handle, "use"))

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return SimpleNamespace(used=self._value(handle, "memory"))

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return int(1000 * self._value(handle, "watts"))

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return int(self._value(handle, "degrees"))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return int(1000 * self._value(handle, "joules"))

    def nvmlDeviceGetMigMode(self, handle: str) -> tuple[int, int]:
        return int(self._value(handle, "parts")), 0

    def _value(self, handle: str, name: str) -> float:
        if name not in self.gpus[handle]:
            raise NVMLError("Not Supported")
        return float(self.gpus[handle][name])


class Counters:
    """Counters of processes and machine that the test sets."""

    def __init__(self) -> None:
        self.seconds_used = 0.0
        self.failing = False

    def totals(self) -> dict[str, float]:
        if self.failing:
            raise RuntimeError("the library is broken")
        return {"machine/cpu_use": 100 * self.seconds_used}

    def gauges(self) -> dict[str, float]:
        return {"machine/memory_use": 40.0}


class Stand:
    """A sampler whose clock, counters and GPUs the test moves."""

    def __init__(self, *gpus: dict[str, Any]) -> None:
        self.time = 100.0
        self.counters = Counters()
        self.driver = Driver({f"GPU-{index}": values for index, values in enumerate(gpus)})
        found = Gpus(self.driver, list(self.driver.gpus)) if gpus else None
        self.sampler = MachineSampler(self.counters, found, period=1e6, now=lambda: self.time)  # type: ignore[arg-type]
        self.sampler.start()

    def step(self, seconds: float, *, used: float = 0.0) -> None:
        self.time += seconds
        self.counters.seconds_used += used
        for gpu in self.driver.gpus.values():
            if "joules" in gpu:
                gpu["joules"] += gpu["watts"] * seconds
        self.sampler.sample()


FULL = {"use": 90, "memory": 8e9, "watts": 360.0, "degrees": 60, "joules": 5000.0}


class TestMachineSampler:
    def test_values_are_means_weighted_by_time(self) -> None:
        stand = Stand()
        stand.step(10, used=10)
        stand.step(30)
        values = stand.sampler.take()
        assert values == {"machine/cpu_use": pytest.approx(25.0), "machine/memory_use": pytest.approx(40.0)}

    def test_values_are_taken_once(self) -> None:
        stand = Stand()
        stand.step(10)
        assert stand.sampler.take()
        assert stand.sampler.take() == {}

    def test_energy_is_that_of_the_counter_and_goes_on(self) -> None:
        stand = Stand(dict(FULL))
        stand.sampler.energy = {GPU_ENERGY: 1.0}
        stand.step(10)
        assert stand.sampler.take()[GPU_ENERGY] == pytest.approx(2.0)  # 360 W for 10 s are 1 Wh
        stand.step(20)
        assert stand.sampler.take()[GPU_ENERGY] == pytest.approx(4.0)

    def test_energy_without_a_counter_is_integrated_from_power(self) -> None:
        stand = Stand({"watts": 100.0})
        stand.driver.gpus["GPU-0"]["watts"] = 620.0
        stand.step(10)
        assert stand.sampler.take()[GPU_ENERGY] == pytest.approx(1.0)  # 360 W on average

    def test_no_energy_is_claimed_if_one_gpu_does_not_report_it(self) -> None:
        stand = Stand(dict(FULL), {"use": 10, "memory": 2e9})
        stand.step(10)
        values = stand.sampler.take()
        assert GPU_ENERGY not in values
        assert "machine/gpu_power" not in values
        assert [values["machine/gpu_use"], values["machine/gpu_memory"]] == pytest.approx([50.0, 10.0])

    def test_failing_reading_ends_the_sampling_and_raises_nothing(self) -> None:
        stand = Stand()
        stand.counters.failing = True
        stand.step(10)
        assert stand.sampler.problem == "RuntimeError: the library is broken"
        assert stand.sampler.take() == {}

    def test_last_reading_covers_the_time_since_the_one_before(self) -> None:
        stand = Stand()
        stand.time += 4
        stand.counters.seconds_used += 2
        stand.sampler.stop()
        assert stand.sampler.take()["machine/cpu_use"] == pytest.approx(50.0)

    def test_training_does_not_wait_for_a_reading_that_hangs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sampler_module, "_STOP_SECONDS", 0.01)
        release, reading = threading.Event(), threading.Event()
        stand = Stand()

        def hang() -> dict[str, float]:
            reading.set()
            release.wait(60)
            return {}

        sampler = MachineSampler(stand.counters, period=0.0)  # type: ignore[arg-type]
        sampler.start()
        stand.counters.gauges = hang  # type: ignore[method-assign]
        assert reading.wait(60)
        assert sampler.take() == {}
        sampler.stop()
        assert sampler.problem == "a reading of the machine did not return"
        release.set()

    def test_every_metric_is_described(self) -> None:
        counters = MachineCounters(psutil)
        measured = counters.totals().keys() | counters.gauges().keys()
        measured |= gauges([GpuState(1.0, 1.0, 1.0, 1.0, 1.0)]).keys() | {GPU_ENERGY, CPU_ENERGY, "machine/cpu_power"}
        assert measured <= {metric.name for metric in MACHINE}
        assert {metric.name for metric in MACHINE} <= METRICS.keys()
        assert all(metric.better is None for metric in MACHINE)


class TestGpus:
    def test_part_of_a_gpu_reports_its_memory_alone(self) -> None:
        driver = Driver({"MIG-1": {"memory": 3e9}})
        assert Gpus(driver, ["GPU-1"]).read() == [GpuState(memory=3e9)]

    def test_divided_gpu_reports_its_memory_alone(self) -> None:
        assert Gpus(Driver({"GPU-1": FULL | {"parts": 1}}), ["GPU-1"]).read() == [GpuState(memory=8e9)]

    def test_unknown_gpu_is_refused(self) -> None:
        with pytest.raises(NVMLError):
            Gpus(Driver({}), ["GPU-1"])

    def test_counter_that_began_again_is_not_subtracted(self) -> None:
        before, after = GpuState(power=100.0, energy=500.0), GpuState(power=100.0, energy=3.0)
        assert joules_between([before], [after], 10.0) == pytest.approx(1000.0)

    def test_container_without_permission_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "pynvml", Driver({}, denied="Insufficient Permissions"))
        told: list[str] = []
        sampler = open_sampler(["GPU-1"], told.append)
        assert told == ["the use and the energy of the GPUs are not measured: Insufficient Permissions"]
        assert sampler.measures  # processors and memory are


class TestProcessorEnergy:
    def write(self, folder: Path, name: str, microjoules: int) -> None:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "energy_uj").write_text(f"{microjoules}\n")
        (folder / name / "max_energy_range_uj").write_text("1000000000\n")

    def test_energy_of_all_processors_is_added(self, tmp_path: Path) -> None:
        for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
            self.write(tmp_path, name, 1_000_000)
        energy = ProcessorEnergy(tmp_path)
        assert energy.readable
        self.write(tmp_path, "intel-rapl:0", 4_000_000)
        self.write(tmp_path, "intel-rapl:1", 2_000_000)
        self.write(tmp_path, "intel-rapl:0:0", 3_000_000)  # a part of the first
        assert energy.joules() == pytest.approx(4.0)

    def test_counter_begins_again(self, tmp_path: Path) -> None:
        self.write(tmp_path, "intel-rapl:0", 999_000_000)
        energy = ProcessorEnergy(tmp_path)
        self.write(tmp_path, "intel-rapl:0", 1_000_000)
        assert energy.joules() == pytest.approx(2.0)

    def test_nothing_is_claimed_without_counters(self, tmp_path: Path) -> None:
        energy = ProcessorEnergy(tmp_path)
        assert not energy.readable
        assert energy.joules() is None


class TestMachineCounters:
    def test_processes_of_this_test_are_measured(self) -> None:
        counters = MachineCounters(psutil)
        before = counters.totals()
        sum(range(3_000_000))
        after = counters.totals()
        assert after["machine/cpu_use"] > before["machine/cpu_use"]
        assert counters.gauges()["machine/memory"] > 0.005

    def test_process_that_ended_counts_nothing(self) -> None:
        counters = MachineCounters(psutil)
        gone = SimpleNamespace(cpu_times=_gone, memory_info=_gone, io_counters=_gone)
        counters._processes = [gone]
        assert "machine/cpu_use" not in counters.totals()
        assert "machine/memory" not in counters.gauges()


def _gone() -> Any:
    raise psutil.NoSuchProcess(1)


class TestRun:
    """Trainings on the CPU, whose counters are fake."""

    def train(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        opener: Callable[..., MachineSampler] | None,
        *,
        resume: Path | None = None,
        options: TrainOptions | None = None,
    ) -> str:
        def report(job: Job, device: torch.device) -> MachineReport:
            return MachineReport(job, device, opener or open_sampler)

        monkeypatch.setattr("core.train.engine.MachineReport", report)
        spec = experiment("ce", epochs=2).model_copy(update={"teacher": None}).plan()[0].spec
        return run_training(spec, folder, None, resume, options, settings=TrainingSettings(threads=1))

    @staticmethod
    def events(folder: Path) -> list[Metrics]:
        records = read_journal(folder / JOURNAL_NAME)
        return [record.event for record in records if isinstance(record.event, Metrics)]

    @staticmethod
    def numbers(folder: Path) -> list[dict[str, float]]:
        return [
            {name: value for name, value in event.values.items() if not name.startswith(VARYING_PREFIXES)}
            for event in TestRun.events(folder)
        ]

    @staticmethod
    def warnings(folder: Path) -> list[str]:
        events = [record.event for record in read_journal(folder / JOURNAL_NAME)]
        return [event.message for event in events if isinstance(event, Log) and event.level == "warning"]

    def test_short_run_reports_its_machine_at_its_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.train(tmp_path, monkeypatch, None) == "finished"
        *earlier, last = self.events(tmp_path)
        assert {"machine/cpu_use", "machine/memory", "machine/memory_use"} <= last.values.keys()
        assert not any(name.startswith("machine/gpu") for name in last.values)
        assert not any(name.startswith("machine/") for event in earlier for name in event.values)

    def test_broken_measurement_changes_no_number_and_fails_no_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any, **__: Any) -> MachineSampler:
            raise RuntimeError("no such library")

        assert self.train(tmp_path / "measured", monkeypatch, None) == "finished"
        assert self.train(tmp_path / "broken", monkeypatch, broken) == "finished"
        assert self.numbers(tmp_path / "measured") == self.numbers(tmp_path / "broken")
        assert self.warnings(tmp_path / "broken") == ["the machine is not measured: RuntimeError: no such library"]
        weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("measured", "broken")]
        assert weights[0] == weights[1]

    def test_resumed_run_continues_its_energy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def opener(*_: Any, **__: Any) -> MachineSampler:
            clock = iter(range(100, 100_000, 10))
            gpu = {"watts": 360.0}  # for the 10 s between two readings: 1 Wh
            return MachineSampler(None, Gpus(Driver({"GPU-0": gpu}), ["GPU-0"]), period=1e6, now=lambda: next(clock))

        monkeypatch.setattr(machine_report.MachineReport, "values", _always_last)
        polls = iter(range(1000))
        stopping = TrainOptions(stop_requested=lambda: next(polls) == 6)
        assert self.train(tmp_path / "half", monkeypatch, opener, options=stopping) == "stopped"
        before = self.events(tmp_path / "half")[-1].values[GPU_ENERGY]
        checkpoint = tmp_path / "half" / CHECKPOINT_NAME
        assert self.train(tmp_path / "rest", monkeypatch, opener, resume=checkpoint) == "finished"
        energies = [event.values[GPU_ENERGY] for event in self.events(tmp_path / "rest")]
        assert energies[0] == before
        assert energies == sorted(energies)
        assert energies[-1] > before


def _always_last(report: MachineReport, elapsed: float, *, last: bool = False) -> dict[str, float]:
    """Take a reading at every report, as in a training whose epochs take longer than ten seconds."""
    assert report._sampler is not None
    report._sampler.sample()
    return report._sampler.take()


def test_points_of_a_long_run_become_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    report = MachineReport(SimpleNamespace(ranks=SimpleNamespace(is_main=True)), torch.device("cpu"))  # type: ignore[arg-type]
    sampler = SimpleNamespace(take=lambda: {"machine/cpu_use": 1.0}, problem="")
    report._sampler = sampler  # type: ignore[assignment]
    week = range(10, 7 * 24 * 3600, 10)
    counts = [bool(report.values(float(elapsed))) for elapsed in week]
    assert all(counts[: POINTS_UNTHINNED - 1])
    assert POINTS_UNTHINNED < sum(counts) < 5 * POINTS_UNTHINNED
