"""Components of experiments and runs: catalog references, training settings, resources."""

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
"""Characters of a method's label."""
NAME_LENGTH = 100
MAX_EPOCHS = 10_000
MAX_MILESTONES = 100

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


class SpecModel(StrictModel):
    """Base of everything in a spec. Unknown fields are refused, and values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


def _limit_name(name: str, info: ValidationInfo) -> str:
    if info.context is SUBMITTED and len(name) > NAME_LENGTH:
        raise ValueError(f"has {len(name)} characters; a name in the catalog has at most {NAME_LENGTH}")
    return name


class CatalogRef(SpecModel):
    """A name from the catalog with its parameters. A bare string is short for a name without parameters.

    ``params`` is validated by the entry's model and completed with its defaults.
    """

    registry: ClassVar[Registry[Any]]

    name: Annotated[str, AfterValidator(_limit_name)]
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


class MethodRef(CatalogRef):
    """A method with its parameters.

    ``label`` distinguishes settings of one method in tables and curves. By default it is the method's name, with the
    reduction if the method has one.
    """

    registry: ClassVar[Registry[Any]] = METHODS

    label: str = Field("", max_length=LABEL_LENGTH)

    @model_validator(mode="after")
    def _default_label(self) -> Self:
        if not self.label:
            object.__setattr__(self, "label", automatic_label(self.name, self.params))
        return self


class ModelRef(CatalogRef):
    """A model with its parameters."""

    registry: ClassVar[Registry[Any]] = MODELS


class DatasetRef(CatalogRef):
    """A data set with its parameters."""

    registry: ClassVar[Registry[Any]] = DATASETS


class Optimizer(SpecModel):
    """The optimiser of the weights."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.05, gt=0, le=100, description="Peak learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD's momentum.")
    nesterov: bool = Field(False, description="Use Nesterov's momentum in SGD.")
    weight_decay: float = Field(5e-4, ge=0, le=10, description="L2 penalty for SGD, decoupled weight decay for AdamW.")

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise validation_error("Optimizer", (("nesterov",), "Nesterov momentum needs a momentum above 0", True))
        return self


class Schedule(SpecModel):
    """The learning rate over the epochs."""

    name: Literal["constant", "cosine", "step"] = "cosine"
    warmup_epochs: UptoLastEpoch = Field(0, description="Epochs of linear warm-up from 0 to the peak learning rate.")
    milestones: tuple[Annotated[int, max_if_submitted(MAX_EPOCHS)], ...] = Field(
        (), description="For step: epochs after which the learning rate is multiplied by gamma."
    )
    gamma: float = Field(0.1, gt=0, le=1, description="For step: factor of the learning rate at each milestone.")

    @field_validator("milestones", mode="before")
    @classmethod
    def _limit_milestones(cls, given: Any, info: ValidationInfo) -> Any:
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
    """How the arithmetic is done. ``auto`` chooses by the spec and the device, and the choice is written to the log."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Precision of the networks' arithmetic in training. Weights, losses and tests always use float32. "
        "auto: 16 bits if the hardware computes them faster and the networks are large enough to gain.",
    )
    channels_last: Switch = Field("auto", description="Store images with their channels innermost.")
    compile: Switch = Field(
        "auto", description="Compile the networks before training, which takes a minute and needs a C++ compiler."
    )
    cuda_graphs: Switch = Field(
        "auto",
        description="On a GPU, record a training step once and replay it, so that small networks keep the GPU busy.",
    )
    reuse_teacher: bool = Field(
        True,
        description="Cache the teacher's logits on disk, and read them in runs that show the teacher the same images.",
    )
    deterministic: bool = Field(
        False,
        description="On a GPU, use kernels whose results repeat bit for bit, which are slower. On a CPU they "
        "always repeat.",
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_on_and_off(cls, value: Any) -> Any:
        """Accept booleans for switches: YAML 1.1 reads a bare ``on`` or ``off`` as one."""
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
    """How a network is trained. It is the same for every method of an experiment."""

    epochs: int = Field(ge=1, le=MAX_EPOCHS, description="Passes over the training images.", examples=[30])
    batch_size: int = Field(64, ge=2, le=65_536, description="Images per step.")
    optimizer: Optimizer = Field(default_factory=Optimizer)
    schedule: Schedule = Field(default_factory=Schedule)
    augment: Literal["standard", "flip", "none"] = Field(
        "standard",
        description="standard: the augmentation of the data set, random shifts or resized crops, and flips if "
        "they keep "
        "the class. flip: only the flips. none: no augmentation.",
    )
    freeze_batch_norm_after: Annotated[int, Field(ge=1), max_if_submitted(MAX_EPOCHS)] | None = Field(
        None,
        description="Epochs after which batch norm stops learning and uses its running statistics. The value "
        "1 reproduces "
        "code that leaves the network in eval mode after its first test. Leave it out for ordinary training.",
    )
    collapse_every: UptoLastEpoch = Field(
        0,
        description="Epochs between two measurements of neural collapse (NC1–NC4). Each measurement is a pass over the "
        "training images. 0: only after the last epoch.",
    )
    robustness: bool = Field(
        False,
        description="After the last epoch, also test on noisy, scrambled and blurred images. They are not trained on.",
    )
    stylised: str = Field(
        "",
        max_length=1000,
        description="After the last epoch, also test on the stylised images in this folder below DATA_DIR: "
        "<class>/<image>.",
    )

    speed: Speed = Field(default_factory=Speed)

    @field_validator("stylised")
    @classmethod
    def _below_data_dir(cls, path: str, info: ValidationInfo) -> str:
        # A stored spec may be older than this check. It is still shown; its training refuses the folder.
        if path and not (info.context or {}).get("stored"):
            relative_data_path(path)
        return path  # unchanged, so that fingerprints stay the same

    def for_teacher(self) -> Training:
        """Return the training that a teacher inherits, without the extra measurements and "
        "``freeze_batch_norm_after``."""
        reset = {"freeze_batch_norm_after": None, "collapse_every": 0, "robustness": False, "stylised": ""}
        # A teacher reads no teacher's logits, so the switch must not make it another run.
        return self.model_copy(update=reset | {"speed": self.speed.model_copy(update={"reuse_teacher": True})})


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
