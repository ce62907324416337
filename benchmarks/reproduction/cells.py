"""A cell of the table: a training in a process of its own, and its outcome."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from common.atomic_write import atomic_write
from core.events import JOURNAL_NAME, Event, Failed, Finished, Metrics, Started, read_journal
from core.specs import PlannedRun
from core.train.checkpoint import CHECKPOINT_NAME

_ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "benchmarks.reproduction.subset"


class BusyError(RuntimeError):
    """Another process is training in the folder of this cell."""


@dataclass(frozen=True)
class Outcome:
    """The stored result of a finished training.

    Attributes:
        top1: test accuracy after the last epoch in %.
        oracle: best test accuracy of all epochs in %.
        seconds: duration of the training, all attempts together.
        images_per_second: mean over the epochs, without evaluation.
        starts: number of starts, more than one after an interruption.
        teacher_reused: share of the images in % whose teacher logits came from the disk; None without a teacher.
    """

    method: str
    seed: int
    fingerprint: str
    top1: float
    oracle: float
    epochs: int
    seconds: float
    starts: int
    images_per_second: float | None
    teacher_reused: float | None
    precision: str
    device: str
    torch: str
    machine: str

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Outcome:
        return cls(**data)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Cell:
    """A planned training and its folder."""

    planned: PlannedRun
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.planned.label} seed {self.planned.spec.seed}"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    def start(self, teacher: Cell | None, threads: int) -> subprocess.Popen[bytes]:
        """Start the training, from its last checkpoint if there is one of the same training.

        Raises:
            BusyError: Another process is training in the folder: it holds the lock of the folder, also if it outlived
                the process that started it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        fingerprint = self.planned.spec.fingerprint()
        with (self.folder / ".lock").open("w") as lock, (self.folder / "output.log").open("ab") as output:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(f"another process is training {self.name} in {self.folder}") from None
            checkpoint, marker = self.folder / CHECKPOINT_NAME, self.folder / "fingerprint"
            resume = checkpoint.exists() and marker.exists() and marker.read_text() == fingerprint
            marker.write_text(fingerprint)
            (self.folder / "run.json").write_text(self.planned.spec.model_dump_json(indent=1))
            command = [sys.executable, "-m", "core", "--plugin", PLUGIN, "train"]
            command += ["--run", str(self.folder / "run.json"), "--out", str(self.folder)]
            if teacher and self.planned.spec.teacher:
                command += ["--teacher", str(teacher.folder / "run.json"), "--teacher-weights", str(teacher.weights)]
            if resume:
                command += ["--resume", str(checkpoint)]
            path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
            environment = os.environ | {"DKD_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
            return subprocess.Popen(
                command,
                env=environment | {"PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(lock.fileno(),),  # the training holds the lock until it ends
                start_new_session=True,  # Ctrl-C then reaches this process alone, which stops the trainings cleanly
            )

    def outcome(self) -> Outcome | None:
        """Return the result, or None if the training has not finished."""
        events = self._events()
        last = events[-1] if events else None
        if not isinstance(last, Finished) or not self._is_same_training():
            return None
        points = [event for event in events if isinstance(event, Metrics)]
        started = [event for event in events if isinstance(event, Started)]
        spec = self.planned.spec
        return Outcome(
            method=self.planned.label,
            seed=spec.seed,
            fingerprint=spec.fingerprint(),
            top1=last.summary["test/top1"],
            oracle=last.summary["oracle/top1"],
            epochs=spec.training.epochs,
            seconds=points[-1].elapsed,
            starts=len(started),
            images_per_second=_mean([point.values.get("speed/images_per_second") for point in points]),
            teacher_reused=_mean([point.values.get("speed/teacher_reused") for point in points]),
            precision=started[-1].environment.get("precision", ""),
            device=started[-1].device,
            torch=started[-1].environment.get("torch", ""),
            machine=machine.describe(),
        )

    def reason(self, code: int | None) -> str:
        """Return a sentence on why the training has not finished."""
        failures = [event.reason for event in self._events() if isinstance(event, Failed)]
        if failures:
            return failures[-1]
        ended = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
        return f"{ended}, see {self.folder / 'output.log'}"

    def _is_same_training(self) -> bool:
        path = self.folder / "fingerprint"
        return path.exists() and path.read_text() == self.planned.spec.fingerprint()

    def _events(self) -> list[Event]:
        return [record.event for record in read_journal(self.folder / JOURNAL_NAME)]


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def cells_of(plan: Sequence[PlannedRun], folder: Path) -> list[Cell]:
    return [Cell(run, folder / f"{run.label}-seed{run.spec.seed}") for run in plan]


def write_json(path: Path, data: Any) -> None:
    """Write a file atomically, so that an interruption keeps the old content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
