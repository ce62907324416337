"""The code of the task in ``tests.core.tagging_plugin``: a batch of B sentences has B·T rows, the padded ones of weight
zero."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from core.catalog import MODELS
from core.catalog.taps import FEATURES
from core.distill.objective import NetworkShape, Outputs
from core.distill.rows import Rows, to_loss_dtype
from core.errors import TrainingError
from core.events import IMAGES_KEY
from core.specs import ModelRef, Training
from core.tasks.task import LoadedTeacher, NetworkFn, RunContext, Task, TeacherSource
from core.tasks.workload import Workload
from core.weights.data_comparison import compare_checkpoint
from core.weights.metadata import Metadata
from tests.core.tagging_plugin import CLASSES, SentenceParams

LENGTH, WORDS, NO_TAG = 5, 9, -1


class Tagger(nn.Module):
    """Maps tokens (B, T) to logits (B·T, C), and with ``features`` to what the last layer reads (B·T, D) too."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        self.convolution = nn.Conv1d(width, width, 3, padding=1)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor, *, features: bool = False) -> Any:
        hidden = self.convolution(self.embedding(tokens).transpose(1, 2)).relu()
        rows = hidden.transpose(1, 2).flatten(0, 1)
        return (self.linear(rows), rows) if features else self.linear(rows)


class TappedTagger(nn.Module):
    """A tagger that returns its features."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Any:
        return self.network(tokens, features=True)


@dataclass(frozen=True)
class Sentences:
    """Sentences: tokens (N, T) and tags (N, T), which are ``NO_TAG`` behind the end."""

    tokens: Tensor
    tags: Tensor

    def __getitem__(self, index: Any) -> Sentences:
        return Sentences(self.tokens[index], self.tags[index])


def load(params: SentenceParams) -> tuple[Sentences, Sentences, Sentences | None]:
    """Return the sentences of training, test and validation."""
    total = params.train_size + params.test_size
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(WORDS, (total, LENGTH), generator=generator)
    lengths = torch.randint(1, LENGTH + 1, (total, 1), generator=generator)
    tags = (tokens + tokens.roll(1, 1)) % CLASSES
    everything = Sentences(tokens, tags.where(torch.arange(LENGTH) < lengths, NO_TAG))
    held_out = round(params.val_fraction * params.train_size)
    validation = everything[:held_out] if held_out else None
    return everything[held_out : params.train_size], everything[params.train_size :], validation


@dataclass(frozen=True)
class TaggingBatch:
    """The sentences of a step on one rank."""

    sentences: Sentences
    index: Tensor
    total: int
    copies: int = LENGTH

    def part(self, samples: slice) -> TaggingBatch:
        return replace(self, sentences=self.sentences[samples], index=self.index[samples])

    def tensors(self) -> tuple[Tensor, ...]:
        return self.sentences.tokens, self.sentences.tags

    def with_tensors(self, *tensors: Tensor) -> TaggingBatch:
        return replace(self, sentences=Sentences(*tensors))

    def to_memory_format(self, memory_format: torch.memory_format) -> TaggingBatch:
        return self


class TaggingTask(Task):
    """Tags of the tokens of sentences."""

    headline = "test/tagged"

    def __init__(self, context: RunContext, device: torch.device) -> None:
        self.context, self.device = context, device
        self.train, self.test, self.validation = load(SentenceParams.model_validate(context.spec.dataset.params))
        self.train_size, self.test_size = len(self.train.tokens), len(self.test.tokens)

    @classmethod
    def load(cls, context: RunContext) -> Self:
        return cls(context, torch.device("cpu"))

    def to(self, device: torch.device) -> Self:
        return type(self)(self.context, device)

    def read_supplied_weights(self) -> None:
        if self.context.spec.weights:
            self._refuse_weights()

    def _refuse_weights(self) -> NoReturn:
        raise TrainingError("spec", "a tagger starts from random weights")

    def build_network(self, weights: Any = None, resumed: Metadata | None = None) -> nn.Module:
        return self.build_another(self.context.spec.model)

    def build_another(self, model: ModelRef) -> nn.Module:
        network: nn.Module = MODELS[model.name].load()(CLASSES, **model.params)
        return network

    def load_supplied_weights(self, network: nn.Module, weights: Any) -> None:
        self._refuse_weights()

    def check_network(self, network: nn.Module) -> None:
        pass

    def tapped(self, network: nn.Module, names: Sequence[str]) -> nn.Module:
        if unknown := set(names) - {FEATURES}:
            raise TrainingError("spec", f"a tagger has no layer {min(unknown)!r}; did you mean {FEATURES}?")
        return TappedTagger(network)

    def network_shape(self, network: nn.Module, names: Sequence[str]) -> NetworkShape:
        linear = network.get_submodule("linear")
        assert isinstance(linear, nn.Linear)
        return NetworkShape(CLASSES, {name: torch.Size([linear.in_features]) for name in names}, linear)

    def load_teacher(self, source: TeacherSource) -> LoadedTeacher:
        network = self.build_another(source.spec.model)
        network.load_state_dict(load_file(source.weights))
        return LoadedTeacher(network.to(self.device).eval().requires_grad_(False))

    def workload(self, network: nn.Module, weights: Any = None, *, count_products: bool) -> Workload:
        training = self.context.spec.training
        steps = math.ceil(self.train_size / training.batch_size)
        return Workload(training.epochs * self.train_size, steps, 0, 1.0)

    def example(self, count: int) -> Tensor:
        return torch.zeros(count, LENGTH, dtype=torch.int64, device=self.device)

    def batches(
        self,
        training: Training,
        data_seed: int,
        epoch: int,
        start: int,
        share: Callable[[int], slice],
        *,
        strong_view: bool = False,
    ) -> Generator[TaggingBatch]:
        order = torch.randperm(self.train_size, generator=torch.Generator().manual_seed(1000 * data_seed + epoch))
        for index in torch.split(order, training.batch_size)[start:]:
            own = index[share(len(index))]
            sentences = self.train[own]
            yield TaggingBatch(
                Sentences(sentences.tokens.to(self.device), sentences.tags.to(self.device)), own, len(index)
            )

    def forward(
        self, network: NetworkFn, batch: TaggingBatch, taps: Sequence[str] = (), *, first_tap: bool = False
    ) -> Outputs:
        if not taps:
            return Outputs(network(batch.sentences.tokens))
        logits, features = network(batch.sentences.tokens)
        edge = get_gradient_edge(features) if first_tap and features.requires_grad else None
        return Outputs(logits, {FEATURES: to_loss_dtype(features)}, edge)

    def rows(self, student: Outputs, teacher: Outputs | None, batch: TaggingBatch) -> Rows:
        tags = batch.sentences.tags.flatten()
        return Rows(student.logits, teacher.logits if teacher else None, tags, (tags != NO_TAG).float())

    def step_metrics(self, rows: Rows) -> dict[str, Tensor]:
        return {}

    def prepare_reports(self, teacher: nn.Module | None) -> None:
        pass

    @torch.no_grad()
    def _right(self, network: nn.Module, sentences: Sentences) -> tuple[Tensor, Tensor]:
        training = network.training
        predicted = network.eval()(sentences.tokens.to(self.device)).argmax(1).view(-1, LENGTH).cpu()
        network.train(training)
        used = sentences.tags != NO_TAG
        return (predicted == sentences.tags) & used, used

    def epoch_report(self, network: nn.Module) -> dict[str, float]:
        splits = {"test": self.test} | ({"val": self.validation} if self.validation else {})
        found = {split: self._right(network, sentences) for split, sentences in splits.items()}
        return {f"{split}/tagged": 100 * float(right.sum() / used.sum()) for split, (right, used) in found.items()}

    def per_item(self, network: nn.Module) -> Mapping[str, NDArray[Any]]:
        right, used = self._right(network, self.test)
        share = (right.sum(1) / used.sum(1)).numpy().astype(np.float32)
        return {"item": np.arange(self.test_size, dtype=np.int32), "tagged": share}

    def extra_report(self, network: nn.Module, teacher: nn.Module | None, *, last: bool) -> dict[str, float]:
        return {}

    def check_teacher(self, network: nn.Module, weights: Any, report: Mapping[str, float]) -> tuple[str, ...]:
        self._refuse_weights()

    def with_expected_inputs(self, network: nn.Module, weights: Any) -> nn.Module:
        self._refuse_weights()

    def supplied_metadata(self, weights: Any, warnings: Sequence[str]) -> Metadata:
        self._refuse_weights()

    def compare_checkpoint(self, metadata: Metadata) -> list[str]:
        return compare_checkpoint(metadata, self.metadata().classes, self.metadata().content_hash)

    def metadata(self, network: nn.Module | None = None, headline: float | None = None) -> Metadata:
        names = tuple(f"tag {number}" for number in range(CLASSES))
        return Metadata(names, self._hash(), self.context.spec.dataset.name)

    def data_identity(self) -> dict[str, str]:
        return {IMAGES_KEY: self._hash()[:16]}

    def _hash(self) -> str:
        parts = (part.numpy().tobytes() for split in (self.train, self.test) for part in (split.tokens, split.tags))
        return hashlib.sha256(b"".join(parts)).hexdigest()
