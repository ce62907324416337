"""The simulation of the shares counts slot time as it is, and its orders do what they say."""

from __future__ import annotations

import pytest

from benchmarks.shares import HOUR, Person, Submission, by_age, by_share, simulate


def test_order_by_age_serves_the_oldest() -> None:
    submissions = [Submission(0.0, "a", (HOUR,) * 4), Submission(1.0, "b", (HOUR,))]
    a, b = simulate(submissions, [Person("a"), Person("b")], by_age, slots=1, end=10 * HOUR)
    assert (a.total, b.total) == (4 * HOUR, HOUR)
    assert (a.waits, b.waits) == ([0.0], [4 * HOUR - 1.0])
    assert b.longest == 4 * HOUR - 1.0


def test_order_by_share_serves_who_has_used_less() -> None:
    submissions = [Submission(0.0, "a", (HOUR,) * 4), Submission(1.0, "b", (HOUR,))]
    a, b = simulate(submissions, [Person("a"), Person("b")], by_share, slots=1, end=10 * HOUR)
    assert (a.total, b.total) == (4 * HOUR, HOUR)
    assert b.waits == [HOUR - 1.0]
    assert (a.longest, b.longest) == (HOUR, HOUR - 1.0)


def test_weights_divide_a_queue_that_never_empties() -> None:
    people = [Person("a", 1.0), Person("b", 3.0)]
    submissions = [Submission(0.0, name, (HOUR / 4,) * 4000) for name in ("a", "b")]
    a, b = simulate(submissions, people, by_share, slots=8, end=100 * HOUR)
    assert a.total + b.total == pytest.approx(8 * 100 * HOUR)
    assert b.total / a.total == pytest.approx(3.0, rel=0.05)


def test_runs_that_have_not_ended_count_up_to_the_end() -> None:
    (person,) = simulate([Submission(0.0, "a", (5 * HOUR,))], [Person("a")], by_share, slots=2, end=2 * HOUR)
    assert person.total == 2 * HOUR
