"""A run that is killed again and again, as a process: ``python -m tests.core.resume_chain FOLDER KILLS SEED``.

Every attempt is a process that dies by SIGKILL, with all it had in memory. It is forked from this one, which has
imported torch and computed nothing with it, so that twenty attempts do not cost twenty imports.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.specs import RunSpec, parse_experiment
from core.train import TeacherSource, TrainOptions, checkpoint, run_training

SPEC: dict[str, Any] = {
    "name": "chain",
    "dataset": {
        "name": "synthetic",
        "params": {"num_classes": 5, "image_size": 8, "train_size": 150, "test_size": 50},
    },
    "teacher": {"model": "resnet8", "training": {"epochs": 1, "batch_size": 32}},
    "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
    "methods": [{"name": "dkd_align", "params": {"reduction": "log", "epsilon_share": 0.1}}],
    "seeds": [0],
    "training": {"epochs": 30, "batch_size": 32, "collapse_every": 7},
}

DYING_CALLS = (("half", 1), ("fsync", 1), ("link", 1), ("replace", 1), ("fsync", 2), ("replace", 2), ("fsync", 3))
"""Where a checkpoint's writer can die: half way through the file, and before each of the system's calls after that."""


def forked(work: Callable[[], object]) -> int:
    """Process id of a child that does ``work``."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def ended(child: int) -> int:
    """Exit code, or minus the signal, of a child."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_writing(where: tuple[str, int], after: int) -> None:
    """Have this process killed by itself in the middle of its checkpoint number ``after``."""
    saved = 0
    calls: Counter[str] = Counter()

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            calls[name] += saved == after
            if (name, calls[name]) == where:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **keywords)

        return wrapper

    encode = checkpoint._encode

    def halved(content: checkpoint.Checkpoint) -> Iterator[bytes | memoryview]:
        nonlocal saved
        saved += 1
        header, body = encode(content)
        yield from (header, body[: len(body) // 2])
        if saved == after and where[0] == "half":
            os.kill(os.getpid(), signal.SIGKILL)
        yield body[len(body) // 2 :]

    patch = pytest.MonkeyPatch()
    patch.setattr(checkpoint, "_encode", halved)
    for name in ("fsync", "link", "replace"):
        patch.setattr(os, name, counted(name, getattr(os, name)))


def attempt(spec: RunSpec, teacher: TeacherSource, out: Path, choice: random.Random) -> str:
    """One attempt that is killed at a moment of ``choice``; returns how, or "" where it finished."""
    resume = out / checkpoint.CHECKPOINT_NAME
    how = choice.choice(("after steps", "at any time", "writing"))
    steps, delay, where = choice.randint(1, 6), choice.uniform(0, 0.3), choice.choice(DYING_CALLS)
    reader, writer = os.pipe()

    def stepping() -> bool:
        os.write(writer, b".")
        return False

    def work() -> None:
        if how == "writing":
            die_writing(where, steps)
        # Not after every step: what was not saved is to be done again, the same way.
        seconds = 0.0 if how == "writing" else choice.choice((0.0, 0.02))
        run_training(spec, out, teacher, resume if resume.exists() else None, TrainOptions(seconds, stepping))

    child = forked(work)
    os.close(writer)
    if how == "after steps":
        for _ in range(steps):
            os.read(reader, 1)
        time.sleep(delay / 30)
    elif how == "at any time":
        time.sleep(delay)
    if how != "writing":
        os.kill(child, signal.SIGKILL)
    code = ended(child)
    os.close(reader)
    assert code in (0, -signal.SIGKILL), f"the attempt ended with {code}"
    return "" if code == 0 else f"{how}, {where[0]} {where[1]}" if how == "writing" else how


def main(folder: Path, kills: int, seed: int) -> None:
    """Trains FOLDER/whole undisturbed and FOLDER/chain with so many kills; prints how each one was done as JSON."""
    planned = [run.spec for run in parse_experiment(SPEC).plan()]
    teacher_spec, spec = planned
    source = TeacherSource(teacher_spec, folder / "teacher" / "weights.safetensors")
    assert ended(forked(lambda: run_training(teacher_spec, folder / "teacher"))) == 0
    assert ended(forked(lambda: run_training(spec, folder / "whole", source))) == 0
    choice = random.Random(seed)
    done: list[str] = []
    while len(done) < kills:
        how = attempt(spec, source, folder / "chain", choice)
        assert how, f"it finished after {len(done)} kills: the run is too short"
        done.append(how)
    resume = folder / "chain" / checkpoint.CHECKPOINT_NAME
    assert ended(forked(lambda: run_training(spec, folder / "chain", source, resume))) == 0
    print(json.dumps(done))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
