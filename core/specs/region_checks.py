"""Checks of methods in a task whose rows are regions of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from core.catalog import DATASETS, METHODS, MODELS, TASKS, MethodEntry, TaskEntry
from core.catalog.methods import MethodContext, SpecWarning
from core.specs.augment_checks import augment_problems
from core.specs.components import DatasetRef, MethodRef, ModelRef, WeightedMethod
from core.specs.problems import ProblemParts
from core.specs.training import Training

Place = tuple[int | str, ...]


def region_problems(
    method: MethodRef, dataset: DatasetRef, student: ModelRef, teachers: Sequence[ModelRef]
) -> Iterator[ProblemParts]:
    """Yield why a method cannot be applied to regions by these networks, with paths within the method.

    Args:
        method: The method, with those that are added to it.
        dataset: The data set.
        student: The student's network.
        teachers: The networks of its teachers.
    """
    task = TASKS[DATASETS[dataset.name].task]
    if not task.rows_are_regions:
        if method.regions is not None:
            text = f"{dataset.name} is a data set of {task.name}, which compares whole images; remove this"
            yield ("regions",), text, method.regions.boxes
        return
    refused = False
    for number, member in enumerate(method.members):
        place: Place = ("with", number - 1) if number else ()
        for path, text, value in _member_problems(member, task):
            refused = True
            yield (*place, *path), text, value
    if refused:
        return
    comparing = [member for member in method.members if _compares_regions(member.entry, task)]
    # A network for another task is refused as such.
    if comparing and all(task.name in MODELS[model.name].tasks for model in (student, *teachers)):
        yield from _network_problems(method, comparing, student, teachers)
    yield from _option_problems(method, comparing)


def background_warnings(method: MethodRef, context: MethodContext) -> Iterator[tuple[Place, str]]:
    """Yield the warnings about parameters of boxes without an object that are not warnings about the others too.

    Args:
        method: The method, with those that are added to it.
        context: The spec.
    """
    if not method.regions or method.regions.background != "separate":
        return
    for member, apart in zip(method.members, method.background_members, strict=True):
        warnings = member.entry.warnings
        known = set(warnings(member.parsed_params, context)) if warnings else set()
        for warning in warnings(apart.parsed_params, context) if warnings else ():
            if warning not in known:
                yield _background_place(method, warning), f"for boxes without an object, {warning.message}"


def background_problems(method: MethodRef, dataset: str, context: MethodContext) -> Iterator[ProblemParts]:
    """Yield why parameters of boxes without an object are impossible, where those of the others are possible.

    Args:
        method: The method, with those that are added to it.
        dataset: The name of the data set.
        context: The spec.
    """
    if not method.regions or method.regions.background != "separate":
        return
    for member, apart in zip(method.members, method.background_members, strict=True):
        entry, params, own = member.entry, apart.parsed_params, member.parsed_params
        known = set(entry.problems(own, context)) if entry.problems else set()
        for found in entry.problems(params, context) if entry.problems else ():
            if found not in known:
                yield _background_place(method, found), f"for boxes without an object, {found.message}", member.name
        if context.num_classes is None or entry.classes_needed_by(own).least > context.num_classes:
            continue
        needed = entry.classes_needed_by(params)
        if text := needed.problem(member.name, dataset, context.num_classes, background=True):
            yield _background_place(method, SpecWarning(f"params.{needed.field}", "")), text, member.name


def training_problems(training: Training, dataset: DatasetRef) -> Iterator[ProblemParts]:
    """Yield what of a training has no meaning in the task of a data set, with paths within it.

    Args:
        training: The training.
        dataset: The data set.
    """
    yield from augment_problems(training, dataset)
    task = TASKS[DATASETS[dataset.name].task]
    if not task.rows_are_regions:
        return
    task_text = f"{dataset.name} is a data set of {task.name}"
    if training.accumulate > 1:
        text = "the boxes of a step are compared together, and cannot be divided; choose a smaller batch_size"
        yield ("accumulate",), text, training.accumulate
    if training.collapse_every:
        text = f"neural collapse is defined for images of one class each, and {task_text}; set 0"
        yield ("collapse_every",), text, training.collapse_every
    if training.features_every:
        text = f"features are kept of images of one class each, and {task_text}; leave it out"
        yield ("features_every",), text, training.features_every
    if training.label_smoothing:
        text = "most boxes are background, whose label is not smoothed in the loss of any detector; set 0"
        yield ("label_smoothing",), text, training.label_smoothing
    for name in ("robustness", "stylised"):
        if value := getattr(training, name):
            yield (name,), f"perturbed images are for classification, and {task_text}; remove this", value


def _member_problems(member: WeightedMethod, task: TaskEntry) -> Iterator[ProblemParts]:
    entry, params = member.entry, member.parsed_params
    if entry.tasks:  # whether the task is among them is checked for every task
        return
    if reason := entry.refusal_for_regions(params):
        yield (), f"{entry.name} {reason}, which {task.name} does not have; {_others()}", entry.name
    elif entry.momenta:
        text = f"{entry.name} gives each term a momentum, and a detector has losses besides the method's; {_others()}"
        yield (), text, entry.name
    elif entry.first_stage and entry.has_first_stage(member.params):
        stage = entry.first_stage
        text = f"the first stage has {stage.term} alone, and a detector is trained by its own losses in every epoch"
        yield ("params", stage.epochs), f"{text}; set 0", member.params.get(stage.epochs)


def _others() -> str:
    """Return which methods can be applied to regions."""
    on_rows = [entry for entry in METHODS if entry.reads_rows_alone and entry.own_terms and not entry.momenta]
    return f"choose one on logits ({_names(on_rows)}) or on maps ({_maps()})"


def _maps() -> str:
    return _names([entry for entry in METHODS if entry.reads_maps_alone])


def _names(entries: Sequence[MethodEntry]) -> str:
    return ", ".join(entry.name for entry in entries)


def _compares_regions(entry: MethodEntry, task: TaskEntry) -> bool:
    """Return whether a method compares what two networks say of boxes."""
    if entry.reads_maps_alone:
        return False
    return (entry.reads_rows_alone and bool(entry.own_terms)) or task.name in entry.tasks


def _network_problems(
    method: MethodRef, comparing: Sequence[WeightedMethod], student: ModelRef, teachers: Sequence[ModelRef]
) -> Iterator[ProblemParts]:
    """Yield why the networks have no logits of the same boxes."""
    names = " and ".join(member.name for member in comparing)
    place: Place = ()
    for number, member in enumerate(method.members):
        if member is comparing[0]:
            place = ("with", number - 1) if number else ()
    for role, model in (("student", student), *(("teacher", model) for model in teachers)):
        if MODELS[model.name].region_logits == "none":
            text = f"{names} compares logits of boxes over all classes, which the {role} {model.name} does not have"
            yield place, f"{text}; choose a method on maps ({_maps()}), or a {role} such as {_detectors()}", names
            return
    boxes = method.regions.boxes if method.regions else "student"
    anchored = [model for model in teachers if MODELS[model.name].region_logits == "anchors"]
    if MODELS[student.name].region_logits == "anchors":
        if boxes != "student":
            text = f"the student {student.name} has logits of its own anchors alone; set boxes: student"
            yield ("regions", "boxes"), text, boxes
        for model in anchored:
            if text := _other_anchors(student, model):
                yield place, f"{names} compares logits of anchors, and {text}", names
                return
    elif anchored:
        text = f"the teacher {anchored[0].name} has logits of its own anchors alone, and the student {student.name}"
        yield place, f"{text} none of them; choose a teacher such as {_detectors()}", names


def _other_anchors(student: ModelRef, teacher: ModelRef) -> str:
    """Return what shows that a teacher has other anchors than the student; "" if only their backbones can show it."""
    if student.name != teacher.name:
        text = f"the teacher {teacher.name} has others than the student {student.name}"
        return f"{text}; choose a teacher such as {student.name} or {_detectors()}"
    ours, theirs = (model.parsed_params for model in (student, teacher))
    differing = [name for name in MODELS[student.name].anchor_params if getattr(ours, name) != getattr(theirs, name)]
    if not differing:
        return ""
    return f"student and teacher have others, by {' and '.join(differing)}; give both the same"


def _detectors() -> str:
    return next((entry.name for entry in MODELS if entry.region_logits == "any"), "one of two stages")


def _option_problems(method: MethodRef, comparing: Sequence[WeightedMethod]) -> Iterator[ProblemParts]:
    """Yield which options of regions a method cannot follow."""
    if not (options := method.regions):
        return
    if not comparing:
        text = f"{method.full_name} compares nothing of boxes, so this has no effect; remove it"
        yield ("regions",), text, options.boxes
        return
    if options.background == "separate" and not any(member.entry.reads_rows_alone for member in comparing):
        text = f"{comparing[0].name} has no terms of logits that boxes without an object could have for themselves"
        yield ("regions", "background"), f"{text}; set all or none", options.background
    own = next((member.name for member in comparing if member.entry.needs_own_boxes), None)
    if own and options.boxes != "student":
        text = f"{own} compares on the boxes that the student is trained on, and on no others; set boxes: student"
        yield ("regions", "boxes"), text, options.boxes


def _background_place(method: MethodRef, found: SpecWarning) -> Place:
    """Return the path of a warning or problem about parameters of boxes without an object."""
    name = found.field.removeprefix("params.")
    given = method.regions.background_params if method.regions else {}
    return ("regions", "background_params", *((name,) if name in given else ()))
