"""What the catalog knows about a method."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from core.catalog.datasets import DatasetFacts
from core.catalog.methods.search import Range
from core.catalog.metric import Metric, share_metric
from core.catalog.registry import Entry, Registry
from core.catalog.taps import Taps, TapShapes, tap_choices
from core.catalog.tasks import TASKS

_COLOR = re.compile(r"#[0-9A-Fa-f]{6}")

Family = Literal[
    "labels", "logits", "decoupled", "features", "relations", "contrastive", "two_stage", "several_networks", "boxes"
]
"""What a method compares, by which forms and figures group many methods.

``labels``: no teacher. ``logits``: the outputs. ``decoupled``: the outputs in parts, as DKD does. ``features``: inner
layers, sample by sample. ``relations``: how samples, channels or stages relate to each other. ``contrastive``: samples
against a memory of others. ``two_stage``: a first stage that prepares networks, then the training.
``several_networks``: more than one network beside the student. ``boxes``: how a detector moves the boxes of objects.
"""
LABEL_TERM = "ce"
"""Name of the term of cross-entropy with the labels, which methods have in common."""
FAMILIES: tuple[Family, ...] = get_args(Family)

COMPARES_NON_TARGETS = "compares the non-target classes with each other"
"""Why most methods need three classes, see ``ClassesNeeded``."""
_KD_CLASSES = 2
_ENOUGH_FOR_KD = "kd compares all classes, and two are enough for it"


BACKGROUND_PREFIX = "bg_"
"""What the names of terms begin with that are of boxes without an object alone."""
_BEFORE_TERM = re.compile(r"^((?:\w+/)?(?:share_)?)")


def background_name(name: str) -> str:
    """Return the name of a term or a metric if it is of boxes without an object alone: ``grad/share_bg_tckd``."""
    return _BEFORE_TERM.sub(rf"\1{BACKGROUND_PREFIX}", name, count=1)


@dataclass(frozen=True)
class SpecWarning:
    """A warning about valid parameters that do not have the effect that they seem to have, or what is wrong with them.

    Attributes:
        field: Path of the field within the method, such as ``params.decay``; empty for the whole method.
        message: The text.
    """

    field: str
    message: str


@dataclass(frozen=True)
class ClassesNeeded:
    """The least number of classes that a method can be trained with.

    Attributes:
        least: The number.
        reason: What the method does that needs them, as a clause after its name.
        field: The parameter that decides the number; empty if none does.
        remedy: What else to do than to take another data set, as a clause; empty if there is nothing.
    """

    least: int
    reason: str
    field: str = ""
    remedy: str = ""

    def problem(self, name: str, dataset: str, num_classes: int, *, background: bool = False) -> str | None:
        """Return why a method cannot be trained on a data set; None if it can.

        Args:
            name: The method.
            dataset: The name of the data set.
            num_classes: Its number of classes.
            background: Whether one of them is the background.
        """
        if num_classes >= self.least:
            return None
        remedy = f"; {self.remedy}" if self.remedy else ""
        has = f"{num_classes}, the background included" if background else str(num_classes)
        return f"{name} {self.reason} and needs at least {self.least} classes; {dataset} has {has}{remedy}"


@dataclass(frozen=True)
class MethodContext:
    """What a method's warnings and problems may depend on besides its parameters.

    Attributes:
        epochs: Epochs of the training.
        batch_size: B, images per step.
        num_classes: C; None if only the worker can know it.
        facts: What is known of the data set; None if only the worker can know it.
        mixes: Name of the augmentation that mixes two images of a batch; "" without one.
        rows_vary: Whether the rows are regions, of which every step has another number, and not the images.
    """

    epochs: int
    batch_size: int
    num_classes: int | None
    facts: DatasetFacts | None = None
    mixes: str = ""
    rows_vary: bool = False


@dataclass(frozen=True)
class FirstStage:
    """The first stage of a method with two, which prepares networks for the second.

    Attributes:
        epochs: The parameter that gives its number of epochs.
        term: The term that is the whole loss in it.
    """

    epochs: str
    term: str


@dataclass(frozen=True)
class Momenta:
    """The momentum of each term, for a method that averages the gradients of its terms over different numbers of steps.

    Attributes:
        of_terms: By the name of a term. The weight decay belongs to the gradient of the first one.
        rest: That of every other term, such as those of methods that are added.
        params: By the name of a term, the parameter that decides its momentum.
    """

    of_terms: Mapping[str, float]
    rest: float
    params: Mapping[str, str] = field(default_factory=dict)

    @property
    def values(self) -> tuple[float, ...]:
        """All momenta."""
        return (*self.of_terms.values(), self.rest)


@dataclass(frozen=True, kw_only=True)
class MethodEntry(Entry):
    """A method.

    ``target`` is a callable ``(Rows, params, epoch) -> LossTerms``, or a class with the interface of
    ``core.distill.objective.Objective``.

    Attributes:
        family: What it compares.
        needs_teacher: Whether the loss reads a teacher's logits.
        taps: Returns the layers that the method reads with given parameters; None if it reads logits alone.
        joins: Returns why the method cannot compare layers of these shapes, the student's and the teacher's, with given
            parameters; None if it can compare layers of any shapes.
        layers: What the layers must give that it reads; empty if both maps and vectors will do, or it reads none.
        least_layers: The least number of layers of each network that it reads.
        changes_classifier: Whether it changes what the student's classifier reads, so that it cannot be combined with
            another method that does.
        tasks: Names of the tasks that the method can be trained on; empty for every task whose rows it can read.
        reads_rows_alone: Whether the loss is a function of the rows alone: of logits, classes and weights, in whatever
            number and of whatever, so that the rows may be regions of images.
        reads_maps_alone: Whether all terms besides cross-entropy are of maps of whole images, without logits or classes
            of images, so that the rows may be regions of images.
        reads_offsets: Whether it reads how the boxes of regions are to be moved.
        needs_own_boxes: Whether it compares on the boxes that the student itself is trained on, and on no others.
        task_params: By the name of a task, the parameters that are usual for it and not the defaults: those of
            published experiments, or of this project's examples. A form starts with them; a spec without them has the
            defaults, and a warning.
        task_shares: By the name of a task, the shares of terms that are usual for it in place of their weights.
        min_classes: The least number of classes. NCKD compares the non-target classes, so it needs at least two.
        classes_needed: Returns the least number of classes with given parameters, and why; None if it is
            ``min_classes`` whatever they are.
        metrics: What a training with this method reports besides the metrics of its task: ``train/NAME`` for each
            value of ``LossTerms.values``, and what ``LossTerms.diagnostics`` returns. Charts, comparisons and exports
            show them by these descriptions.
        measured: Names of the values of ``LossTerms.values`` that are drawn and no terms, such as a temperature.
        weight_params: By the name of a term, the parameter that is its weight.
        switches: By the name of a term, the parameter that is ``off`` or left out if the loss does not have the term.
        share_params: By the name of a term, the parameter that gives the term a share of the gradient.
        companion: Name of the metric that Compare can draw on a second axis beside the headline metric; "" for none.
        first_stage: The stage before the training proper; None for a method of one stage.
        momenta: Returns the momentum of each term with given parameters and the optimiser's momentum; None if all terms
            have the optimiser's.
        warnings: Returns warnings about parameters within a spec; None if there are none.
        search: By the parameter, what a tuning draws it from; empty for the weights of the terms and the temperature,
            see ``core.tuning.space``.
        problems: Returns what makes parameters impossible within a spec, which is then refused; None if nothing does.
        color: Colour of its curves as ``#RRGGBB``; empty for one that the dashboard chooses.
        label_colors: Colours of some of its automatic labels, so that its variants differ from each other.
        published: Parameters of the experiments in ``source``, if the defaults are others; else empty.
        cost: What a training step costs beyond cross-entropy, in a sentence.
    """

    family: Family = "logits"
    needs_teacher: bool = True
    tasks: tuple[str, ...] = ()
    reads_rows_alone: bool = False
    reads_maps_alone: bool = False
    reads_offsets: bool = False
    needs_own_boxes: bool = False
    task_params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    task_shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    min_classes: int = 2
    classes_needed: Callable[[Any], ClassesNeeded] | None = None
    taps: Callable[[Any], Taps] | None = None
    joins: Callable[[Any, TapShapes, TapShapes], Iterable[SpecWarning]] | None = None
    layers: Literal["", "maps", "vectors"] = ""
    least_layers: int = 1
    changes_classifier: bool = False
    metrics: tuple[Metric, ...] = ()
    measured: tuple[str, ...] = ()
    weight_params: Mapping[str, str] = field(default_factory=dict)
    share_params: Mapping[str, str] = field(default_factory=dict)
    switches: Mapping[str, str] = field(default_factory=dict)
    companion: str = ""
    first_stage: FirstStage | None = None
    momenta: Callable[[Any, float], Momenta] | None = None
    warnings: Callable[[Any, MethodContext], Iterable[SpecWarning]] | None = None
    search: Mapping[str, Range] = field(default_factory=dict)
    problems: Callable[[Any, MethodContext], Iterable[SpecWarning]] | None = None
    color: str = ""
    label_colors: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, Any] = field(default_factory=dict)
    cost: str = ""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss: the drawn metrics ``train/NAME``, except what is only measured."""
        drawn = (metric.name for metric in self.metrics if metric.drawn)
        names = (name.removeprefix("train/") for name in drawn if name.startswith("train/"))
        return tuple(name for name in names if name not in self.measured)

    @property
    def share_metrics(self) -> tuple[Metric, ...]:
        """What is reported of each term besides its value: its share of the gradient, and the weight of a share."""
        terms = {metric.name: metric for metric in self.metrics}
        described = [terms[f"train/{name}"] for name in self.terms]
        return (*map(share_metric, described), *map(_weight_metric, described))

    @property
    def background_metrics(self) -> tuple[Metric, ...]:
        """What is reported if boxes without an object are a group of their own."""
        if not self.reads_rows_alone:
            return ()
        label = f"train/{LABEL_TERM}"
        own = [*(metric for metric in self.metrics if metric.name != label), *self.share_metrics]
        return tuple(
            _of_background(metric)
            for metric in own
            if not metric.name.endswith(f"_{LABEL_TERM}") and not metric.name.startswith("train/weight_")
        )

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"method {self.name!r} has no family {self.family!r}; one of {', '.join(FAMILIES)}")
        for color in (self.color, *self.label_colors.values()):
            if color and not _COLOR.fullmatch(color):
                raise ValueError(f"method {self.name!r} has the colour {color!r}; write it as #RRGGBB")

    def terms_of(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the terms that the loss has with given parameters."""
        return tuple(term for term in self.terms if not self.is_switched_off(term, params))

    @property
    def label_weight(self) -> str | None:
        """The parameter that is the weight of the cross-entropy with the labels; None if there is none."""
        return self.weight_params.get(LABEL_TERM)

    @property
    def own_terms(self) -> tuple[str, ...]:
        """Names of the terms besides the cross-entropy with the labels."""
        return tuple(term for term in self.terms if term != LABEL_TERM)

    def reported_by(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the terms besides cross-entropy, and of what else a loss reports beside them."""
        return (*(term for term in self.own_terms if not self.is_switched_off(term, params)), *self.measured)

    def has_first_stage(self, params: Mapping[str, Any]) -> bool:
        """Return whether the method has a first stage of at least one epoch; some have one only if it is asked for.

        Args:
            params: Its parameters, with or without those that are the defaults.
        """
        if self.first_stage is None:
            return False
        name = self.first_stage.epochs
        return bool(params.get(name, self.params.model_fields[name].default))

    def is_switched_off(self, term: str, params: Mapping[str, Any]) -> bool:
        """Return whether the parameters leave a term out of the loss."""
        return term in self.switches and params.get(self.switches[term], "off") == "off"

    def refusal_for_regions(self, params: Any | None) -> str | None:
        """Return why the method cannot train regions, as a verb with its object; None if it can.

        Args:
            params: Its parameters; None if they are not known yet.
        """
        if params is not None and self.taps_of(params).strong_view:
            return "reads a second view of each image"
        if self.reads_rows_alone or self.reads_maps_alone:
            return None
        if self.family == "several_networks":
            return "trains a second classifier of whole images"
        return "reads layers of a classifier of whole images" if self.taps else "reads the class of each image"

    @property
    def for_regions(self) -> bool:
        """Whether it can be trained, with its defaults, on regions of images in every task that has them."""
        required = any(field.is_required() for field in self.params.model_fields.values())
        refusal = self.refusal_for_regions(None if required else self.params())
        return not (self.tasks or self.momenta or refusal or self.has_first_stage({}))

    def classes_needed_by(self, params: Any) -> ClassesNeeded:
        """Return the least number of classes with given parameters."""
        if self.classes_needed:
            return self.classes_needed(params)
        return ClassesNeeded(
            self.min_classes, COMPARES_NON_TARGETS, remedy=_ENOUGH_FOR_KD if self.min_classes > _KD_CLASSES else ""
        )

    def taps_of(self, params: Any) -> Taps:
        """Return the layers that the method reads with given parameters."""
        return self.taps(params) if self.taps else Taps()

    def describe(self) -> dict[str, Any]:
        described = super().describe()
        if self.taps:
            described["params"] = _with_tap_fields(described["params"])
        return described | {
            "family": self.family,
            "needs_teacher": self.needs_teacher,
            "min_classes": self.min_classes,
            "tasks": list(self.tasks),
            "for_regions": self.for_regions,
            "reads_rows_alone": self.reads_rows_alone,
            "reads_maps_alone": self.reads_maps_alone,
            "task_params": {task: dict(params) for task, params in self.task_params.items()},
            "task_shares": {task: dict(shares) for task, shares in self.task_shares.items()},
            "terms": list(self.terms),
            "own_terms": list(self.own_terms),
            "label_weight": self.label_weight,
            "weight_params": dict(self.weight_params),
            "share_params": dict(self.share_params),
            "switches": dict(self.switches),
            "metrics": [metric.describe() for metric in self.metrics],
            "companion": self.companion,
            "first_stage": asdict(self.first_stage) if self.first_stage else None,
            "color": self.color,
            "label_colors": dict(self.label_colors),
            "published": dict(self.published),
            "cost": self.cost,
        }


def _with_tap_fields(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of parameters with ``x-taps-of`` in those that name taps, by which a form offers the taps."""
    properties = dict(schema.get("properties", {}))
    for network in ("student", "teacher"):
        for name, several in ((f"{network}_tap", False), (f"{network}_taps", True)):
            if name in properties:
                offered = several or properties[name].get("x-several", False)
                choice = {"network": network, **tap_choices(several=offered)}
                properties[name] = {**properties[name], "x-taps-of": choice}
    return {**schema, "properties": properties}


def _of_background(metric: Metric) -> Metric:
    """Return a metric as it is measured of boxes without an object alone. Shares are drawn beside those of objects."""
    panel = metric.panel
    if panel and not metric.name.startswith("grad/share_"):
        panel += ": background"
    return replace(metric, name=background_name(metric.name), title=f"{metric.title}: background", panel=panel)


def _weight_metric(term: Metric) -> Metric:
    title = f"{term.title.removesuffix(', unweighted')}: weight that gives its share"
    return Metric(f"train/weight_{term.name.removeprefix('train/')}", title, panel="Weights that give shares")


class MethodRegistry(Registry[MethodEntry]):
    """The methods. Entries may share a metric, such as the cross-entropy term, if they describe it equally."""

    def add(self, entry: MethodEntry) -> MethodEntry:
        """Add an entry.

        Raises:
            ValueError: The name is taken, or another entry describes one of its metrics differently.
        """
        known = {metric.name: (metric, owner) for owner in (*TASKS, *self) for metric in owner.metrics}
        for metric in entry.metrics:
            other, owner = known.get(metric.name, (metric, entry))
            if other != metric:
                text = f"method {entry.name!r} and {owner.name!r} describe the metric {metric.name!r} differently"
                raise ValueError(f"{text}; use the same Metric, or another name")
        return super().add(entry)


METHODS = MethodRegistry("method")
