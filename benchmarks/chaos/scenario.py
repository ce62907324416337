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
from benchmarks.chaos.audit import check_runs, count_resumed_trainings
from benchmarks.chaos.claimers import CLAIMERS, Claimers, ClaimResult
from benchmarks.chaos.faults import Faults
from benchmarks.chaos.injector import Injector
from benchmarks.chaos.live_reader import LiveReader
from benchmarks.chaos.reference import ReferenceRun, train_references
from benchmarks.chaos.report import Report
from benchmarks.chaos.stack import Kind, Stack, Timing, running_stack
from benchmarks.chaos.submissions import Submitter, wait_for_all
from benchmarks.chaos.supervised import ROOT, marked_processes
from client import Client
from core.specs import RunSpec

_CLAIM_SECONDS = 600.0
"""For a thousand claims, which take half a minute on an idle machine and four minutes on a busy one."""


@dataclass(frozen=True)
class ScenarioOptions:
    """The settings of a run of the benchmark.

    Attributes:
        every: mean seconds between two faults.
        real: most experiments that core trains; every third is a teacher and its student.
        epochs: epochs of each of their runs.
        resumed: real trainings that should resume: faults continue, for up to twice ``minutes``, until this many have.
        claimed: number of runs for the eight claimers.
        settle: seconds in which the runs should end after the last fault.
        terms: durations of the stack.
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
    terms: Timing = field(default_factory=Timing)


def run_scenario(options: ScenarioOptions, root: Path, log: Callable[[str], None] = lambda _: None) -> Report:
    """Inject faults for ``minutes``, let the runs end, and check them.

    Raises:
        services.ServiceMissing: PostgreSQL or Redis is not installed.
    """
    with running_stack(options.kind, root, options.terms) as lab:
        submitter = Submitter(lab, options.seed, options.real, options.epochs)
        faults = Faults(lab, submitter, options.seed)
        injector = Injector(faults, options.every, options.seed)
        log(f"{CLAIMERS} claimers on {options.claimed} runs")
        claimed = _claim(lab, submitter, options, injector)
        log(f"{claimed.finished} finished; faults for {options.minutes:g} minutes")
        lab.start_workers()
        live_reader = LiveReader(lab)
        live_reader.start()
        submitter.start()
        began = time.monotonic()

        def is_over() -> bool:
            minutes = (time.monotonic() - began) / 60
            return minutes > options.minutes and (
                minutes > 2 * options.minutes or count_resumed_trainings(lab.artifacts) >= options.resumed
            )

        injector.run(is_over)
        lasted = (time.monotonic() - began) / 60
        submitter.stop()
        log(f"{sum(injector.injected.values())} faults, {len(submitter.runs)} runs; waiting for the runs to end")
        lab.heal()
        wait_for_all(lab, options.settle)
        live_reader.stop()
        lab.supervisor.close()
        for worker in lab.workers:
            worker.process.stop()
        left = [f"{process.pid} {' '.join(process.cmdline()[:6])}" for process in marked_processes(lab.mark)]
        left = [line for line in left if "chaos.nudged_backend" not in line]
        log("checking the runs")
        audit = check_runs(lab, submitter)
        audit.left = left + [f"run {run}: alive in state cancelled" for run in faults.users.alive_when_cancelled]
        audit.points_doubled += live_reader.twice
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
            audit=audit,
            followed=live_reader.points,
            exits=sum(process.exits for process in [lab.backend, *(worker.process for worker in lab.workers)]),
            errors=[repr(error) for error in injector.errors],
        )
        _compare(report, lab, log)
    return report


def _claim(lab: Stack, submitter: Submitter, options: ScenarioOptions, injector: Injector) -> ClaimResult:
    if options.claimed == 0:
        return ClaimResult(0, 0, 0)

    def disturb() -> None:
        for down in (0.0, 0.5, 1.0):
            time.sleep(3)
            if lab.backend.send(signal.SIGKILL, down):
                injector.injected["backend killed under eight claimers"] += 1

    result = Claimers(lab, submitter, options.claimed).run(disturb, _CLAIM_SECONDS)
    injector.injected["eight claimers at once on one queue"] += 1
    return result


def _compare(report: Report, lab: Stack, log: Callable[[str], None]) -> None:
    """Train the runs that resumed once more, undisturbed, and compare the weights."""
    trained = report.audit.trained
    if not trained:
        return
    log(f"training {len(trained)} runs once more, undisturbed")
    with lab.client() as client:
        runs = [_reference_run(client, run_id) for run_id in trained]
    expected = train_references(lab.root / "reference", runs)
    report.compared = len(trained)
    report.equal = sum(expected[run_id] == digest for run_id, digest in trained.items())


def _reference_run(client: Client, run_id: str) -> ReferenceRun:
    run = client.run(run_id)
    teacher = client.run(run.teacher_run_id).spec if run.teacher_run_id else None
    return ReferenceRun(run_id, RunSpec.model_validate(run.spec), RunSpec.model_validate(teacher) if teacher else None)


def _commit() -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    return "unknown"
