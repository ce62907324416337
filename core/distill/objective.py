"""A method as the training uses it: a module that maps the outputs of student and teacher to a loss with its terms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from core.catalog import METHODS
from core.catalog.taps import STRONG_LOGITS, Taps
from core.distill.loss import Loss, build_loss
from core.distill.rows import Rows
from core.distill.shares import norm_at, share_factors
from core.distill.terms import LossTerms
from core.specs import MethodRef, ModelRef

Scope = Literal["row", "batch"]
"""``row``: the loss is a mean over rows, so that it can be computed part by part. ``batch``: it is not."""

Trained = Literal["all", "some", "none"]
"""Of which of the student's parameters a loss depends."""


PEER = "peer"
"""The student's tap with the logits of the method's own network, see ``Objective.peer``."""


@dataclass(frozen=True)
class Outputs:
    """What one forward pass of a network returns.

    Attributes:
        logits: (R, C).
        taps: The outputs of the tapped layers by name, in float32; maps are (B, channels, height, width), features
            (B, D).
    """

    logits: Tensor
    taps: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Everything that an objective may read in one optimiser step.

    Attributes:
        rows: The logits as rows, with targets.
        student: The student's outputs.
        teacher: The teacher's outputs, constants; None for a method without a teacher.
        index: (B,) int64, the samples' numbers in the training split, on the device of the rows; None for an objective
            that does not read them.
        epoch: Counted from 0; None means full strength of every schedule.
    """

    rows: Rows
    student: Outputs
    teacher: Outputs | None = None
    index: Tensor | None = None
    epoch: int | None = None


@dataclass(frozen=True)
class NetworkShape:
    """What an objective may know of a network before the first step.

    Attributes:
        num_classes: C, the width of the logits.
        taps: The shapes of the tapped outputs by name, without the dimension of the batch.
        linear: The last linear layer, for methods that use the teacher's; None if the network has none.
        norm: By the name of a tap before an activation, the weight (C,) and the bias (C,) of the last batch norm before
            it, as constants; without the taps for which none is known.
    """

    num_classes: int
    taps: Mapping[str, torch.Size] = field(default_factory=dict)
    linear: nn.Linear | None = None
    norm: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What an objective is built for.

    Attributes:
        student: The student.
        teacher: The teacher; None for a method without one.
        samples: The number of training samples, for memory banks.
        labels: (N,) int64, the class of each training sample; None where a sample has no single class.
        batch_size: B, the samples of a step; the last one of an epoch may have fewer. 0 if it is not known.
        build_network: Builds another network for the same inputs and classes, with weights from torch's random state;
            given None, the student's.
        teacher_outputs: Returns the teacher's logits and its taps of some names for training samples of some numbers,
            without augmentation; None where the teacher cannot be asked before the training. It runs the network, so a
            method asks once.
    """

    student: NetworkShape
    teacher: NetworkShape | None
    samples: int
    labels: Tensor | None = None
    batch_size: int = 0
    build_network: Callable[[ModelRef | None], nn.Module] | None = None
    teacher_outputs: Callable[[Sequence[str], Tensor], Outputs] | None = None


class ObjectiveError(ValueError):
    """An objective cannot be built for these networks. The message names the tap or the parameter at fault."""


class Objective(nn.Module):
    """Base of every method.

    Its parameters are trained together with the student's, with a seed of their own, so that the initial weights of
    students stay paired over methods. They and its buffers are in the checkpoint, and not in the exported student.

    Attributes:
        scope: Whether the loss is a mean over rows.
        taps: The layers it reads.
    """

    scope: Scope = "row"
    taps: Taps = Taps()
    capturable: bool = True
    """Whether a step may be replayed as a CUDA graph. An objective that draws random numbers of its own may not."""
    reads_index: bool = False
    """Whether it reads ``Step.index``, which is None otherwise. Such a step is not replayed as a CUDA graph."""

    @abstractmethod
    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""

    def exported(self, student: nn.Module) -> nn.Module:
        """Return the network that is evaluated and saved; the student itself, unless the method adds to it."""
        return student

    def trains(self, epoch: int) -> Trained:
        """Return of which of the student's parameters the loss of an epoch depends.

        ``some`` for a loss without the logits, which leaves the layers behind its last tap as they are. ``none`` for
        one that trains the objective's own parameters alone: the student is then in eval mode, so that it does not
        change at all. A parameter without a gradient is not updated: neither momentum nor weight decay moves it.

        Args:
            epoch: Counted from 0.
        """
        return "all"

    def peer(self) -> nn.Module | None:
        """Return a network of the method that sees the same batches as the student; None for none.

        It is a submodule. The training runs it together with the student, and ``step.student.taps[PEER]`` are its
        logits (R, C), with a graph.
        """
        return None

    @property
    def student_outputs(self) -> tuple[str, ...]:
        """Names of the outputs that the student's pass returns beside its logits, in their order."""
        return (*self.taps.student, PEER) if self.peer() else self.taps.student


class TwoStageObjective(Objective):
    """A method whose first epochs have a loss of their own, which prepares networks for the other epochs.

    Both stages are parts of one training: its epochs are counted through, and its learning rate follows the one
    schedule of the training.

    Args:
        first_epochs: The number of epochs of the first stage.
        first_trains: What of the student the first stage trains.
    """

    def __init__(self, first_epochs: int, first_trains: Trained) -> None:
        super().__init__()
        self._first_epochs, self._first_trains = first_epochs, first_trains

    def in_first_stage(self, epoch: int | None) -> bool:
        """Whether an epoch, counted from 0, is of the first stage; None is after every schedule."""
        return epoch is not None and epoch < self._first_epochs

    def trains(self, epoch: int) -> Trained:
        """Return of which of the student's parameters the loss of an epoch depends."""
        return self._first_trains if self.in_first_stage(epoch) else "all"


class LogitObjective(Objective):
    """A method that is a pure function of rows of logits.

    Args:
        loss: The method with its parameters bound.
    """

    scope = "batch"

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self._loss = loss

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        return self._loss(step.rows, step.epoch)


class ShareWeighted(Objective):
    """A method with taps, some of whose terms are weighted by share.

    Each term costs a backward pass from its value to the student's first tap; to the logits if it reads no layer. The
    gradient of a second view's logits counts with it.

    Args:
        objective: The method, which returns ``LossTerms.parts``.
        shares: By the name of a term, its share.
    """

    capturable = False

    def __init__(self, objective: Objective, shares: Mapping[str, float]) -> None:
        super().__init__()
        self.objective, self._shares = objective, dict(shares)
        self.scope, self.taps, self.reads_index = objective.scope, objective.taps, objective.reads_index

    def exported(self, student: nn.Module) -> nn.Module:
        """Return the network that the method exports."""
        return self.objective.exported(student)

    def trains(self, epoch: int) -> Trained:
        """Return of which of the student's parameters the loss of an epoch depends."""
        return self.objective.trains(epoch)

    def peer(self) -> nn.Module | None:
        """Return the network of the method."""
        return self.objective.peer()

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step.

        Raises:
            ValueError: The method does not return its terms separately.
        """
        terms: LossTerms = self.objective(step)
        if not terms.parts:
            raise ValueError("this method returns its loss as one sum, so that no term of it can be weighted by share")
        if not terms.parts.keys() & self._shares.keys():
            return terms  # the first stage of a method with two
        taps = {name: tap for name, tap in step.student.taps.items() if name != PEER}
        strong = [taps.pop(STRONG_LOGITS)] if STRONG_LOGITS in taps else []
        shared = [next(iter(taps.values()), step.rows.student), *strong]
        norms = {name: norm_at(shared, part) for name, part in terms.parts.items()}
        factors = share_factors(norms, self._shares)
        parts = {name: part * factors[name] if name in factors else part for name, part in terms.parts.items()}
        reported = {f"weight_{name}": factor for name, factor in factors.items()}
        return replace(
            terms, total=torch.stack(list(parts.values())).sum(), values=terms.values | reported, parts=parts
        )


def student_shapes(objective: Objective, setting: Setting) -> dict[str, torch.Size]:
    """Return the shapes of what the student's pass returns beside its logits, by name, without the batch's dimension.

    Args:
        objective: The method.
        setting: What it was built for.
    """
    peer = {PEER: torch.Size([setting.student.num_classes])} if objective.peer() else {}
    return dict(setting.student.taps) | peer


def build_objective(method: MethodRef, setting: Setting) -> Objective:
    """Return the objective that a spec names, with its parameters bound.

    Args:
        method: The name of the method and its parameters.
        setting: What it is built for.

    Raises:
        ObjectiveError: The taps' shapes cannot be joined.
    """
    entry = METHODS[method.name]
    target, params = entry.load(), method.parsed_params
    if isinstance(target, type) and issubclass(target, Objective):
        objective: Objective = target(params, setting)
        objective.taps = Taps(tuple(setting.student.taps), tuple(setting.teacher.taps) if setting.teacher else ())
        return ShareWeighted(objective, method.shares) if method.shares else objective
    return LogitObjective(build_loss(method))
