"""The report of a run of the benchmark."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.chaos.audit import Audit
from benchmarks.chaos.claimers import ClaimResult

_SHOWN = 20


@dataclass
class Report:
    """The settings of a run, its faults and the results of its checks.

    Attributes:
        equal: resumed real trainings whose weights equal those of an undisturbed training, bit for bit.
        compared: resumed real trainings.
        exits: unexpected exits of the backend and the workers.
        followed: points that a live reader received.
        lasted: minutes of faults.
        resumed: real trainings that should resume.
        every: mean seconds between two faults.
        errors: errors of the benchmark itself.
    """

    stack: str
    seed: int
    minutes: float
    machine: str
    commit: str
    terms: dict[str, float]
    faults: dict[str, int]
    claimed: ClaimResult
    audit: Audit
    equal: int = 0
    compared: int = 0
    exits: int = 0
    followed: int = 0
    every: float = 0.0
    lasted: float = 0.0
    resumed: int = 0
    errors: list[str] = field(default_factory=list)

    def must_be_zero(self) -> dict[str, int]:
        """Return the number of violations by kind."""
        audit = self.audit
        return {
            "runs lost": len(audit.lost),
            "runs trained twice at the same time": len(audit.twice) + self.claimed.twice,
            "metric points (and log lines) lost": len(audit.points_lost),
            "metric points (and log lines) doubled": len(audit.points_doubled),
            "processes left": len(audit.left),
            "other violations (weights, experiments made twice, claims not finished)": len(audit.wrong)
            + self.claimed.runs
            - self.claimed.finished,
            "resumed real trainings with other weights": self.compared - self.equal,
            "errors of the benchmark": len(self.errors),
        }

    @property
    def passed(self) -> bool:
        return not any(self.must_be_zero().values())

    def details(self) -> list[str]:
        """Return the violations, one line each."""
        audit = self.audit
        lists = (audit.lost, audit.twice, audit.points_lost, audit.points_doubled, audit.left, audit.wrong, self.errors)
        return [line for violations in lists for line in violations[:_SHOWN]]

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed, "must_be_zero": self.must_be_zero()}

    def as_markdown(self) -> str:
        audit, total = self.audit, sum(self.faults.values())
        zero = self.must_be_zero()
        rows = {
            "faults injected": total,
            "minutes of faults": f"{self.lasted:.1f}",
            "runs submitted": audit.submitted,
            "of these for eight concurrent claimers": self.claimed.runs,
            "of these real trainings": audit.real,
            "real trainings that resumed from a checkpoint": self.compared,
            "attempts": audit.attempts,
            "stand-in runs that resumed from a checkpoint": audit.resumed,
            "attempts whose lease expired": audit.expiries,
            "metric points checked": audit.points,
            "points that a live reader received": self.followed,
            "unexpected exits of processes": self.exits,
            **{f"**{name}**": f"**{count}**" for name, count in zero.items()},
            "resumed real trainings with the weights of an undisturbed one": f"{self.equal} of {self.compared}",
        }
        states = ", ".join(f"{count} {state}" for state, count in sorted(audit.states.items()))
        terms = ", ".join(f"{name} {value:g}" for name, value in self.terms.items())
        lines = [
            f"# Faults against the {self.stack} stack",
            "",
            f"This table is the result of `python -m benchmarks.chaos --stack {self.stack} --minutes {self.minutes:g} "
            f"--every {self.every:g} --seed {self.seed} --resumed {self.resumed}` at commit {self.commit}. Machine: "
            f"{self.machine}. Settings, with times in seconds: {terms}.",
            "",
            "| | |",
            "|---|--:|",
            *(f"| {name} | {value} |" for name, value in rows.items()),
            "",
            f"States of the runs at the end: {states}. The benchmark cancelled runs, and the failed runs are students "
            "of teachers that it had cancelled."
            if audit.states.get("failed")
            else f"States of the runs at the end: {states}.",
            "",
            "| fault | times |",
            "|---|--:|",
            *(f"| {name} | {count} |" for name, count in sorted(self.faults.items(), key=lambda item: -item[1])),
            "",
        ]
        if not self.passed:
            lines += ["Violations:", "", *(f"- {line}" for line in self.details()), ""]
        return "\n".join(lines)
