"""Steps as the clock of a training: epochs as a view of it, reports, evaluations and checkpoints."""

from __future__ import annotations

import pytest

from core.train.clock import Calendar, Clock


class FakeTime:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def clock(time: FakeTime, *, save: float = 60.0, samples: int = 1000) -> Clock:
    return Clock(Calendar(samples, 10, 4), save, now=time)


class TestCalendar:
    def test_calendar_converts_between_epochs_and_steps(self) -> None:
        calendar = Calendar(samples=150, batch_size=64, epochs=4)
        assert (calendar.steps_per_epoch, calendar.total_steps) == (3, 12)
        assert calendar.epochs_done(1, 1) == 1 + 1 / 3
        assert calendar.epochs_done(4, 0) == 4

    @pytest.mark.parametrize(
        ("every", "expected"),
        [(1, [0, 1, 2, 3, 4, 5, 6]), (2, [1, 3, 5, 6]), (3, [2, 5, 6]), (7, [6]), (100, [6])],
    )
    def test_every_nth_epoch_and_the_last_are_evaluated(self, every: int, expected: list[int]) -> None:
        calendar = Calendar(100, 10, epochs=7, evaluate_every=every)
        assert [epoch for epoch in range(7) if calendar.evaluates(epoch)] == expected


class TestClock:
    def test_long_epoch_reports_every_ten_seconds(self) -> None:
        time = FakeTime()
        ticking = clock(time)
        ticking.start()
        reported = []
        for step in range(100):
            if ticking.reports(step):
                reported.append(step)
                ticking.reported()
            time.seconds += 0.75
        assert reported == [14, 28, 42, 56, 70, 84, 98]

    def test_steps_longer_than_the_interval_are_reported_one_by_one(self) -> None:
        time = FakeTime()
        ticking = clock(time)
        ticking.start()
        reported = []
        for step in range(5):
            if ticking.reports(step):
                reported.append(step)
                ticking.reported()
            time.seconds += 25
        assert reported == [1, 2, 3, 4]

    def test_epoch_without_a_step_reports_nothing(self) -> None:
        time = FakeTime()
        ticking = clock(time)
        time.seconds += 1000
        assert not ticking.reports(0)
        assert ticking.reports(1)

    def test_report_of_an_epoch_restarts_the_interval(self) -> None:
        time = FakeTime()
        ticking = clock(time)
        time.seconds += 12
        ticking.reported()
        time.seconds += 9
        assert not ticking.reports(3)
        time.seconds += 1
        assert ticking.reports(3)

    def test_checkpoint_is_due_after_its_interval(self) -> None:
        time = FakeTime()
        ticking = clock(time)
        time.seconds += 60
        assert not ticking.saves()
        time.seconds += 0.1
        assert ticking.saves()
        ticking.saved()
        assert not ticking.saves()

    def test_elapsed_time_includes_earlier_attempts_and_no_preparation(self) -> None:
        time = FakeTime()
        ticking = clock(time)
        time.seconds += 500  # the data are read, the network is compiled
        ticking.start(earlier_seconds=40.0)
        time.seconds += 3
        assert ticking.elapsed == 43.0
