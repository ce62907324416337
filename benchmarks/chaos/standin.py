"""The command that workers of the chaos benchmark start instead of ``python -m core train``.

A run on the data set ``synthetic`` is simulated without torch: same arguments, events, checkpoints, reaction to SIGTERM
and weights file, one step per epoch, and a result that a resumed run reaches only if no step was lost or done twice.
``core`` itself trains any other run, in this process, between the same records of start and end.
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

from benchmarks.chaos import digest_chain
from benchmarks.chaos.liveness import recorder_for
from benchmarks.chaos.standin_rank import END_MESSAGE
from common.atomic_write import atomic_write
from core.events import JOURNAL_NAME, Checkpointed, Finished, Journal, Started, Stopped

STEP_SECONDS = "CHAOS_STEP_SECONDS"
"""Environment variable with the duration of a step."""

CHECKPOINT_NAME = "checkpoint.json"
CHECKPOINT_STEPS = 4
LOG_STEPS = 5


def is_standin_run(spec: dict[str, Any]) -> bool:
    """Return whether a run, as JSON, is simulated."""
    return bool(spec["dataset"]["name"] == "synthetic")


def ranks_of(seed: int, ranks: int) -> int:
    """Return the number of ranks of a run: every third run has several."""
    return ranks if seed % 3 == 0 else 1


class Ranks:
    """The other ranks of a training."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def shares(self, step: int) -> list[str]:
        """Return the contribution of each rank to a step. If one was killed, kill this process too."""
        shares = []
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
            shares.append(line.strip())
        return shares

    def end(self) -> None:
        for process in self._processes:
            process.communicate(f"{END_MESSAGE}\n")


@contextmanager
def start_ranks(folder: Path, seed: int, ranks: int) -> Iterator[Ranks]:
    """Start the processes 1 … ranks - 1 of a training, each in a session of its own."""
    command = [sys.executable, "-m", "benchmarks.chaos.standin_rank", str(folder)]
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
    started = Ranks(processes)
    yield started
    started.end()


class Training:
    """One attempt at one run."""

    def __init__(self, spec: dict[str, Any], out: Path, teacher: bytes, resume: Path | None) -> None:
        self.seed = int(spec["seed"])
        self.steps = int(spec["training"]["epochs"])
        self.out = out
        self.step = 0
        self.state = digest_chain.initial_state(self.seed, teacher)
        self._stop = threading.Event()
        self._step_seconds = float(os.environ[STEP_SECONDS])
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        if resume is not None:
            checkpoint = json.loads(resume.read_text())
            self.step, self.state = checkpoint["step"], checkpoint["state"]
            (out / JOURNAL_NAME).write_text(checkpoint["journal"])

    def run(self, ranks: Ranks, count: int) -> None:
        """Train to the end, or until SIGTERM."""
        with Journal(self.out / JOURNAL_NAME) as journal:
            journal.append(self._started(count))
            while self.step < self.steps:
                if self._stop.wait(self._step_seconds):
                    self._save(journal)
                    journal.append(Stopped(step=self.step))
                    return
                self.step += 1
                self.state = digest_chain.advance(self.state, self.step, ranks.shares(self.step))
                elapsed = self.step / 10  # not the time of a clock, so that a repeated step has the same value
                journal.metrics(
                    step=self.step, epoch=self.step, elapsed=elapsed, values=digest_chain.metric_values(self.state)
                )
                if self.step % LOG_STEPS == 0:
                    journal.log(f"step {self.step} of {self.steps}")
                if self.step % CHECKPOINT_STEPS == 0:
                    self._save(journal)
            content = digest_chain.weights_content(self.state)
            (self.out / "weights.safetensors").write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            journal.append(
                Finished(weights="weights.safetensors", sha256=digest, summary=digest_chain.metric_values(self.state))
            )
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
        checkpoint = {"step": self.step, "state": self.state, "journal": journal.path.read_text()}
        atomic_write(self.out / CHECKPOINT_NAME, json.dumps(checkpoint))
        journal.append(Checkpointed(step=self.step, path=CHECKPOINT_NAME))


def main(arguments: Sequence[str]) -> int:
    """Train; the arguments are ``--ranks N`` and those of ``core train``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=1)
    for name in ("--run", "--out", "--teacher", "--teacher-weights", "--resume"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--student", type=Path, action="append")
    options = parser.parse_args(arguments)
    spec = json.loads(options.run.read_text())
    with recorder_for(options.out):
        if not is_standin_run(spec):
            from core.cli import main as core

            core_arguments = [part for part in arguments if part not in ("--ranks", str(options.ranks))]
            return core(["train", *core_arguments])
        teacher = options.teacher_weights.read_bytes() if options.teacher_weights else b""
        training = Training(spec, options.out, teacher, options.resume)
        count = ranks_of(training.seed, options.ranks)
        with start_ranks(options.out, training.seed, count) as ranks:
            training.run(ranks, count)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
