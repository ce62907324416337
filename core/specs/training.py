"""How a network is trained: optimiser, learning rate, augmentation, speed and measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from common.input_bounds import max_if_submitted
from core.catalog import OPTIMIZERS, OptimizerEntry, Registry
from core.catalog.augmentations import STANDARD, STRONG, Stage
from core.catalog.optimizers import LR, WEIGHT_DECAY
from core.catalog.path_rules import relative_data_path
from core.specs.augment import Augment, AugmentationRef, augmentations_of
from core.specs.components import MAX_EPOCHS, CatalogName, CatalogRef, SpecModel, UptoLastEpoch, limit_length
from core.specs.problems import validation_error

MAX_MILESTONES = 100
MAX_WARMUP_STEPS = 1_000_000
_LEFT_OUT: dict[str, Any] = {"x-left-out": True}
"""Tells a form to leave the default out too."""
_OF_IMAGES: dict[str, Any] = {"x-for-regions": False}
"""Tells a form that the field has no meaning where rows are regions of images (``region_checks``)."""

_COMPLETE = ("sgd", "adamw")
"""Optimisers of the first version, whose fields are all written out, so that fingerprints stay the same."""


def _list_optimizers(schema: dict[str, Any]) -> None:
    schema["enum"] = [entry.name for entry in OPTIMIZERS]


def _list_params(schema: dict[str, Any]) -> None:
    schema["x-params-of"] = {
        "field": "name",
        "entries": {entry.name: entry.params.model_json_schema() for entry in OPTIMIZERS},
    }


def _only_sgd(schema: dict[str, Any]) -> None:
    schema["x-only-for"] = {"field": "name", "values": [entry.name for entry in OPTIMIZERS if entry.sgd_momentum]}


class Optimizer(CatalogRef):
    """The optimiser of the weights. ``params`` holds what only this optimiser has."""

    registry: ClassVar[Registry[Any]] = OPTIMIZERS

    name: CatalogName = Field("sgd", json_schema_extra=_list_optimizers)
    params: dict[str, Any] = Field(default_factory=dict, validate_default=True, json_schema_extra=_list_params)
    lr: float = Field(LR, gt=0, le=100, description="Peak learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD's momentum.", json_schema_extra=_only_sgd)
    nesterov: bool = Field(False, description="Use Nesterov's momentum in SGD.", json_schema_extra=_only_sgd)
    weight_decay: float = Field(WEIGHT_DECAY, ge=0, le=10, description="L2 penalty; decoupled weight decay for AdamW.")

    @model_validator(mode="before")
    @classmethod
    def _usual_values(cls, data: Any) -> Any:
        """Fill in the learning rate and the weight decay that the optimiser is usually used with."""
        name = data.get("name") if isinstance(data, Mapping) else data
        if not isinstance(name, str) or name not in OPTIMIZERS:
            return data
        entry = OPTIMIZERS[name]
        given = data if isinstance(data, Mapping) else {"name": data}
        return {"lr": entry.lr, "weight_decay": entry.weight_decay} | dict(given)

    @model_validator(mode="after")
    def _momentum_is_read(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise validation_error("Optimizer", (("nesterov",), "Nesterov momentum needs a momentum above 0", True))
        if self.entry.sgd_momentum or self.name in _COMPLETE:
            return self
        readers = ", ".join(entry.name for entry in OPTIMIZERS if entry.sgd_momentum)
        for name in ("momentum", "nesterov"):
            if getattr(self, name) != type(self).model_fields[name].default:
                own = name in self.entry.params.model_fields
                advice = f"did you mean params.{name}?" if own else f"{self.name} has {self._own_params()}"
                text = f"is read by {readers} only; {advice}"
                raise validation_error("Optimizer", ((name,), text, getattr(self, name)))
        return self

    @model_serializer(mode="wrap")
    def _without_unread_fields(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        left_out = {"params"} if self.params == self.entry.params().model_dump(mode="json") else set()
        if not self.entry.sgd_momentum and self.name not in _COMPLETE:
            left_out |= {"momentum", "nesterov"}
        return {name: value for name, value in values.items() if name not in left_out}

    def _own_params(self) -> str:
        names = [f"params.{name}" for name in self.entry.params.model_fields]
        return ", ".join(names) or "no parameters of its own"

    @property
    def entry(self) -> OptimizerEntry:
        """The optimiser's entry in the catalog."""
        return OPTIMIZERS[self.name]


class Schedule(SpecModel):
    """The learning rate over the epochs."""

    name: Literal["constant", "cosine", "step"] = "cosine"
    warmup_epochs: UptoLastEpoch = Field(0, description="Epochs of linear warm-up from 0 to the peak learning rate.")
    milestones: tuple[Annotated[int, max_if_submitted(MAX_EPOCHS)], ...] = Field(
        (), description="For step: epochs after which the learning rate is multiplied by gamma."
    )
    gamma: float = Field(0.1, gt=0, le=1, description="For step: factor of the learning rate at each milestone.")
    warmup_steps: Annotated[int, Field(ge=0), max_if_submitted(MAX_WARMUP_STEPS)] = Field(
        0,
        description="Steps of linear warm-up, in place of warmup_epochs. Detectors are usually warmed up for 500 to "
        "1000.",
        json_schema_extra=_LEFT_OUT,
    )

    @field_validator("milestones", mode="before")
    @classmethod
    def _limit_milestones(cls, given: Any, info: ValidationInfo) -> Any:
        return limit_length(given, info, MAX_MILESTONES)

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        if self.warmup_steps and self.warmup_epochs:
            text = "warmup_epochs and warmup_steps exclude each other"
            raise validation_error("Schedule", (("warmup_steps",), text, self.warmup_steps))
        return self

    @model_serializer(mode="wrap")
    def _without_warmup_steps(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        return {name: value for name, value in values.items() if name != "warmup_steps" or value}

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


_ADDED = (
    *("label_smoothing", "clip_grad_norm", "accumulate", "ema", "evaluate_every", "strong_augment"),
    "features_every",
)
"""Fields that were added later. They are written out only if they are set, so that fingerprints stay the same."""


class Training(SpecModel):
    """How a network is trained. It is the same for every method of an experiment."""

    epochs: int = Field(ge=1, le=MAX_EPOCHS, description="Passes over the training images.", examples=[30])
    batch_size: int = Field(64, ge=2, le=65_536, description="Images per step.")
    optimizer: Optimizer = Field(default_factory=Optimizer)
    schedule: Schedule = Field(default_factory=Schedule)
    augment: Augment = Field(
        STANDARD,
        description="standard: the augmentation of the data set, random shifts or resized crops, and flips if "
        "they keep "
        "the class. flip: only the flips. none: no augmentation. More of the catalog's augmentations are added as a "
        "list, such as [standard, randaugment, {name: mixup, params: {alpha: 0.2}}].",
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
        json_schema_extra=_OF_IMAGES,
    )
    robustness: bool = Field(
        False,
        description="After the last epoch, also test on noisy, scrambled and blurred images. They are not trained on.",
        json_schema_extra=_OF_IMAGES,
    )
    stylised: str = Field(
        "",
        max_length=1000,
        description="After the last epoch, also test on the stylised images in this folder below DATA_DIR: "
        "<class>/<image>.",
        json_schema_extra=_OF_IMAGES,
    )

    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the label that cross-entropy spreads over all classes. 0: none.",
        json_schema_extra=_LEFT_OUT | _OF_IMAGES,
    )
    clip_grad_norm: float | None = Field(
        None,
        gt=0,
        description="Maximum norm of the gradient of all weights; a gradient with a larger norm is scaled to it. "
        "Leave it out for no limit.",
        examples=[1.0],
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="Number of micro-batches into which a batch is divided; they are computed in sequence, to save "
        "memory. It must divide the batch size. Batch norm sees one micro-batch at a time.",
        json_schema_extra=_LEFT_OUT | _OF_IMAGES,
    )
    ema: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Decay of the moving average of the weights, which is tested beside them. Leave it out for no "
        "average.",
        examples=[0.999],
    )
    evaluate_every: Annotated[int, Field(ge=1), max_if_submitted(MAX_EPOCHS)] = Field(
        1,
        description="Epochs between two tests. The last epoch is always tested.",
        json_schema_extra=_LEFT_OUT,
    )
    features_every: UptoLastEpoch | None = Field(
        None,
        description="Epochs between two times at which the penultimate features of up to 500 test images are kept, "
        "for their pictures and for neural collapse on the test images. They are taken from the tests of the "
        "network. 0: never. Leave it out for about 20 times in the training, or never if that would cost more than "
        "2 % of it.",
        json_schema_extra=_LEFT_OUT | _OF_IMAGES,
    )
    strong_augment: Augment = Field(
        STRONG,
        description="The augmentations of a second view of each image, for the methods that read one. They are given "
        "as in augment; a mixture of two images is not possible.",
        json_schema_extra=_LEFT_OUT | _OF_IMAGES,
    )

    speed: Speed = Field(default_factory=Speed)

    @model_validator(mode="after")
    def _micro_batches_divide_the_batch(self) -> Self:
        if self.batch_size % self.accumulate:
            text = f"{self.accumulate} micro-batches do not divide a batch of {self.batch_size} images"
            raise validation_error("Training", (("accumulate",), text, self.accumulate))
        return self

    @field_validator("strong_augment")
    @classmethod
    def _no_mixture(cls, augment: Augment) -> Augment:
        if mixtures := [ref.name for ref in augmentations_of(augment) if ref.entry.stage is Stage.MIX]:
            raise ValueError(f"{mixtures[0]} mixes two images, and a second view is of one image")
        return augment

    @model_serializer(mode="wrap")
    def _without_defaults_added_later(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        # The fields themselves, because in JSON a tuple is a list.
        changed = {name for name in _ADDED if getattr(self, name) != type(self).model_fields[name].default}
        return {name: value for name, value in values.items() if name not in _ADDED or name in changed}

    @field_validator("stylised")
    @classmethod
    def _below_data_dir(cls, path: str, info: ValidationInfo) -> str:
        # A stored spec may be older than this check. It is still shown; its training refuses the folder.
        if path and not (info.context or {}).get("stored"):
            relative_data_path(path)
        return path  # unchanged, so that fingerprints stay the same

    @property
    def micro_batch_size(self) -> int:
        """Samples of a micro-batch on all ranks."""
        return self.batch_size // self.accumulate

    def smallest_micro_batch(self, samples: int) -> int:
        """Return the samples of the smallest micro-batch of an epoch; its last batch is divided evenly."""
        last = samples % self.batch_size or min(samples, self.batch_size)
        parts = -(-last // self.micro_batch_size)
        return min(last // parts, self.micro_batch_size)

    @property
    def augmentations(self) -> tuple[AugmentationRef, ...]:
        """The augmentations in the order of the pipeline, the view first."""
        return augmentations_of(self.augment)

    @property
    def mixture(self) -> str:
        """The name of an augmentation that mixes images; "" if none does."""
        return next((ref.name for ref in self.augmentations if ref.entry.stage is Stage.MIX), "")

    def without_strong_view(self) -> Training:
        """Return the training of a method that reads no second view, which must not make it another run."""
        return self if self.strong_augment == STRONG else self.model_copy(update={"strong_augment": STRONG})

    def for_teacher(self) -> Training:
        """Return the training that a teacher inherits, without ``freeze_batch_norm_after`` and extra measurements."""
        reset: dict[str, Any] = {
            "freeze_batch_norm_after": None,
            "collapse_every": 0,
            "robustness": False,
            "stylised": "",
        }
        reset |= {"ema": None, "evaluate_every": 1, "strong_augment": STRONG, "features_every": None}
        # A teacher reads no teacher's logits, so the switch must not make it another run.
        return self.model_copy(update=reset | {"speed": self.speed.model_copy(update={"reuse_teacher": True})})
