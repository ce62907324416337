"""Components of experiments and runs: catalog references and resources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from common.input_bounds import SUBMITTED, max_if_submitted
from core.catalog import DATASETS, METHODS, MODELS, Entry, MethodEntry, Params, Registry, UnknownNameError
from core.catalog.datasets import headline_of
from core.catalog.methods.entry import LABEL_TERM
from core.catalog.suggestions import iter_field_paths
from core.specs.combinations import MAX_ADDED, added_problems, combination_problems
from core.specs.labels import LABEL_LENGTH as LABEL_LENGTH
from core.specs.labels import automatic_label
from core.specs.problems import validation_error
from core.specs.regions import DEFAULT_REGIONS, RegionOptions, complete_background_params, with_background_params
from core.specs.shares import share_problems
from core.specs.spec_model import SpecModel as SpecModel

NAME_LENGTH = 100
MAX_EPOCHS = 10_000

UptoLastEpoch = Annotated[int, Field(ge=0), max_if_submitted(MAX_EPOCHS)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
WorkerLabel = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9._:/-]+$")]
"""A property of workers, such as ``h200`` or ``site/cellar``."""


def limit_length(items: Any, info: ValidationInfo, limit: int) -> Any:
    """Return a submitted list, before its items are validated.

    Raises:
        ValueError: The list has more than ``limit`` items.
    """
    if info.context is SUBMITTED and isinstance(items, list | tuple) and len(items) > limit:
        raise ValueError(f"has {len(items)} entries; at most {limit} are allowed")
    return items


def _limit_name(name: str, info: ValidationInfo) -> str:
    if info.context is SUBMITTED and len(name) > NAME_LENGTH:
        raise ValueError(f"has {len(name)} characters; a name in the catalog has at most {NAME_LENGTH}")
    return name


CatalogName = Annotated[str, AfterValidator(_limit_name)]


class CatalogRef(SpecModel):
    """A name from the catalog with its parameters. A bare string is short for a name without parameters.

    ``params`` is validated by the entry's model and completed with its defaults.
    """

    registry: ClassVar[Registry[Any]]

    name: CatalogName
    params: dict[str, Any] = Field(default_factory=dict, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _in_catalog(cls, name: str) -> str:
        try:
            cls.registry[name]
        except UnknownNameError as error:
            raise ValueError(str(error)) from None
        return name

    @field_validator("params")
    @classmethod
    def _complete(cls, params: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "name" not in info.data:  # the name has been refused
            return params
        entry: Entry = cls.registry[info.data["name"]]
        # A ValidationError raised here keeps its own paths: methods.1.params.alpha.
        return entry.params.model_validate(params, context=info.context).model_dump(mode="json")

    @classmethod
    def known_fields(cls, data: Any) -> Iterator[str]:
        """Yield also the parameters of the entry that is named, which belong in ``params``."""
        yield from super().known_fields(data)
        name = data.get("name") if isinstance(data, Mapping) else None
        if isinstance(name, str) and name in cls.registry:
            yield from iter_field_paths(cls.registry[name].params, "params.")

    @property
    def parsed_params(self) -> Params:
        """The parameters as an instance of the entry's model."""
        entry: Entry = self.registry[self.name]
        return entry.params.model_validate(self.params)


class WeightedMethod(CatalogRef):
    """A method with its parameters, some of whose terms may be weighted by share."""

    registry: ClassVar[Registry[Any]] = METHODS

    shares: dict[str, float] = Field(
        default_factory=dict,
        description="By the name of a term, the share of the summed gradient norms that it gets at every step, in "
        "place of the weight that the parameters give it.",
        examples=[{"nckd": 0.3}],
    )

    @property
    def entry(self) -> MethodEntry:
        """The method's entry in the catalog."""
        return METHODS[self.name]


class AddedMethod(WeightedMethod):
    """A method whose terms are added to those of another. Its cross-entropy is left out, and so is the weight of it."""

    @field_validator("params")
    @classmethod
    def _complete(cls, params: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "name" not in info.data:
            return params
        entry = METHODS[info.data["name"]]
        if problems := list(added_problems(entry, params)):
            raise validation_error("AddedMethod", *problems)
        complete = super()._complete(params, info)
        return {name: value for name, value in complete.items() if name != entry.label_weight}

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        return {name: value for name, value in values.items() if name != "shares" or value}


class MethodRef(WeightedMethod):
    """A method with its parameters, and methods whose terms are added to its own.

    ``label`` distinguishes settings of one method in tables and curves. By default it is the method's name, with the
    reduction if the method has one; of a combination it is the titles of its methods. What differs from the default in
    ``regions`` follows.
    """

    label: str = Field("", max_length=LABEL_LENGTH)
    added: tuple[AddedMethod, ...] = Field(
        (),
        alias="with",
        max_length=MAX_ADDED,
        description="Methods whose terms are added to those of this one. Cross-entropy is counted once, with the "
        "weight that this method gives it.",
    )
    regions: RegionOptions | None = Field(
        None,
        description="In detection: on which boxes student and teacher are compared, and how boxes without an object "
        "are weighted.",
    )

    @model_validator(mode="after")
    def _members_fit(self, info: ValidationInfo) -> Self:
        entries, params = [item.entry for item in self.members], [item.params for item in self.members]
        shares = [item.shares for item in self.members]
        problems = [
            *combination_problems(entries, params),
            *share_problems(entries, params, shares, submitted=info.context is SUBMITTED),
        ]
        if problems:
            raise validation_error("MethodRef", *problems)
        if self.regions and (given := self.regions.background_params):
            complete = complete_background_params(entries, params, given, info.context)
            object.__setattr__(self, "regions", self.regions.model_copy(update={"background_params": complete}))
        return self

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave fields out that were added later and are empty, so that other trainings keep their fingerprints."""
        values: dict[str, Any] = serialise(self)
        added_later = {"shares": values.pop("shares"), "with": values.pop("added", None) or values.pop("with", None)}
        regions = values.pop("regions", None)
        added_later["regions"] = regions if self.regions != DEFAULT_REGIONS else None
        return values | {name: value for name, value in added_later.items() if value}

    @model_validator(mode="after")
    def _default_label(self) -> Self:
        if not self.label:
            others = [(item.name, item.params) for item in self.added]
            label = automatic_label(self.name, self.params, others, self.regions and self.regions.model_dump())
            object.__setattr__(self, "label", label)
        return self

    @property
    def members(self) -> tuple[WeightedMethod, ...]:
        """The method itself, and the methods that are added to it."""
        return (self, *self.added)

    @property
    def background_members(self) -> tuple[WeightedMethod, ...]:
        """The members with the parameters that they have for boxes without an object."""
        given = self.regions.background_params if self.regions else {}
        return tuple(
            WeightedMethod(
                name=item.name, params=with_background_params(item.entry, item.params, given), shares=item.shares
            )
            for item in self.members
        )

    @property
    def full_name(self) -> str:
        """The names of all members: ``crd+kd``."""
        return "+".join(item.name for item in self.members)

    @property
    def reads_labels(self) -> bool:
        """Whether the loss has a cross-entropy with the labels; that of methods that are added does not count."""
        weight = self.entry.label_weight
        return LABEL_TERM in self.entry.terms and (weight is None or getattr(self.parsed_params, weight) > 0)

    @property
    def needs_teacher(self) -> bool:
        """Whether a member reads a teacher."""
        return any(item.entry.needs_teacher for item in self.members)

    @property
    def min_classes(self) -> int:
        """The least number of classes that all members can be trained on."""
        return max(item.entry.min_classes for item in self.members)

    @property
    def all_shares(self) -> dict[str, float]:
        """The shares of the terms of all members."""
        return {term: share for item in self.members for term, share in item.shares.items()}


class ModelRef(CatalogRef):
    """A model with its parameters."""

    registry: ClassVar[Registry[Any]] = MODELS


class DatasetRef(CatalogRef):
    """A data set with its parameters."""

    registry: ClassVar[Registry[Any]] = DATASETS

    @property
    def headline(self) -> str:
        """The name of the metric by which results on it are judged."""
        return headline_of(self.name, self.params)


class Resources(SpecModel):
    """The worker that a run needs. It does not change what is computed, so it is not part of the fingerprint."""

    device: Literal["any", "cpu", "gpu"] = Field("any", description="Kind of slot that the run needs.")
    gpus: int = Field(
        1,
        ge=1,
        le=64,
        description="Number of GPUs of one machine. With more than one, each trains a part of every batch.",
    )
    labels: tuple[WorkerLabel, ...] = Field(
        (), max_length=16, description="Labels that the worker must have, all of them."
    )

    @model_validator(mode="after")
    def _gpus_need_gpu_slots(self) -> Self:
        if self.gpus > 1 and self.device == "cpu":
            raise validation_error("Resources", (("gpus",), "a CPU slot has no GPUs", self.gpus))
        return self
