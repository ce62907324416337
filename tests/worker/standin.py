"""A fake training without torch that writes the same events. ``STANDIN`` in the environment selects its behaviour.

succeed, fail, train (until SIGTERM), deaf (ignores SIGTERM), brood (deaf, with child processes in sessions of their
own), brood-succeed (the same, and ends), crash, killed, exit, full (full disk), silent (no final event), linger
(finishes and keeps running), forge (reports missing weights), escape (reports weights outside its folder), torn
(damages its journal).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from core.events import MACHINE_EXIT, Checkpointed, Failed, Finished, Journal, Started, Stopped, read_journal

STEPS = 5
# A child in its own session, an orphan, and an orphan without the mark in its environment.
CHILD = "import os, sys, time; open(sys.argv[1] + '/pid-' + str(os.getpid()), 'w').close(); time.sleep(600)"
ORPHANS = f"""
import subprocess, sys
start = lambda **more: subprocess.Popen([sys.executable, '-c', {CHILD!r}, sys.argv[1]], start_new_session=True, **more)
start()
start(env={{}})
"""


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("--run", "--out", "--teacher", "--teacher-weights", "--resume"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--student", type=Path, action="append")
    parser.add_argument("--ranks", type=int, default=1)
    options = parser.parse_args()
    behaviour = os.environ.get("STANDIN", "succeed")
    stop = threading.Event()
    if behaviour.startswith(("deaf", "brood")):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if behaviour.startswith("brood"):
        _breed(options.out)
    journal_path = options.out / "events.jsonl"
    first = 0
    if options.resume is not None:
        done = list(read_journal(options.resume))
        first = max(record.event.step for record in done if record.event.type == "metrics")
        journal_path.write_text("".join(record.model_dump_json() + "\n" for record in done), encoding="utf-8")
    with Journal(journal_path) as journal:
        return _train(behaviour, journal, options.out, first, stop, options.ranks)


def _train(behaviour: str, journal: Journal, out: Path, first: int, stop: threading.Event, ranks: int) -> int:
    journal.append(
        Started(
            total_steps=STEPS,
            total_epochs=1,
            start_step=first,
            train_size=10,
            test_size=10,
            parameters=1,
            device=f"cpu pid {os.getpid()}",
            environment={
                "DKD_THREADS": os.environ.get("DKD_THREADS", ""),
                "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
                "ranks": str(ranks),
            },
        )
    )
    for step in range(first + 1, STEPS + 1):
        journal.metrics(step=step, epoch=step / STEPS, elapsed=step / 10, values={"train/loss": 1 / step})
    journal.log("a line of the training's log")
    (out / "ready").touch()
    if behaviour == "train":
        _serve_until(stop, journal, out, first)
        return 0
    if behaviour in ("deaf", "brood"):
        time.sleep(600)
    if behaviour == "fail":
        sys.stderr.write("Traceback: it went wrong\n")
        journal.append(Failed(kind="nan", reason="the loss became NaN at step 5"))
        return 1
    if behaviour == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if behaviour == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "full":
        sys.stderr.write("no space is left\n")
        return MACHINE_EXIT
    if behaviour == "exit":
        sys.stderr.write("the spec cannot be used\n")
        return 2
    if behaviour == "torn":
        with (out / "events.jsonl").open("ab") as file:
            file.write(b"this is no record\n")
        stop.wait(600)
    if behaviour == "silent":
        return 0
    _finish(behaviour, journal, out)
    if behaviour == "linger":
        time.sleep(600)
    return 0


def _serve_until(stop: threading.Event, journal: Journal, out: Path, first: int) -> None:
    step = STEPS
    while not stop.wait(0.05):
        step += 1
        journal.metrics(step=step, epoch=1, elapsed=step / 10, values={"train/loss": 1 / step})
    name = f"checkpoint-{step}.jsonl"
    (out / name).write_bytes((out / "events.jsonl").read_bytes())
    journal.append(Checkpointed(step=step, path=name))
    journal.append(Stopped(step=step))


def _finish(behaviour: str, journal: Journal, out: Path) -> None:
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    name = "../../weights" if behaviour == "escape" else "weights.safetensors"
    if behaviour != "forge":
        (out / name).write_bytes(content)
    journal.append(Finished(weights=name, sha256=digest, summary={"test/top1": 50.0}))


def _breed(out: Path) -> None:
    subprocess.run([sys.executable, "-c", ORPHANS, str(out)], check=True)
    subprocess.Popen([sys.executable, "-c", CHILD, str(out)], start_new_session=True)
    while len(list(out.glob("pid-*"))) < 3:
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
