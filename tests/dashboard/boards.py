"""Runs with several metrics on a real backend, for tests of Compare's board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.events import Event, Metrics, Record, Started
from core.protocol.worker import Claim, EventBatch
from tests.dashboard.stand import STEPS, Stand


def train(
    stand: Stand, epochs: int, metrics: Mapping[str, Sequence[float]], *, ends: bool = False, worker: str = "worker-one"
) -> Claim:
    """Let a worker claim a run and report a number of its epochs.

    Args:
        stand: The backend.
        epochs: Number of epochs.
        metrics: Values of each metric, one per epoch; of a shorter list the last value is repeated.
        ends: Whether the run then succeeds.
        worker: Id of the worker.
    """
    claim = stand.worker.claim(worker)
    assert claim is not None, "nothing was eligible"
    total = claim.spec["training"]["epochs"]
    events: list[Event] = [
        Started(
            total_steps=STEPS * total,
            total_epochs=total,
            train_size=898,
            test_size=899,
            parameters=1234,
            device="cpu",
            environment={},
        )
    ]
    events += [_metrics(epoch, metrics) for epoch in range(1, epochs + 1)]
    _send(stand, claim, events, 1, worker)
    if ends:
        stand.finish(claim, worker)
    return claim


def go_on(stand: Stand, claim: Claim, epochs: range, metrics: Mapping[str, Sequence[float]]) -> None:
    """Report further epochs of a run that ``train`` has started."""
    _send(stand, claim, [_metrics(epoch, metrics) for epoch in epochs], epochs.start + 1, "worker-one")


def _metrics(epoch: int, metrics: Mapping[str, Sequence[float]]) -> Metrics:
    values = {name: given[min(epoch, len(given)) - 1] for name, given in metrics.items()}
    return Metrics(step=STEPS * epoch, epoch=float(epoch), elapsed=2.0 * epoch, values=values)


def _send(stand: Stand, claim: Claim, events: Sequence[Event], first: int, worker: str) -> None:
    records = [Record(seq=number, time=1000.0 + number, event=event) for number, event in enumerate(events, first)]
    stand.worker.send_events(worker, claim.run_id, EventBatch(attempt=claim.attempt, records=records))


def rising(base: float, count: int = 20) -> list[float]:
    """Return values that rise towards a number above the base."""
    return [base + 30 * (1 - 0.85**epoch) for epoch in range(1, count + 1)]
