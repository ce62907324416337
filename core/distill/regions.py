"""Methods in a task whose rows are regions of images, such as detection.

The logits of a region are a row, so a method on rows of logits reads them as those of an image. What is new is how much
boxes without an object count: their target is the background. A method on maps reads images, of which there are others
than regions: it sees one row of equal weight for each image, and the cross-entropy is of the regions.

The weights and what follows from them are derived in docs/method.md, "Regions".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from core.catalog.methods.entry import BACKGROUND_PREFIX, LABEL_TERM, background_name
from core.distill.loss import loss_of
from core.distill.objective import (
    LogitObjective,
    Objective,
    Outputs,
    Setting,
    Step,
    Trained,
    build_member,
    combine,
    is_closed_form,
)
from core.distill.rows import Rows
from core.distill.shares import with_shares
from core.distill.terms import (
    LossTerms,
    Term,
    autocast_disabled,
    compose,
    label_term,
    separate,
    share_metrics,
    with_gradient,
)
from core.specs import MethodRef, WeightedMethod
from core.specs.regions import RegionOptions

BACKGROUND = 0
"""The class of boxes without an object."""


def build_region_objective(method: MethodRef, setting: Setting, *of_added: Setting) -> Objective:
    """Return the objective that a spec names, for steps whose rows are regions. See ``build_objective``.

    Args:
        method: The name of the method, its parameters, and how it is applied to regions.
        setting: What it is built for.
        of_added: What each method that is added to it is built for.

    Raises:
        ObjectiveError: The taps' shapes cannot be joined.
    """
    options = method.regions or RegionOptions()
    apart = method.background_members if options.background == "separate" else ()
    if is_closed_form(method):
        objects = LogitObjective(loss_of(method.members, {}))
        background = LogitObjective(loss_of(apart, {})) if apart else None
        return RegionRows(objects, background, options, _label_weight(method), shares=method.all_shares, alone=True)

    def build(number: int, member: WeightedMethod, own: Setting) -> Objective:
        objective, label_weight = build_member(member, own), _label_weight(member)
        if member.entry.reads_maps_alone:
            return RegionMaps(objective, label_weight)
        separated = bool(apart) and member.entry.reads_rows_alone
        background = build_member(apart[number], own) if separated else None
        return RegionRows(objective, background, options, label_weight, shares=method.all_shares)

    settings = zip(method.members, (setting, *of_added), strict=True)
    return combine(method, [partial(build, number, *pair) for number, pair in enumerate(settings)])


def _label_weight(method: WeightedMethod) -> float:
    """Return the weight of the cross-entropy with the labels."""
    name = method.entry.label_weight
    return float(getattr(method.parsed_params, name)) if name else 1.0


class _OfRegions(Objective):
    """Base of an objective that shows a method a step in another form."""

    scope = "batch"

    def __init__(self, method: Objective) -> None:
        super().__init__()
        self.method = method
        self.taps, self.capturable, self.reads_index = method.taps, method.capturable, method.reads_index

    def student_parameters(self) -> tuple[Tensor, ...]:
        """Return the parameters of the student that the method reads itself."""
        return self.method.student_parameters()

    def exported(self, student: nn.Module) -> nn.Module:
        """Return the network that the training leaves behind."""
        return self.method.exported(student)

    def folded(self, exported: nn.Module) -> nn.Module:
        """Return the network that is evaluated and saved."""
        return self.method.folded(exported)

    def trains(self, epoch: int) -> Trained:
        """Return how many of the student's parameters the loss of an epoch depends on."""
        return self.method.trains(epoch)

    def peer(self) -> nn.Module | None:
        """Return the method's network that sees the same batches."""
        return self.method.peer()


class RegionMaps(_OfRegions):
    """A method on maps of images, beside the cross-entropy of regions.

    Args:
        method: The method.
        label_weight: The weight of the cross-entropy.
    """

    def __init__(self, method: Objective, label_weight: float) -> None:
        super().__init__(method)
        self._label_weight = label_weight

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows = with_a_row(step).rows
        with autocast_disabled(rows):
            images = _of_images(step)
            terms: LossTerms = self.method(images)
            parts, values = _labels(rows, self._label_weight)
            parts |= {name: part for name, part in separate(terms, images.rows).items() if name != LABEL_TERM}
            values |= {name: value for name, value in terms.values.items() if name != LABEL_TERM}
            return LossTerms(_sum(parts), values, parts=parts)


class RegionRows(_OfRegions):
    """A method on rows, in which boxes without an object count as the options say.

    Cross-entropy is of all rows, with the weights that they have for their labels.

    Args:
        method: The method.
        background: The method with the parameters for boxes without an object; None if they are no group of their own.
        options: What boxes without an object count.
        label_weight: The weight of the cross-entropy.
        shares: By the name of a term, its share of the gradient. That of a term is of both groups together.
        alone: Whether the loss is this method alone, so that it gives closed-form terms their shares itself and
            measures them.
    """

    def __init__(
        self,
        method: Objective,
        background: Objective | None,
        options: RegionOptions,
        label_weight: float,
        *,
        shares: Mapping[str, float],
        alone: bool = False,
    ) -> None:
        super().__init__(method)
        self.background = background
        self._factor = {"none": 0.0, "weight": options.background_weight}.get(options.background)
        self._label_weight, self._given, self._alone = label_weight, shares, alone

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        padded = with_a_row(step)
        rows = padded.rows
        with autocast_disabled(rows):
            if self.background is not None:
                terms = self._by_group(padded, self.background)
            else:
                counted = rows if self._factor is None else _with_background(rows, self._factor)
                terms = self.method(replace(padded, rows=counted))
                if self._alone and self._given:
                    terms = with_shares(terms, rows, self._given)
            if self._alone:
                terms = _with_measured_shares(terms)
            # Gradients at a row that was added do not fit the rows of the step.
            return terms if padded is step else replace(terms, parts=separate(terms, rows))

    def _by_group(self, step: Step, background: Objective) -> LossTerms:
        """Return the loss of objects and background as two groups, each weighted by its share of the weights."""
        rows, total = step.rows, step.rows.total_weight()
        is_object = rows.target != BACKGROUND
        groups = []
        for prefix, objective, inside in (("", self.method, is_object), (BACKGROUND_PREFIX, background, ~is_object)):
            own = _only(rows, inside)
            share = own.total_weight() / torch.where(total > 0, total, 1.0)
            groups.append(_Group(prefix, objective(replace(step, rows=own)), own, share))
        if all(group.terms.weighted for group in groups):
            return self._closed_form(rows, groups)
        parts, values = _labels(rows, self._label_weight)
        for group in groups:
            for name, part in separate(group.terms, group.rows).items():
                if name != LABEL_TERM:
                    place = name if name in self._given else group.name(name)
                    parts[place] = parts[place] + group.share * part if place in parts else group.share * part
            values |= {group.name(name): value for name, value in group.terms.values.items() if name != LABEL_TERM}
        return LossTerms(_sum(parts), values, parts=parts)

    def _closed_form(self, rows: Rows, groups: Sequence[_Group]) -> LossTerms:
        """Return the sum of the losses of groups whose terms have closed-form gradients."""
        weighted: dict[str, tuple[float | Tensor, Term]] = {LABEL_TERM: (self._label_weight, label_term(rows))}
        values: dict[str, Tensor] = {}
        joined: dict[str, list[tuple[float | Tensor, Term]]] = {name: [] for name in self._given}
        units: dict[str, Tensor] = {}
        for group in groups:
            values |= {group.name(name): value for name, value in group.terms.values.items() if name != LABEL_TERM}
            for name, (weight, term) in group.terms.weighted.items():
                pair = (weight * group.share, term)
                if name in joined:
                    joined[name].append(pair)
                    units.setdefault(f"weight_{name}", torch.as_tensor(weight).abs())
                elif name != LABEL_TERM:
                    weighted[group.name(name)] = pair
        weighted |= {name: (1.0, _added(pairs)) for name, pairs in joined.items()}
        terms = compose(rows, values, weighted)
        if self._alone and self._given:
            terms = with_shares(terms, rows, self._given)
            values |= {name: terms.values[name] * unit for name, unit in units.items()}

        def measure(_: Mapping[str, Tensor]) -> dict[str, Tensor]:
            # The gradients are those of a group's own mean, so that they do not depend on the size of the other group.
            found = ((group, group.terms) for group in groups if group.terms.diagnostics)
            return {
                group.name(name): value
                for group, own in found
                for name, value in (own.diagnostics(own.gradients) if own.diagnostics else {}).items()
            }

        return replace(terms, values=terms.values | values, diagnostics=measure)


@dataclass(frozen=True)
class _Group:
    """The loss of one group of rows.

    Attributes:
        prefix: Of the names of its terms.
        terms: The loss, a mean over its rows.
        rows: All rows, with the weight 0 outside the group.
        share: Its part of the weight of all rows.
    """

    prefix: str
    terms: LossTerms
    rows: Rows
    share: Tensor

    def name(self, name: str) -> str:
        """Return the name of a term or a metric of the group."""
        return background_name(name) if self.prefix else name


def _with_measured_shares(terms: LossTerms) -> LossTerms:
    """Return a loss with the share of each term's gradient at the logits among what it measures."""

    def measure(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = terms.diagnostics(gradients) if terms.diagnostics else {}
        return found | share_metrics({name: gradient.norm() for name, gradient in gradients.items()})

    return replace(terms, diagnostics=measure)


def _added(pairs: Sequence[tuple[float | Tensor, Term]]) -> Term:
    """Return the sum of weighted terms: with a share, a term of objects and that of the background are one term."""
    return Term(
        torch.stack([term.value * weight for weight, term in pairs]).sum(),
        torch.stack([term.direction * (weight * term.scale) for weight, term in pairs]).sum(0),
    )


def _labels(rows: Rows, weight: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the cross-entropy as a part of a loss with its graph, and its value."""
    term = label_term(rows)
    return {LABEL_TERM: with_gradient(rows.student, term.value * weight, term.gradient * weight)}, {
        LABEL_TERM: term.value
    }


def _sum(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum()


def _with_background(rows: Rows, factor: float) -> Rows:
    """Return rows in which boxes without an object count a number of times, except in the cross-entropy."""
    weight, of_labels = _weights(rows)
    counted = torch.where(rows.target == BACKGROUND, factor * weight, weight)
    return replace(rows, weight=counted, label_weight=of_labels)


def _only(rows: Rows, inside: Tensor) -> Rows:
    """Return rows of which only some count, in the cross-entropy too: shares of the gradient are of these rows."""
    weight, of_labels = (torch.where(inside, given, torch.zeros_like(given)) for given in _weights(rows))
    return replace(rows, weight=weight, label_weight=of_labels)


def _weights(rows: Rows) -> tuple[Tensor, Tensor]:
    """Return the weights of rows, and those that they have in the cross-entropy."""
    weight = rows.weight
    if weight is None:
        weight = torch.ones_like(rows.target, dtype=torch.float32)
    return weight, weight if rows.label_weight is None else rows.label_weight


def with_a_row(step: Step) -> Step:
    """Return a step that has at least one row: without any, it gets one of weight 0, whose gradient is 0."""
    rows = step.rows
    if len(rows.target):
        return step

    def row(values: Tensor) -> Tensor:
        zeros = values.new_zeros((1, *values.shape[1:]))
        return zeros + values.sum() if values.is_floating_point() else zeros

    def outputs(given: Outputs) -> Outputs:
        offsets = None if given.offsets is None else row(given.offsets)
        return replace(given, logits=row(given.logits), offsets=offsets)

    student, teacher = outputs(step.student), outputs(step.teacher) if step.teacher else None
    nothing = rows.student.new_zeros(1)
    padded = replace(
        rows,
        student=student.logits,
        teacher=None if rows.teacher is None else row(rows.teacher),
        target=row(rows.target),
        weight=nothing,
        label_weight=nothing,
    )
    target = None if step.offset_target is None else row(step.offset_target)
    return replace(step, rows=padded, student=student, teacher=teacher, offset_target=target)


def _of_images(step: Step) -> Step:
    """Return a step with one row of equal weight for each image, whose logits are constants that say nothing."""
    images = len(next(iter(step.student.taps.values())))
    logits = step.rows.student.detach().new_zeros((images, step.rows.student.shape[1]))
    target = step.rows.target.new_zeros(images)
    rows = Rows(logits, logits if step.teacher else None, target)

    def outputs(given: Outputs) -> Outputs:
        return replace(given, logits=logits, offsets=None)

    teacher = outputs(step.teacher) if step.teacher else None
    return replace(
        step, rows=rows, student=outputs(step.student), teacher=teacher, sample_rows=True, offset_target=None
    )
