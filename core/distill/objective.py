"""A method as the training uses it: a module that maps the outputs of student and teacher to a loss with its terms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from core.catalog.taps import Taps, joined
from core.distill.loss import Loss, build_loss
from core.distill.rows import Rows
from core.distill.terms import LossTerms, separate
from core.specs import MethodRef, ModelRef, WeightedMethod

Scope = Literal["row", "batch"]
"""``row``: the loss is a mean over rows, so that it can be computed part by part. ``batch``: it is not."""

Trained = Literal["all", "some", "none"]
"""Of which of the student's parameters a loss depends."""


PEER = "peer"
"""The student's tap with the logits of the method's own network, see ``Objective.peer``."""


@dataclass(frozen=True)
class OwnTerm:
    """A term of a task's own loss, which is trained on beside the objective: the mean ``total / count``.

    Attributes:
        total: Scalar with its graph, the sum over what the term is a mean of.
        count: Scalar, a constant: their number, or the sum of their weights. Where it is 0, the term is 0.
    """

    total: Tensor
    count: Tensor


@dataclass(frozen=True)
class Outputs:
    """What one forward pass of a network returns.

    Attributes:
        logits: (R, C).
        taps: The outputs of the tapped layers by name, in float32; maps are (B, channels, height, width), features
            (B, D).
        first_tap: Where the first tapped layer's output is in the graph, if it was asked for: all that is computed
            after it depends on it, which is not so of ``taps``, because those may be converted.
        offsets: (R, C, 4), for each row that is a box and for each class, how the box is to be moved; None if rows are
            no boxes.
        own_terms: By name, the terms of the task's own loss.
        extra: What only the task reads.
    """

    logits: Tensor
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    first_tap: GradientEdge | None = None
    offsets: Tensor | None = None
    own_terms: Mapping[str, OwnTerm] = field(default_factory=dict)
    extra: Any = None

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that a loss may read, in a fixed order."""
        offsets = [] if self.offsets is None else [self.offsets]
        return [self.logits, *self.taps.values(), *offsets, *(term.total for term in self.own_terms.values())]

    def with_tensors(self, tensors: Sequence[Tensor]) -> Outputs:
        """Return the same outputs with other tensors in the order of ``tensors``, and without ``first_tap``."""
        logits, *others = tensors
        taps = dict(zip(self.taps, others, strict=False))
        rest = others[len(taps) :]
        offsets = None if self.offsets is None else rest.pop(0)
        own = {
            name: replace(term, total=total) for (name, term), total in zip(self.own_terms.items(), rest, strict=True)
        }
        return replace(self, logits=logits, taps=taps, offsets=offsets, own_terms=own, first_tap=None)


@dataclass(frozen=True)
class Objects:
    """The labelled objects in a batch of images.

    Attributes:
        image: (M,) int64, the index of each object's image in the batch.
        boxes: (M, 4), left, top, right and bottom in [0, 1], as shares of the width and the height that the maps cover.
        label: (M,) int64, the class.
    """

    image: Tensor
    boxes: Tensor
    label: Tensor


@dataclass(frozen=True)
class Step:
    """Everything that an objective may read in one optimiser step.

    Attributes:
        rows: The logits as rows, with targets.
        student: The student's outputs.
        teacher: The teacher's outputs, constants; None for a method without a teacher.
        index: (B,) int64, the samples' indices in the training split, on the device of the rows; None for an objective
            that does not read them.
        epoch: Counted from 0; None means full strength of every schedule.
        objects: The labelled objects of the images; None for a task without boxes.
        offset_target: (R, 4), the offsets of the labelled object of each row that is a box; 0 for background. None for
            a task without boxes.
        sample_rows: Whether each row is a sample, so that every rank knows how many rows the others have.
    """

    rows: Rows
    student: Outputs
    teacher: Outputs | None = None
    index: Tensor | None = None
    epoch: int | None = None
    objects: Objects | None = None
    offset_target: Tensor | None = None
    sample_rows: bool = True


@dataclass(frozen=True)
class NetworkShape:
    """What an objective may know of a network before the first step.

    Attributes:
        num_classes: C, the width of the logits.
        taps: The shapes of the tapped outputs by name, without the dimension of the batch.
        linear: The last linear layer, for methods that use the teacher's; None if the network has none.
        norm: By the name of a tap before an activation, the weight (C,) and the bias (C,) of the last batch norm before
            it, as constants; without the taps for which none is known.
        averaged: The names of the taps whose mean over positions is the input of ``linear``.
        sizes_vary: Whether the heights and widths of maps differ from batch to batch; those of ``taps`` are then of one
            example.
    """

    num_classes: int
    taps: Mapping[str, torch.Size] = field(default_factory=dict)
    linear: nn.Linear | None = None
    norm: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    averaged: frozenset[str] = frozenset()
    sizes_vary: bool = False


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
        rows_are_regions: Whether the rows of a step are regions of its images, and not the samples.
    """

    student: NetworkShape
    teacher: NetworkShape | None
    samples: int
    labels: Tensor | None = None
    batch_size: int = 0
    build_network: Callable[[ModelRef | None], nn.Module] | None = None
    teacher_outputs: Callable[[Sequence[str], Tensor], Outputs] | None = None
    rows_are_regions: bool = False


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
    changes_logits: bool = False
    """Whether its terms have logits of their own, of a network that it exports. Methods that are added to it read
    these."""
    shares: Mapping[str, float] = MappingProxyType({})
    """By the name of a term, its share of the gradient, which the training gives it: see ``core.train.termwise``."""
    momenta: Mapping[str, float] = MappingProxyType({})
    """By the name of each term, its momentum, if they differ; the weight decay belongs to the first term."""
    measures_shares: bool = False
    """Whether the training measures the share of each term now and then, as ``grad/share_TERM``."""

    @abstractmethod
    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""

    def student_parameters(self) -> tuple[Tensor, ...]:
        """Return the parameters of the student that the loss reads itself, and not through the student's outputs."""
        return ()

    def exported(self, student: nn.Module) -> nn.Module:
        """Return the network that the training leaves behind; the student itself, unless the method adds to it.

        It holds the student's own modules, so that it changes with every step. Moving averages are of its weights.

        Raises:
            ObjectiveError: The method cannot add to this student.
        """
        return student

    def folded(self, exported: nn.Module) -> nn.Module:
        """Return the network that is evaluated and saved, which gives the same logits in eval mode.

        It is another one if the method leaves linear layers that can be multiplied into those of the student.

        Args:
            exported: The network of ``exported``, or a copy of it with averaged weights.
        """
        return exported

    def trains(self, epoch: int) -> Trained:
        """Return how many of the student's parameters the loss of an epoch depends on.

        ``some`` is for a loss without the logits, which leaves the layers behind its last tap as they are. ``none`` is
        for a loss that trains the objective's own parameters alone: the student is then in eval mode, so that it does
        not change at all. A parameter without a gradient is not updated: neither momentum nor weight decay moves it.

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
        """Return how many of the student's parameters the loss of an epoch depends on."""
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


class Combination(Objective):
    """Several methods whose terms are added. Cross-entropy is that of the first.

    Each member sees only the taps that it reads. The logits that all members see are those of the network that is
    exported: the student's, or those of the member that changes them. While a member is in its first stage, its loss is
    the whole loss. What the members measure of closed-form gradients is without shares.

    Args:
        members: The methods in their order; ``ce`` is the only term that two of them may both have.

    Raises:
        ObjectiveError: Two members have a network of their own, or change the logits of the student.
    """

    def __init__(self, members: Sequence[Objective]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.scope = "batch" if any(member.scope == "batch" for member in members) else "row"
        self.taps = joined([member.taps for member in members])
        self.capturable = all(member.capturable for member in members)
        self.reads_index = any(member.reads_index for member in members)
        self.measures_shares = True
        self.changes_logits = any(member.changes_logits for member in members)
        if sum(member.changes_logits for member in members) > 1:
            raise ObjectiveError("two of the methods change what the student's classifier reads, and one can do so")
        if sum(member.peer() is not None for member in members) > 1:
            raise ObjectiveError("two of the methods train a network beside the student, and one can be trained")

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step.

        Raises:
            ValueError: A member returns its loss as one sum.
        """
        active = self._active(step.epoch)
        logits: Tensor | None = None
        results: dict[Objective, tuple[LossTerms, Rows]] = {}
        for member in sorted(active, key=lambda member: not member.changes_logits):
            terms: LossTerms = member(_seen_by(member, step))
            results[member] = terms, step.rows
            if terms.logits is not None:
                logits = terms.logits
                student = replace(step.student, logits=logits)
                step = replace(step, rows=replace(step.rows, student=logits), student=student)
        found = {member: results[member] for member in active}
        values: dict[str, Tensor] = {}
        parts: dict[str, Tensor] = {}
        for member, (terms, rows) in found.items():
            left_out = set() if member is self.members[0] else {"ce"}
            values |= {name: value for name, value in terms.values.items() if name not in left_out}
            parts |= {name: part for name, part in separate(terms, rows).items() if name not in left_out}
        measures = [partial(terms.diagnostics, terms.gradients) for terms, _ in found.values() if terms.diagnostics]

        def measure(_: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value for measured in reversed(measures) for name, value in measured().items()}

        total = torch.stack(list(parts.values())).sum()
        return LossTerms(total, values, diagnostics=measure if measures else None, parts=parts, logits=logits)

    def _active(self, epoch: int | None) -> list[Objective]:
        """Return the members whose loss an epoch has: all of them, or the one that is in its first stage."""
        members = [member for member in self.members if isinstance(member, Objective)]
        staged: list[Objective] = [
            member for member in members if isinstance(member, TwoStageObjective) and member.in_first_stage(epoch)
        ]
        return staged or members

    def trains(self, epoch: int) -> Trained:
        """Return how many of the student's parameters the loss of an epoch depends on."""
        active = self._active(epoch)
        # The logits that the others read are no longer those of the student's own last layers.
        if changed := next((member for member in active if member.changes_logits), None):
            return changed.trains(epoch)
        found = {member.trains(epoch) for member in active}
        return "all" if "all" in found else "some" if "some" in found else "none"

    def peer(self) -> nn.Module | None:
        """Return the network of the member that has one."""
        return next(filter(None, (member.peer() for member in self._active(None))), None)

    def student_parameters(self) -> tuple[Tensor, ...]:
        """Return the parameters of the student that the members read themselves."""
        found = (parameter for member in self._active(None) for parameter in member.student_parameters())
        return tuple({id(parameter): parameter for parameter in found}.values())

    def exported(self, student: nn.Module) -> nn.Module:
        """Return the student with what all members add to it."""
        for member in self._active(None):
            student = member.exported(student)
        return student

    def folded(self, exported: nn.Module) -> nn.Module:
        """Return the exported network as the members save it."""
        for member in reversed(self._active(None)):
            exported = member.folded(exported)
        return exported


def _seen_by(member: Objective, step: Step) -> Step:
    teacher = step.teacher and _with_taps(step.teacher, member.taps.teacher)
    return replace(step, student=_with_taps(step.student, member.student_outputs), teacher=teacher)


def _with_taps(outputs: Outputs, names: Sequence[str]) -> Outputs:
    return replace(outputs, taps={name: outputs.taps[name] for name in names})


def student_shapes(objective: Objective, setting: Setting) -> dict[str, torch.Size]:
    """Return the shapes of what the student's pass returns beside its logits, by name, without the batch's dimension.

    Args:
        objective: The method.
        setting: What it was built for.
    """
    peer = {PEER: torch.Size([setting.student.num_classes])} if objective.peer() else {}
    return dict(setting.student.taps) | peer


def build_objective(method: MethodRef, setting: Setting, *of_added: Setting) -> Objective:
    """Return the objective that a spec names, with its parameters bound, and with the methods that are added to it.

    Each method draws its parameters from the same random state, so that they are those that it has alone.

    Args:
        method: The name of the method and its parameters.
        setting: What it is built for.
        of_added: What each method that is added to it is built for.

    Raises:
        ObjectiveError: The taps' shapes cannot be joined.
    """
    if is_closed_form(method):
        return LogitObjective(build_loss(method))
    return combine(
        method, [partial(build_member, *pair) for pair in zip(method.members, (setting, *of_added), strict=True)]
    )


def combine(method: MethodRef, builders: Sequence[Callable[[], Objective]]) -> Objective:
    """Return the objective of a method and of those that are added to it.

    Args:
        method: The method.
        builders: Build each of them, all from the same random state.
    """
    random = torch.get_rng_state()
    members: list[Objective] = []
    for build in builders:
        torch.set_rng_state(random)
        members.append(build())
    objective = members[0] if len(members) == 1 else Combination(members)
    objective.shares = method.all_shares
    return objective


def is_closed_form(method: MethodRef) -> bool:
    """Return whether all terms of a method are functions of the logits with gradients in closed form."""
    return not any(_is_class(member.entry.load()) for member in method.members)


def build_member(member: WeightedMethod, setting: Setting) -> Objective:
    """Return the objective of one method, without those that are added to it.

    Args:
        member: The method.
        setting: What it is built for.

    Raises:
        ObjectiveError: The taps' shapes cannot be joined.
    """
    target = member.entry.load()
    if not _is_class(target):
        return LogitObjective(build_loss(MethodRef(name=member.name, params=member.params)))
    objective: Objective = target(member.parsed_params, setting)
    objective.taps = Taps(tuple(setting.student.taps), tuple(setting.teacher.taps) if setting.teacher else ())
    return objective


def _is_class(target: Any) -> bool:
    return isinstance(target, type) and issubclass(target, Objective)
