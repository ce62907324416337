"""How an attempt ended, in the words of the protocol."""

from __future__ import annotations

import signal
from collections.abc import Collection
from dataclasses import dataclass

from core.events import EXTERNAL_SIGNALS, MACHINE_EXIT, Failed, Finished, Stopped
from core.protocol.worker import Outcome
from worker.attempt_folder import Attempt, ClaimError
from worker.leased_run import HeldRun, Want
from worker.training_process import Exit


@dataclass(frozen=True)
class Ending:
    """What is known of an attempt once its process is gone.

    Attributes:
        exit: of the process.
        event: what the training said last; None where it said nothing of an end.
        left: processes that could not be ended.
        log_lines: last messages of the training's log.
        on_gpu: processes whose GPU memory the driver has not freed.
    """

    exit: Exit
    event: Finished | Failed | Stopped | None
    left: Collection[int]
    log_lines: list[str]
    on_gpu: Collection[int] = ()


def outcome_of(held: HeldRun, attempt: Attempt, ending: Ending) -> Outcome:
    """What to report. A training that said it is finished is, even where it was to be handed back."""
    number = held.claim.attempt
    left = f"; processes {sorted(ending.left)} could not be ended" if ending.left else ""
    if ending.on_gpu:
        left += f"; the GPU memory of processes {sorted(ending.on_gpu)} was not freed"
    if held.want is Want.CANCEL:
        return Outcome(attempt=number, outcome="cancelled", reason=held.reason + left)
    if held.want is Want.GIVE_UP:  # also where it finished: part of what it said is missing
        return _failed(attempt, ending, number, held.reason + left)
    if isinstance(ending.event, Finished):
        try:
            weights = attempt.weights(ending.event, held.claim.folder)
        except ClaimError as error:
            return _failed(attempt, ending, number, str(error) + left)
        return Outcome(attempt=number, outcome="succeeded", weights=weights)
    if isinstance(ending.event, Failed):
        return _failed(attempt, ending, number, ending.event.reason + left)
    if held.want is Want.HAND_BACK:
        return Outcome(attempt=number, outcome="interrupted", reason=held.reason + left, fault=False)
    if ending.exit.code == MACHINE_EXIT:
        lines = attempt.last_lines()
        reason = f"the training could not go on: {lines[-1] if lines else 'the disk is full'}"
        return Outcome(attempt=number, outcome="interrupted", reason=reason + left)
    if _came_from_outside(ending):
        reason = f"{ending.exit.sentence()} from outside"
        if isinstance(ending.event, Stopped):
            reason = "the training was told to stop from outside"
        return Outcome(attempt=number, outcome="interrupted", reason=reason + left)
    reason = ending.exit.sentence()
    if ending.exit.code is not None:
        lines = attempt.last_lines()
        reason += f": {lines[-1]}" if ending.exit.code and lines else " and without a result"
    return _failed(attempt, ending, number, reason + left)


def _came_from_outside(ending: Ending) -> bool:
    end = ending.exit
    if isinstance(ending.event, Stopped) or (end.code is None and end.signal is None):
        return True
    # Out of memory it would be again.
    return end.signal in EXTERNAL_SIGNALS and not (end.signal == signal.SIGKILL and end.out_of_memory)


def _failed(attempt: Attempt, ending: Ending, number: int, reason: str) -> Outcome:
    tail = [*ending.log_lines, *attempt.last_lines()]
    return Outcome(attempt=number, outcome="failed", reason=reason, log_tail=tail)
