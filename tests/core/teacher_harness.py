"""A cached teacher over a data set, for the tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.distill.objective import Outputs
from core.tasks.classification.data import Batch, Dataset
from core.tasks.classification.teacher import cache_identity
from core.train.cached_teacher import CachedTeacher, CacheKeyShape, cache_key
from core.train.output_cache import OutputCache
from core.train.performance import ExecutionPlan
from core.train.quantization import LOGITS
from core.train.teacher import LiveTeacher
from tests.core.task_of import task_of
from tests.core.teacher_experiments import BATCH, experiment

CHOSEN = ExecutionPlan(threads=1)


class Harness:
    """A teacher over a data set: counts how often the network is asked, keeps what it says.

    Args:
        dataset: The images.
        network: Returns logits; with taps, a tuple of logits and taps.
        root: The folder of the cache.
        limit: Its limit in bytes.
        taps: The widths of the taps by name.
    """

    def __init__(
        self,
        dataset: Dataset,
        network: Callable[[Tensor], Any],
        root: Path,
        limit: int = 10**9,
        taps: Mapping[str, int] | None = None,
    ) -> None:
        taps = taps or {}
        self.dataset, self.network = dataset, network
        self.asked = 0
        self.said: list[tuple[str, str]] = []
        views = CacheKeyShape(len(dataset.train), {LOGITS: dataset.num_classes, **taps}, BATCH, 0)
        self.files = OutputCache(root, key_for(dataset, taps=tuple(taps)), limit)
        live = LiveTeacher(self.forward, CHOSEN, task_of(dataset), tuple(taps))
        self.teacher = CachedTeacher(live, live, views, self.files, 0.01, lambda *said: self.said.append(said))

    def forward(self, images: Tensor) -> Any:
        self.asked += 1
        with torch.no_grad():
            return self.network(images)

    def batches(self, epoch: int, start: int = 0) -> list[Batch]:
        return list(self.dataset.batches(BATCH, 0, epoch, start=start))

    def epoch(self, epoch: int, start: int = 0) -> list[Tensor]:
        return [outputs.logits for outputs in self.outputs(epoch, start)]

    def outputs(self, epoch: int, start: int = 0) -> list[Outputs]:
        """All outputs of an epoch from a batch on."""
        found = [self.teacher.outputs(batch, epoch) for batch in self.batches(epoch, start)]
        self.share = self.teacher.end_epoch()["speed/teacher_reused"]
        self.teacher.wait_for_writer()
        return found

    def text(self) -> str:
        return " ".join(message for message, _ in self.said)


def key_for(dataset: Dataset, **changed: Any) -> dict[str, Any]:
    """The key of a run; ``changed`` may name the seed, the augmentation, the batch size, the weights, the
    speed and the taps."""
    spec = experiment(changed.get("method", "dkd"), epochs=3, augment=changed.get("augment", "standard")).plan()[1].spec
    spec = spec.model_copy(update={"data_seed": changed.get("seed", 0)})
    teacher = {"model": "resnet8", "sha256": changed.get("sha", "a")}
    identity = cache_identity(teacher, spec, dataset)
    plan, batch, taps = (changed.get(*pair) for pair in (("chosen", CHOSEN), ("batch", BATCH), ("taps", ())))
    return cache_key(spec, identity, plan, batch, dataset.device, taps)
