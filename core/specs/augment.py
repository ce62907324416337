"""The field ``training.augment``: one name, or several augmentations with parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, GetJsonSchemaHandler, TypeAdapter, ValidationInfo
from pydantic_core import CoreSchema

from core.catalog import AUGMENTATIONS, AugmentationEntry, Registry, UnknownNameError
from core.catalog.augmentations import STANDARD, Stage
from core.specs.components import CatalogRef, limit_length
from core.specs.problems import validation_error

MAX_AUGMENTATIONS = 20


class AugmentationRef(CatalogRef):
    """An augmentation with its parameters."""

    registry: ClassVar[Registry[Any]] = AUGMENTATIONS

    @property
    def entry(self) -> AugmentationEntry:
        """Its entry in the catalog."""
        return AUGMENTATIONS[self.name]

    def plain(self) -> str | dict[str, Any]:
        """Return the short form: a bare name if there are no parameters."""
        return {"name": self.name, "params": self.params} if self.params else self.name


_ITEMS: TypeAdapter[tuple[AugmentationRef, ...]] = TypeAdapter(tuple[AugmentationRef, ...])


def _canonical(value: Any, info: ValidationInfo) -> str | tuple[str | dict[str, Any], ...]:
    """Return the augmentations in one form, so that equal trainings have equal fingerprints.

    A view alone is its name. Otherwise it is a list in the order of the pipeline, which begins with the view.

    Raises:
        ValueError: The value is neither a name nor an augmentation nor a list of them.
        ValidationError: A name or a parameter is refused, or two augmentations exclude each other.
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        refs = _ITEMS.validate_python(limit_length(value, info, MAX_AUGMENTATIONS), context=info.context)
    elif isinstance(value, str):
        if value not in AUGMENTATIONS:  # named here, so that the error is the field's and not that of a name in it
            raise ValueError(str(UnknownNameError("augmentation", value, AUGMENTATIONS.spellings())))
        refs = (AugmentationRef(name=value),)
    elif isinstance(value, Mapping):
        refs = (AugmentationRef.model_validate(value, context=info.context),)
    else:
        raise ValueError("should be the name of an augmentation, a mapping with a name, or a list of these")
    _check_together(refs)
    stages = list(Stage)
    ordered = sorted(refs, key=lambda ref: stages.index(ref.entry.stage))
    if not ordered or ordered[0].entry.stage is not Stage.VIEW:
        ordered.insert(0, AugmentationRef(name=STANDARD))
    plain = tuple(ref.plain() for ref in ordered)
    return plain[0] if len(plain) == 1 and isinstance(plain[0], str) else plain


def _check_together(refs: Sequence[AugmentationRef]) -> None:
    """Raise ValidationError if an augmentation is given twice, or more than one view or more than one scale."""
    seen: Counter[str] = Counter()
    single: dict[Stage, str] = {}
    for index, ref in enumerate(refs):
        if seen[ref.name]:
            raise validation_error("augment", ((index,), f"{ref.name} is given twice", ref.name))
        seen[ref.name] += 1
        stage = ref.entry.stage
        if stage in (Stage.VIEW, Stage.SCALE) and (first := single.setdefault(stage, ref.name)) != ref.name:
            text = f"{first} and {ref.name} exclude each other"
            raise validation_error("augment", ((index,), text, ref.name))


def augmentations_of(augment: Any) -> tuple[AugmentationRef, ...]:
    """Return the augmentations of a validated ``augment`` field in the order of the pipeline, the view first."""
    return _ITEMS.validate_python((augment,) if isinstance(augment, str) else augment)


class _AugmentSchema:
    """The JSON schema of the field. ``x-entries`` holds what a form needs to draw it."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        names = [entry.name for entry in AUGMENTATIONS]
        name = {"type": "string", "enum": names}
        entry = {
            "type": "object",
            "properties": {"name": name, "params": {"type": "object", "additionalProperties": True}},
            "required": ["name"],
            "additionalProperties": False,
        }
        one = [name, entry]
        return {
            "anyOf": [*one, {"type": "array", "items": {"anyOf": one}, "maxItems": MAX_AUGMENTATIONS}],
            "x-entries": [
                {key: item.describe()[key] for key in ("name", "title", "summary", "params", "tasks")}
                for item in AUGMENTATIONS
            ],
        }


Augment = Annotated[str | tuple[str | dict[str, Any], ...], BeforeValidator(_canonical), _AugmentSchema()]
"""A view's name, or a list of names and of mappings with ``name`` and ``params``."""
