"""What the workers of the chaos benchmark start in the place of ``python -m core train``.

A run on the data set ``synthetic`` is played without torch: the same arguments, events, checkpoints, answer to SIGTERM
and weights file, one step an epoch, and a result that a resumed run reaches only where nothing was lost or done twice.
Any other run is trained by ``core`` itself, in this process, between the same start and stop records.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.chaos import chain
from benchmarks.chaos.rank import GOODBYE
from benchmarks.chaos.records import presence_of
from common.atomic_write import atomic_write
from core.events import JOURNAL_NAME, Checkpointed, Finished, Journal, Started, Stopped

STEP_SECONDS = "CHAOS_STEP_SECONDS"
"""Variable with the length of a step."""

CHECKPOINT_NAME = "checkpoint.json"
CHECKPOINT_STEPS = 4
LOG_STEPS = 5


def is_played(spec: dict[str, Any]) -> bool:
    """Whether a run, as JSON, is one for the stand-in."""
    return bool(spec["dataset"]["name"] == "synthetic")


def ranks_of(seed: int, ranks: int) -> int:
    """Every third run has several ranks."""
    return ranks if seed % 3 == 0 else 1


class Ranks:
    """The further ranks of one training."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def shares(self, step: int) -> list[str]:
        """What each adds to a step. Where one was killed, so is this one: the ranks train together or not at all."""
        found = []
        for process in self._processes:
            assert process.stdin
            assert process.stdout
            try:
                process.stdin.write(f"{step}\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except OSError:
                line = ""
            if not line:
                os.kill(os.getpid(), signal.SIGKILL)
            found.append(line.strip())
        return found

    def dismiss(self) -> None:
        for process in self._processes:
            process.communicate(f"{GOODBYE}\n")


@contextmanager
def further_ranks(folder: Path, seed: int, ranks: int) -> Iterator[Ranks]:
    """Processes 1 … ranks - 1 of a training, each in a session of its own."""
    command = [sys.executable, "-m", "benchmarks.chaos.rank", str(folder)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for rank in range(1, ranks)
    ]
    found = Ranks(processes)
    yield found
    found.dismiss()


class Training:
    """One attempt at one run."""

    def __init__(self, spec: dict[str, Any], out: Path, teacher: bytes, resume: Path | None) -> None:
        self.seed = int(spec["seed"])
        self.steps = int(spec["training"]["epochs"])
        self.out = out
        self.step = 0
        self.state = chain.beginning(self.seed, teacher)
        self._stop = threading.Event()
        self._step_seconds = float(os.environ[STEP_SECONDS])
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        if resume is not None:
            kept = json.loads(resume.read_text())
            self.step, self.state = kept["step"], kept["state"]
            (out / JOURNAL_NAME).write_text(kept["journal"])

    def run(self, ranks: Ranks, count: int) -> None:
        """To its end, or until it is told to stop."""
        with Journal(self.out / JOURNAL_NAME) as journal:
            journal.append(self._started(count))
            while self.step < self.steps:
                if self._stop.wait(self._step_seconds):
                    self._save(journal)
                    journal.append(Stopped(step=self.step))
                    return
                self.step += 1
                self.state = chain.advance(self.state, self.step, ranks.shares(self.step))
                elapsed = self.step / 10  # not the clock's: a step that is done again says the same
                journal.metrics(step=self.step, epoch=self.step, elapsed=elapsed, values=chain.values(self.state))
                if self.step % LOG_STEPS == 0:
                    journal.log(f"step {self.step} of {self.steps}")
                if self.step % CHECKPOINT_STEPS == 0:
                    self._save(journal)
            content = chain.weights(self.state)
            (self.out / "weights.safetensors").write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            journal.append(Finished(weights="weights.safetensors", sha256=digest, summary=chain.values(self.state)))
            journal.sync()

    def _started(self, ranks: int) -> Started:
        return Started(
            total_steps=self.steps,
            total_epochs=self.steps,
            start_step=self.step,
            train_size=1,
            test_size=1,
            parameters=1,
            device=f"cpu × {ranks}",
        )

    def _save(self, journal: Journal) -> None:
        kept = {"step": self.step, "state": self.state, "journal": journal.path.read_text()}
        atomic_write(self.out / CHECKPOINT_NAME, json.dumps(kept))
        journal.append(Checkpointed(step=self.step, path=CHECKPOINT_NAME))


def main(arguments: Sequence[str]) -> int:
    """``--ranks N`` and then the arguments of ``core train``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=1)
    for name in ("--run", "--out", "--teacher", "--teacher-weights", "--resume"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args(arguments)
    spec = json.loads(options.run.read_text())
    with presence_of(options.out):
        if not is_played(spec):
            from core.cli import main as core

            own = [part for part in arguments if part not in ("--ranks", str(options.ranks))]
            return core(["train", *own])
        teacher = options.teacher_weights.read_bytes() if options.teacher_weights else b""
        training = Training(spec, options.out, teacher, options.resume)
        count = ranks_of(training.seed, options.ranks)
        with further_ranks(options.out, training.seed, count) as ranks:
            training.run(ranks, count)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
