"""Simulated months of a lab's queue: who waits how long, by age alone and by shares.

    python -m benchmarks shares [--seed 0] [--write]

The first month has fifty people on forty slots, who ask for a tenth more than the slots can do. Four of them submit
sweeps of hundreds of runs, and the others experiments of a few. The second has ten people who always wait, with
weights 1, 2 and 4. The order of the claims is that of ``backend.queue.fair_share.in_turn``, with the used times as the
backend counts them; the run of an owner is the oldest. ``by age`` is the order without shares: the oldest of all.

``--write`` stores the tables in ``benchmarks/results/shares.{md,json}``.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.queue.fair_share import Standing, in_turn
from backend.queue.usage import WINDOW

RESULTS = Path(__file__).parent / "results"
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
MONTH = 30 * DAY
SLOTS = 40
PEOPLE = 50
HEAVY = 4
LOAD = 1.1
"""Slot-seconds asked for, relative to those there are."""


@dataclass(frozen=True)
class Submission:
    """An experiment: how long each of its runs takes, in seconds."""

    time: float
    owner: str
    durations: tuple[float, ...]


@dataclass
class Person:
    """An owner with the runs that wait, and what the runs have used.

    Attributes:
        name: The owner.
        weight: The owner's weight.
        queue: Time of submission, number of the submission and duration of each waiting run, oldest first.
        running: Number of running runs.
        starts: Sum of the times at which they started.
        finished: Start and end of the runs that ended within the window.
        total: Slot-seconds of all runs, up to the end of the month.
        waits: Seconds from each submission to the start of its first run.
        served: When the last run was started, or when the owner began to wait.
        longest: Longest time for which the owner waited and no run of the owner's was started or running.
    """

    name: str
    weight: float = 1.0
    queue: deque[tuple[float, int, float]] = field(default_factory=deque)
    running: int = 0
    starts: float = 0.0
    finished: deque[tuple[float, float]] = field(default_factory=deque)
    total: float = 0.0
    waits: list[float] = field(default_factory=list)
    served: float = 0.0
    longest: float = 0.0
    finished_seconds: float = 0.0

    def standing(self, now: float) -> Standing:
        """Return what decides when this owner is next."""
        since = now - WINDOW.total_seconds()
        while self.finished and self.finished[0][1] <= since:
            start, end = self.finished.popleft()
            self.finished_seconds -= end - start
        elapsed = self.running * now - self.starts
        return Standing(self.weight, max(self.finished_seconds, 0.0) + elapsed, self.running)


Order = Callable[[Sequence[Person], float], Person]


def by_age(waiting: Sequence[Person], now: float) -> Person:
    """Return the owner of the oldest waiting run."""
    return min(waiting, key=lambda person: person.queue[0])


def by_share(waiting: Sequence[Person], now: float) -> Person:
    """Return the owner whose turn it is."""
    by_name = {person.name: person for person in waiting}
    return by_name[in_turn({person.name: person.standing(now) for person in waiting})[0]]


ORDERS: dict[str, Order] = {"by age": by_age, "by shares": by_share}


def simulate(
    submissions: Iterable[Submission], people: Sequence[Person], order: Order, *, slots: int, end: float
) -> list[Person]:
    """Let the slots work through the submissions.

    Args:
        submissions: In the order of their times.
        people: Their owners.
        order: Selects the next owner.
        slots: Runs at the same time.
        end: Time of the end, in seconds; runs that have not ended count up to it.

    Returns:
        The people, with what they got.
    """
    by_name = {person.name: person for person in people}
    arrivals = deque(enumerate(submissions))
    started: set[int] = set()
    ends: list[tuple[float, int, str, float]] = []  # end, a number that breaks ties, owner, start
    number, free = 0, slots
    while arrivals or ends:
        now = min(arrivals[0][1].time if arrivals else end, ends[0][0] if ends else end)
        if now >= end:
            break
        while arrivals and arrivals[0][1].time <= now:
            index, submission = arrivals.popleft()
            person = by_name[submission.owner]
            if not person.queue and not person.running:
                person.served = now
            person.queue.extend((submission.time, index, duration) for duration in submission.durations)
        while ends and ends[0][0] <= now:
            _, _, name, start = heapq.heappop(ends)
            person = by_name[name]
            person.running, person.starts = person.running - 1, person.starts - start
            person.finished.append((start, now))
            person.finished_seconds += now - start
            person.total += now - start
            if not person.running:
                person.served = now
            free += 1
        while free and (waiting := [person for person in people if person.queue]):
            person = order(waiting, now)
            submitted, index, duration = person.queue.popleft()
            if index not in started:
                started.add(index)
                person.waits.append(now - submitted)
            if not person.running:
                person.longest = max(person.longest, now - person.served)
            person.running, person.starts = person.running + 1, person.starts + now
            number, free = number + 1, free - 1
            heapq.heappush(ends, (now + duration, number, person.name, now))
    for _, _, name, start in ends:
        by_name[name].total += end - start
    for person in people:
        if person.queue and not person.running:
            person.longest = max(person.longest, end - person.served)
    return list(people)


def month(seed: int) -> list[Submission]:
    """Return the submissions of fifty people, of whom the first four submit sweeps, in the order of their times.

    The durations are log-normal with a median of 20 minutes, and half of the time asked for is that of sweeps.
    """
    chance = random.Random(seed)
    asked = LOAD * SLOTS * MONTH

    def durations(count: int) -> tuple[float, ...]:
        return tuple(chance.lognormvariate(3.0, 0.8) * MINUTE for _ in range(count))

    submissions: list[Submission] = []
    for names, runs in ((range(HEAVY), (200, 600)), (range(HEAVY, PEOPLE), (4, 24))):
        seconds = 0.0
        while seconds < asked / 2:
            owner = f"person-{chance.choice(names):02d}"
            submission = Submission(chance.uniform(0, MONTH), owner, durations(chance.randint(*runs)))
            seconds += sum(submission.durations)
            submissions.append(submission)
    return sorted(submissions, key=lambda item: item.time)


def run_month(seed: int) -> list[dict[str, Any]]:
    """Return how long the people of the first month waited, by kind of person and by order."""
    rows: list[dict[str, Any]] = []
    for name, order in ORDERS.items():
        people = [Person(f"person-{number:02d}") for number in range(PEOPLE)]
        people = simulate(month(seed), people, order, slots=SLOTS, end=MONTH)
        for kind, group in (("sweeps", people[:HEAVY]), ("a few runs", people[HEAVY:])):
            waits = sorted(wait for person in group for wait in person.waits)
            rows.append(
                {
                    "people": kind,
                    "order": name,
                    "median_wait": statistics.median(waits),
                    "p95_wait": waits[int(0.95 * (len(waits) - 1))],
                    "longest_without": max(person.longest for person in group),
                    "slot_hours": sum(person.total for person in group) / HOUR,
                    "used": sum(person.total for person in people) / (SLOTS * MONTH),
                }
            )
    return rows


def run_weights(seed: int) -> list[dict[str, Any]]:
    """Return what people with weights 1, 2 and 4 got who always wait, beside what their weights entitle them to."""
    chance = random.Random(seed)
    weights = {f"person-{number}": (1.0, 2.0, 4.0)[number % 3] for number in range(10)}
    people = [Person(name, weight) for name, weight in weights.items()]
    submissions = [
        Submission(0.0, name, tuple(chance.lognormvariate(3.0, 0.8) * MINUTE for _ in range(12_000)))
        for name in weights
    ]
    people = simulate(submissions, people, by_share, slots=SLOTS, end=MONTH)
    total, whole = sum(person.total for person in people), sum(weights.values())
    rows = []
    for weight in sorted(set(weights.values())):
        parts = [person.total / total for person in people if person.weight == weight]
        rows.append(
            {
                "weight": weight,
                "people": len(parts),
                "entitled": weight / whole,
                "least": min(parts),
                "most": max(parts),
            }
        )
    return rows


def report(waits: Sequence[dict[str, Any]], parts: Sequence[dict[str, Any]], seed: int) -> str:
    """Return the tables in Markdown."""
    lines = [
        "# Shares of the queue",
        "",
        f"Simulated by `python -m benchmarks shares --write` (seed {seed}). {PEOPLE} people, {SLOTS} slots, 30 days; "
        f"{LOAD:.0%} of the slots' time is asked for, half of it by {HEAVY} people with sweeps of 200 to 600 runs, the "
        "rest by the others with experiments of 4 to 24 runs. The wait is that of an experiment's first run. The last "
        "column is the longest time for which somebody waited and had no run that trained.",
        "",
        "| people with | order | median wait | 95 % wait less than | longest without any run | slot-hours |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['people']} | {row['order']} | {row['median_wait'] / HOUR:.2f} h | {row['p95_wait'] / HOUR:.2f} h | "
        f"{row['longest_without'] / HOUR:.1f} h | {row['slot_hours']:,.0f} |"
        for row in waits
    ]
    lines += [
        "",
        "Ten people who wait all the time: the part of the slots' time that each gets.",
        "",
        "| weight | people | by the weight | least | most |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['weight']:g} | {row['people']} | {row['entitled']:.2%} | {row['least']:.2%} | {row['most']:.2%} |"
        for row in parts
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks shares", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/results")
    options = parser.parse_args(arguments)
    waits, parts = run_month(options.seed), run_weights(options.seed)
    text = report(waits, parts, options.seed)
    print(text)
    if options.write:
        (RESULTS / "shares.md").write_text(text, encoding="utf-8")
        content = {"seed": options.seed, "month": waits, "weights": parts}
        (RESULTS / "shares.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
