"""One run of the benchmark, from an empty folder to its report."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import machine
from benchmarks.chaos.audit import audit, real_resumed
from benchmarks.chaos.claimers import CLAIMERS, Claimed, Claimers
from benchmarks.chaos.daemons import ROOT, marked
from benchmarks.chaos.faults import Faults
from benchmarks.chaos.follower import Follower
from benchmarks.chaos.injector import Injector
from benchmarks.chaos.load import Load, wait_for_all
from benchmarks.chaos.reference import Wanted, undisturbed
from benchmarks.chaos.report import Report
from benchmarks.chaos.stack import Kind, Stack, Terms, stack
from client import Client
from core.specs import RunSpec

_CLAIM_SECONDS = 600.0
"""For a thousand claims, which take half a minute alone and four on a machine that has much else to do."""


@dataclass(frozen=True)
class Options:
    """What is done, and for how long.

    Attributes:
        every: seconds between two faults, on average.
        real: experiments that core trains, at most; every third is a teacher and its student.
        epochs: of each of their runs.
        resumed: of them that are to have resumed: faults go on for up to twice ``minutes`` until so many have.
        claimed: runs for the eight claimers.
        settle: seconds that the runs are given to end once nothing is broken any more.
    """

    kind: Kind
    seed: int = 0
    minutes: float = 13.0
    every: float = 2.0
    real: int = 60
    epochs: int = 40
    resumed: int = 0
    claimed: int = 1000
    settle: float = 300.0
    terms: Terms = field(default_factory=Terms)


def play(options: Options, root: Path, say: Callable[[str], None] = lambda _: None) -> Report:
    """Break things for ``minutes``, let the runs end, count. Raises ``services.ServiceMissing``."""
    with stack(options.kind, root, options.terms) as lab:
        load = Load(lab, options.seed, options.real, options.epochs)
        faults = Faults(lab, load, options.seed)
        injector = Injector(faults, options.every, options.seed)
        say(f"{CLAIMERS} claimers on {options.claimed} runs")
        claimed = _claim(lab, load, options, injector)
        say(f"{claimed.finished} finished; faults for {options.minutes:g} minutes")
        lab.start_workers()
        follower = Follower(lab)
        follower.start()
        load.start()
        began = time.monotonic()

        def over() -> bool:
            minutes = (time.monotonic() - began) / 60
            return minutes > options.minutes and (
                minutes > 2 * options.minutes or real_resumed(lab.artifacts) >= options.resumed
            )

        injector.run(over)
        lasted = (time.monotonic() - began) / 60
        load.stop()
        say(f"{sum(injector.injected.values())} faults, {len(load.runs)} runs; waiting for their ends")
        lab.heal()
        wait_for_all(lab, options.settle)
        follower.stop()
        lab.keeper.close()
        for worker in lab.workers:
            worker.daemon.stop()
        left = [f"{process.pid} {' '.join(process.cmdline()[:6])}" for process in marked(lab.mark)]
        left = [line for line in left if "chaos.served" not in line]
        say("counting")
        found = audit(lab, load)
        found.left = left + [f"run {run}: alive when it said cancelled" for run in faults.people.alive_when_cancelled]
        found.points_doubled += follower.twice
        report = Report(
            stack=options.kind,
            seed=options.seed,
            every=options.every,
            minutes=options.minutes,
            resumed=options.resumed,
            lasted=lasted,
            machine=machine.describe(),
            commit=_commit(),
            terms=asdict(options.terms),
            faults=dict(injector.injected),
            claimed=claimed,
            audit=found,
            followed=follower.points,
            exits=sum(daemon.exits for daemon in [lab.backend, *(worker.daemon for worker in lab.workers)]),
            errors=[repr(error) for error in injector.errors],
        )
        _compare(report, lab, say)
    return report


def _claim(lab: Stack, load: Load, options: Options, injector: Injector) -> Claimed:
    if options.claimed == 0:
        return Claimed(0, 0, 0)

    def disturb() -> None:
        for down in (0.0, 0.5, 1.0):
            time.sleep(3)
            if lab.backend.send(signal.SIGKILL, down):
                injector.injected["backend killed under eight claimers"] += 1

    found = Claimers(lab, load, options.claimed).run(disturb, _CLAIM_SECONDS)
    injector.injected["eight claimers at once on one queue"] += 1
    return found


def _compare(report: Report, lab: Stack, say: Callable[[str], None]) -> None:
    """Train what resumed once more, undisturbed."""
    trained = report.audit.trained
    if not trained:
        return
    say(f"training {len(trained)} runs once more, undisturbed")
    with lab.client() as client:
        runs = [_wanted(client, run_id) for run_id in trained]
    expected = undisturbed(lab.root / "reference", runs)
    report.compared = len(trained)
    report.equal = sum(expected[run_id] == digest for run_id, digest in trained.items())


def _wanted(client: Client, run_id: str) -> Wanted:
    run = client.run(run_id)
    teacher = client.run(run.teacher_run_id).spec if run.teacher_run_id else None
    return Wanted(run_id, RunSpec.model_validate(run.spec), RunSpec.model_validate(teacher) if teacher else None)


def _commit() -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = ["git", "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    return "unknown"
