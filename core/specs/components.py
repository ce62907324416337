"""The parts that an experiment and a single run share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from common.input_bounds import SUBMITTED, max_if_submitted
from core.catalog import DATASETS, METHODS, MODELS, Entry, Params, Registry, UnknownNameError
from core.catalog.path_rules import relative_data_path
from core.catalog.registry import StrictModel
from core.catalog.suggestions import iter_field_paths
from core.specs.labels import automatic_label
from core.specs.problems import validation_error

LABEL_LENGTH = 60
"""Of a method's label, in characters."""
NAME_LENGTH = 100
MAX_EPOCHS = 10_000
MAX_MILESTONES = 100

UptoLastEpoch = Annotated[int, Field(ge=0), max_if_submitted(MAX_EPOCHS)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
WorkerLabel = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9._:/-]+$")]
"""A property that workers are told apart by, as ``h200`` or ``site/cellar``."""


def limit_length(given: Any, info: ValidationInfo, limit: int) -> Any:
    """A list that is submitted, before its items are looked at. Raises ValueError where it has more than ``limit``."""
    if info.context is SUBMITTED and isinstance(given, list | tuple) and len(given) > limit:
        raise ValueError(f"has {len(given)} entries; at most {limit} are allowed")
    return given


class SpecModel(StrictModel):
    """Base of everything in a spec: unknown fields are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


def _not_long(name: str, info: ValidationInfo) -> str:
    if info.context is SUBMITTED and len(name) > NAME_LENGTH:
        raise ValueError(f"has {len(name)} characters; a name in the catalog has at most {NAME_LENGTH}")
    return name


class CatalogRef(SpecModel):
    """A name from the catalog with its parameters; a bare string is short for a name with no parameters.

    ``params`` is validated by the entry's own model and comes out complete, defaults filled in.
    """

    registry: ClassVar[Registry[Any]]

    name: Annotated[str, AfterValidator(_not_long)]
    params: dict[str, Any] = Field(default_factory=dict, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            cls.registry[name]
        except UnknownNameError as error:
            raise ValueError(str(error)) from None
        return name

    @field_validator("params")
    @classmethod
    def _complete(cls, params: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "name" not in info.data:  # the name is refused already
            return params
        entry: Entry = cls.registry[info.data["name"]]
        # A ValidationError raised here keeps its own paths: methods.1.params.alpha.
        return entry.params.model_validate(params, context=info.context).model_dump(mode="json")

    @classmethod
    def known_fields(cls, data: Any) -> Iterator[str]:
        """Also the parameters of the entry that is named, which belong into ``params``."""
        yield from super().known_fields(data)
        name = data.get("name") if isinstance(data, Mapping) else None
        if isinstance(name, str) and name in cls.registry:
            yield from iter_field_paths(cls.registry[name].params, "params.")

    @property
    def parsed_params(self) -> Params:
        """The parameters as the entry's own model."""
        entry: Entry = self.registry[self.name]
        return entry.params.model_validate(self.params)


class MethodRef(CatalogRef):
    """A method with its parameters.

    ``label`` tells two settings of one method apart in tables and curves. Without one it is the method's name,
    with the reduction where there is one.
    """

    registry: ClassVar[Registry[Any]] = METHODS

    label: str = Field("", max_length=LABEL_LENGTH)

    @model_validator(mode="after")
    def _default_label(self) -> Self:
        if not self.label:
            object.__setattr__(self, "label", automatic_label(self.name, self.params))
        return self


class ModelRef(CatalogRef):
    registry: ClassVar[Registry[Any]] = MODELS


class DatasetRef(CatalogRef):
    registry: ClassVar[Registry[Any]] = DATASETS


class Optimizer(SpecModel):
    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.05, gt=0, le=100, description="Peak learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD's momentum.")
    nesterov: bool = Field(False, description="Nesterov's form of SGD's momentum.")
    weight_decay: float = Field(5e-4, ge=0, le=10, description="L2 penalty in SGD, decoupled decay in AdamW.")

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise validation_error("Optimizer", (("nesterov",), "Nesterov momentum needs a momentum above 0", True))
        return self


class Schedule(SpecModel):
    name: Literal["constant", "cosine", "step"] = "cosine"
    warmup_epochs: UptoLastEpoch = Field(0, description="Epochs of linear warm-up from 0 to the peak.")
    milestones: tuple[Annotated[int, max_if_submitted(MAX_EPOCHS)], ...] = Field(
        (), description="For step: epochs after which the rate is multiplied by gamma."
    )
    gamma: float = Field(0.1, gt=0, le=1, description="For step: the factor.")

    @field_validator("milestones", mode="before")
    @classmethod
    def _few(cls, given: Any, info: ValidationInfo) -> Any:
        return limit_length(given, info, MAX_MILESTONES)

    @model_validator(mode="after")
    def _milestones(self) -> Self:
        if self.name == "step" and not self.milestones:
            raise validation_error(
                "Schedule", (("milestones",), "a step schedule needs at least one epoch", self.milestones)
            )
        if self.name != "step" and self.milestones:
            text = f"only a step schedule has milestones, not {self.name}"
            raise validation_error("Schedule", (("milestones",), text, self.milestones))
        if any(later <= earlier for earlier, later in zip((0, *self.milestones), self.milestones, strict=False)):
            raise validation_error("Schedule", (("milestones",), "must be positive and increasing", self.milestones))
        return self


Switch = Literal["auto", "on", "off"]


class Speed(SpecModel):
    """How the arithmetic is done. ``auto`` is a rule of the spec and the device; the run's log says what it chose."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Of the networks' arithmetic while they train; weights, losses and tests are always in float32. "
        "auto: 16 bits where the hardware is good at them and the networks are large enough to gain.",
    )
    channels_last: Switch = Field("auto", description="Store images with their channels innermost.")
    compile: Switch = Field(
        "auto", description="Compile the networks first, which takes a minute and needs a C++ compiler."
    )
    cuda_graphs: Switch = Field(
        "auto", description="On a GPU, record a training step once and replay it, so that small networks keep it busy."
    )
    reuse_teacher: bool = Field(
        True,
        description="Keep the teacher's logits on disk and read them in runs that show it the same views.",
    )
    deterministic: bool = Field(
        False,
        description="On a GPU, train with kernels that repeat bit for bit, which are slower. A CPU always repeats.",
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_on_and_off(cls, value: Any) -> Any:
        """YAML 1.1 reads a bare ``on`` or ``off`` as a truth value."""
        if not isinstance(value, dict):
            return value
        words = {True: "on", False: "off"}
        return {
            name: words[given] if isinstance(given, bool) and cls._is_switch(name) else given
            for name, given in value.items()
        }

    @classmethod
    def _is_switch(cls, name: str) -> bool:
        field = cls.model_fields.get(name)
        return field is not None and "on" in get_args(field.annotation)


class Training(SpecModel):
    """How a network is trained: the same for every method of an experiment."""

    epochs: int = Field(ge=1, le=MAX_EPOCHS, description="Passes over the training images.", examples=[30])
    batch_size: int = Field(64, ge=2, le=65_536, description="Images a step.")
    optimizer: Optimizer = Field(default_factory=Optimizer)
    schedule: Schedule = Field(default_factory=Schedule)
    augment: Literal["standard", "flip", "none"] = Field(
        "standard",
        description="standard: the data set's own, random shifts or resized crops, and flips where they make sense; "
        "flip: its flips alone.",
    )
    freeze_batch_norm_after: Annotated[int, Field(ge=1), max_if_submitted(MAX_EPOCHS)] | None = Field(
        None,
        description="Epochs after which batch norm stops learning and uses its running statistics: reproduces code "
        "that leaves the network in eval mode after its first test (1). Leave it out for ordinary training.",
    )
    collapse_every: UptoLastEpoch = Field(
        0,
        description="Epochs between two measurements of neural collapse (NC1–NC4), each a pass over the training "
        "images; 0: after the last epoch only.",
    )
    robustness: bool = Field(
        False, description="At the end, test on noisy, scrambled and blurred images too; nothing is trained on them."
    )
    stylised: str = Field(
        "",
        max_length=1000,
        description="At the end, test on this folder of stylised images too: <class>/<image>, under DATA_DIR.",
    )

    speed: Speed = Field(default_factory=Speed)

    @field_validator("stylised")
    @classmethod
    def _below_data_dir(cls, path: str, info: ValidationInfo) -> str:
        # A spec that was taken before this was checked is still shown; where it trains, the folder is refused.
        if path and not (info.context or {}).get("stored"):
            relative_data_path(path)
        return path  # as it was written, so that fingerprints stay

    def for_teacher(self) -> Training:
        """As a teacher inherits it: nothing measured besides, and no fault of a student reproduced."""
        own = {"freeze_batch_norm_after": None, "collapse_every": 0, "robustness": False, "stylised": ""}
        # A teacher reads no teacher: with the switch either way it must be one and the same run.
        return self.model_copy(update=own | {"speed": self.speed.model_copy(update={"reuse_teacher": True})})


class Resources(SpecModel):
    """What a run needs of a worker. Not part of what is computed, so not part of any fingerprint."""

    device: Literal["any", "cpu", "gpu"] = Field("any", description="Which slots may take it.")
    gpus: int = Field(1, ge=1, le=64, description="GPUs of one machine; above 1 each trains a part of every batch.")
    labels: tuple[WorkerLabel, ...] = Field(
        (), max_length=16, description="What a worker must be labelled with to take it, every one of them."
    )

    @model_validator(mode="after")
    def _several_gpus_are_gpus(self) -> Self:
        if self.gpus > 1 and self.device == "cpu":
            raise validation_error("Resources", (("gpus",), "a CPU slot has no GPUs", self.gpus))
        return self
