"""How a method is applied to the regions of images: on which boxes, and what boxes without an object count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator
from pydantic.config import JsonDict

from core.catalog import MethodEntry
from core.catalog.suggestions import suggest_name
from core.specs.problems import ProblemParts, validation_error
from core.specs.spec_model import SpecModel

Boxes = Literal["student", "teacher", "union", "fixed"]
Background = Literal["all", "none", "weight", "separate"]


def _only_for(field: str, value: str) -> JsonDict:
    return {"x-only-for": {"field": field, "values": [value]}}


_FIXED = _only_for("boxes", "fixed")

_DEPENDENT: Mapping[str, tuple[str, str]] = {
    "background_weight": ("background", "weight"),
    "background_params": ("background", "separate"),
    "fixed_count": ("boxes", "fixed"),
    "jitter_share": ("boxes", "fixed"),
    "jitter_shift": ("boxes", "fixed"),
    "jitter_scale": ("boxes", "fixed"),
}
"""By the name of a field, the other field and its value without which it has no effect."""


class RegionOptions(SpecModel):
    """On which boxes student and teacher are compared, and what boxes without an object count.

    A bare text is short for ``boxes``. What has no effect is left out of a spec.
    """

    boxes: Boxes = Field(
        "student",
        description="Boxes whose logits are compared. student: those that the student is trained on in this step. "
        "teacher: the teacher's proposals. union: both. fixed: labelled boxes that are moved at random, and proposals "
        "of the teacher, drawn once for each view of an image, so that the teacher's logits can be kept on disk.",
    )
    background: Background = Field(
        "all",
        description="How boxes without an object are weighted in the terms that compare logits. all: like other "
        "boxes. none: not at all. weight: with background_weight. separate: as a group of their own, with "
        "background_params.",
    )
    background_weight: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="Weight of a box without an object. Boxes with an object have the weight 1.",
        examples=[0.25],
        json_schema_extra=_only_for("background", "weight"),
    )
    background_params: dict[str, Any] = Field(
        default_factory=dict,
        description="Parameters of the method that differ for boxes without an object.",
        examples=[{"beta": 1.0}],
        json_schema_extra=_only_for("background", "separate"),
    )
    fixed_count: int = Field(64, ge=1, le=2000, description="Number of boxes of an image.", json_schema_extra=_FIXED)
    jitter_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Share of the boxes that are moved copies of labelled boxes; the others are proposals.",
        json_schema_extra=_FIXED,
    )
    jitter_shift: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Maximum distance by which the centre of a copy is moved, as a share of the box's width and "
        "height.",
        json_schema_extra=_FIXED,
    )
    jitter_scale: float = Field(
        0.2,
        ge=0,
        le=1,
        description="s: the width and the height of a copy are multiplied by factors from 1/(1+s) to 1+s.",
        json_schema_extra=_FIXED,
    )

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"boxes": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _every_field_counts(self) -> Self:
        if self.background == "weight" and self.background_weight is None:
            text = "background: weight needs the weight of a box without an object"
            raise validation_error("RegionOptions", (("background_weight",), text, None))
        if problems := [
            ((name,), f"has an effect only with {field}: {value}", getattr(self, name))
            for name, (field, value) in _DEPENDENT.items()
            if getattr(self, field) != value and getattr(self, name) != getattr(DEFAULT_REGIONS, name)
        ]:
            raise validation_error("RegionOptions", *problems)
        return self

    @property
    def of_boxes(self) -> dict[str, Any]:
        """The options that decide which boxes there are, without those of the background."""
        own = [name for name, (field, value) in _DEPENDENT.items() if (field, value) == ("boxes", self.boxes)]
        return {name: getattr(self, name) for name in ("boxes", *own)}

    @model_serializer(mode="wrap")
    def _without_what_has_no_effect(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        unread = {name for name, (field, value) in _DEPENDENT.items() if getattr(self, field) != value}
        return {name: value for name, value in values.items() if name not in unread}


DEFAULT_REGIONS = RegionOptions.model_construct()
"""What is compared if a spec does not say. Every dump of a method is compared with it, so it is made once."""


def with_background_params(entry: MethodEntry, params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that a method has for boxes without an object.

    Args:
        entry: The method.
        params: Its parameters.
        given: The parameters of the spec that differ, of this method and of others in the combination.
    """
    own = {name: value for name, value in given.items() if _may_differ(entry, name)}
    return {**params, **own}


def complete_background_params(
    entries: Sequence[MethodEntry], params: Sequence[Mapping[str, Any]], given: Mapping[str, Any], context: Any
) -> dict[str, Any]:
    """Return the parameters that differ for boxes without an object, as the methods' models read them.

    Args:
        entries: The methods in their order.
        params: The parameters of each.
        given: What the spec gives.
        context: Of the validation.

    Raises:
        ValidationError: No method has such a parameter, two have it, or its value is not allowed.
    """
    problems = list(_name_problems(entries, given))
    complete = dict(given)
    for entry, own in zip(entries, params, strict=True):
        names = [name for name in given if _may_differ(entry, name)]
        if problems or not names:
            continue
        try:
            read = entry.params.model_validate(with_background_params(entry, own, given), context=context)
        except ValidationError as error:
            for item in error.errors(include_url=False, include_context=False):
                message = item["msg"].removeprefix("Value error, ")
                problems.append((("regions", "background_params", *item["loc"]), message, item["input"]))
        else:
            dumped = read.model_dump(mode="json")
            complete |= {name: dumped[name] for name in names if name in dumped}
    if problems:
        raise validation_error("MethodRef", *problems)
    return complete


def _may_differ(entry: MethodEntry, name: str) -> bool:
    return entry.reads_rows_alone and name in entry.params.model_fields and name != entry.label_weight


def _name_problems(entries: Sequence[MethodEntry], given: Mapping[str, Any]) -> Iterator[ProblemParts]:
    """Yield what is wrong with the names of parameters that differ for boxes without an object."""
    row_methods = [entry for entry in entries if entry.reads_rows_alone]
    known = [name for entry in row_methods for name in entry.params.model_fields if _may_differ(entry, name)]
    for name, value in given.items():
        place = ("regions", "background_params", name)
        owners = [entry.name for entry in row_methods if _may_differ(entry, name)]
        if len(owners) > 1:
            text = f"{' and '.join(owners)} both have {name}, and one value cannot be meant for both"
            yield place, text, value
        elif any(entry.label_weight == name for entry in entries):
            yield place, "cross-entropy is of all boxes together, and has one weight", value
        elif not owners:
            names = ", ".join(entry.name for entry in row_methods) or "no method here"
            hint = suggest_name(name, dict.fromkeys(known, ())) if known else "it takes none"
            yield place, f"{names} has no parameter {name!r}; {hint}", value


def words_of(regions: Any) -> str:
    """Return in a few words what distinguishes options of regions, as plain data, from the default; "" if nothing."""
    if isinstance(regions, str):
        regions = {"boxes": regions}
    if not isinstance(regions, Mapping):
        return ""
    boxes = {"teacher": "teacher boxes", "student": ""}.get(str(regions.get("boxes", "student")))
    parts = [str(regions["boxes"]) if boxes is None else boxes]
    match regions.get("background", "all"):
        case "none":
            parts.append("no background")
        case "weight":
            parts.append(f"background {_short(regions.get('background_weight'))}")
        case "separate":
            given = regions.get("background_params")
            own = given.items() if isinstance(given, Mapping) else ()
            changes = " ".join(f"{name}={_short(value)}" for name, value in own)
            parts.append(f"background {changes}" if changes else "separate background")
    return ", ".join(filter(None, parts))


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
