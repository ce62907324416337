"""A teacher whose logits are kept on disk, so that the next run that shows it the same views need not ask it.

Every logit goes through the same rounding, whether it comes from the network or from the disk: a row's mean is
subtracted, the rest rounded to float16, the mean (float32) added again. So a hit and a miss are the same numbers, and
what a run computes does not depend on what is on the disk. Subtracting the mean first keeps float16's digits for the
differences, which are all that a softmax sees. A row that float16 would move by more than ``MAX_ROUNDING_ERROR`` is
used as it is, and an epoch with such a row is not kept.

Nothing waits for the device but the opening and the closing of an epoch and the few checks against the network.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from core.data import Batch, Dataset
from core.data.fingerprint import describe_training_images
from core.data.hashing import hashed_randint
from core.data.paths import cache_dir
from core.events import Journal
from core.specs import RunSpec
from core.training.errors import TrainingError
from core.training.logit_cache import LogitCache, QuantizedLogits
from core.training.performance import ExecutionPlan
from core.training.teacher import LiveTeacher, Teacher

MAX_DEVIATION = 256.0
MAX_ROUNDING_ERROR = 1 / 16
"""Half of float16's spacing below ``MAX_DEVIATION``: rows with logits further from their mean are not rounded."""

DEFAULT_GB = 20.0
_SHARE_OF_MEMORY = 8  # an epoch's logits may take this part of the device's free memory
_FOLDER = "teacher-logits"
# Of the largest logit. The arithmetic itself differs by 1e-6 and by 1e-2; another network, or another view of an image,
# by about 1.
_TOLERANCE, _TOLERANCE_16 = 0.01, 0.05

Say = Callable[[str, Literal["info", "warning"]], object]


@dataclass(frozen=True)
class CacheKeyShape:
    """What is shown to the teacher.

    Attributes:
        samples, classes: N training images, C logits for each.
        batch_size: images that it sees at once. It is in the key: kernels for another batch may differ in the last
            bit, which now and then is another float16, and then a hit would not be the same number as a miss.
        data_seed: decides the views, and with the batch size which samples share a batch.
    """

    samples: int
    classes: int
    batch_size: int
    data_seed: int


def cache_key(
    spec: RunSpec, dataset: Dataset, teacher: Mapping[str, Any], chosen: ExecutionPlan, batch_size: int
) -> dict[str, Any]:
    """Everything that decides a teacher's logits but the epoch. What does not, such as the method, is not in it.

    Args:
        teacher: its architecture with its parameters, and the SHA-256 of its weights.
        batch_size: images that the teacher sees at once; on several ranks, what each of them sees.
    """
    device = dataset.device
    return {
        "teacher": dict(teacher),
        "dataset": spec.dataset.model_dump(mode="json"),
        "views": describe_training_images(dataset),
        "augment": spec.training.augment,
        "data_seed": spec.data_seed,
        "batch_size": batch_size,
        "network": "batch norm folded",  # changes with the way LiveTeacher converts it
        # All but what is the student's alone, or recorded in other words below.
        "arithmetic": chosen.model_dump(exclude={"fused", "cuda_graphs", "threads", "reasons"}),
        "float32_products": torch.get_float32_matmul_precision(),
        # Another machine, release or number of threads adds in another order.
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()}",
    }


def open_cache(key: Mapping[str, Any]) -> LogitCache:
    """The files of a key, where ``DKD_CACHE_DIR`` has them and within ``DKD_TEACHER_LOGITS_GB``.

    Raises TrainingError where that is no size.
    """
    given = os.environ.get("DKD_TEACHER_LOGITS_GB", "")
    try:
        gigabytes = float(given or DEFAULT_GB)
        if not 0 <= gigabytes < 1e9:
            raise ValueError
    except ValueError:
        text = f"DKD_TEACHER_LOGITS_GB is {given!r}; it is a number of gigabytes, 0 to keep no teacher's logits"
        raise TrainingError("error", text) from None
    return LogitCache(cache_dir() / _FOLDER, key, int(gigabytes * 1e9))


def cached_teacher(
    live: LiveTeacher,
    teacher: Mapping[str, Any],
    spec: RunSpec,
    dataset: Dataset,
    chosen: ExecutionPlan,
    journal: Journal,
) -> CachedTeacher:
    """A run's teacher whose logits are kept, with what it has to say in the run's log.

    Args:
        teacher: what names it, see ``cache_key``.
    """
    size = spec.training.batch_size
    views = CacheKeyShape(len(dataset.train), dataset.num_classes, size, spec.data_seed)
    files = open_cache(cache_key(spec, dataset, teacher, chosen, size))
    tolerance = _TOLERANCE if chosen.precision == "float32" else _TOLERANCE_16
    return CachedTeacher(live, live.plain(), views, files, tolerance, journal.log)


@dataclass(frozen=True)
class QuantizationResult:
    """A batch's logits after the rounding.

    Attributes:
        rows: as they are kept.
        values: (B, C) float32, as they are used: what the rows give back, but as they were where they do not fit.
        fits: (B,) bool, whether float16 holds the row well enough; one with a NaN or an infinity does not fit.
    """

    rows: QuantizedLogits
    values: Tensor
    fits: Tensor


def quantize(logits: Tensor) -> QuantizationResult:
    """Logits (B, C) with what becomes of them on the disk."""
    logits = logits.float()
    mean = logits.mean(1)
    apart = logits - mean.unsqueeze(1)
    rows, fits = QuantizedLogits(apart.half(), mean), (apart.abs() < MAX_DEVIATION).all(1)
    return QuantizationResult(rows, torch.where(fits.unsqueeze(1), dequantize(rows), logits), fits)


def dequantize(rows: QuantizedLogits) -> Tensor:
    """Logits (B, C) float32 from what is kept of them."""
    return rows.centred.float() + rows.mean.unsqueeze(1)


class QuantizedTeacher:
    """Gives the numbers of a teacher whose logits are kept, and keeps none: where each process sees part of them."""

    def __init__(self, live: Teacher) -> None:
        self._live = live

    @torch.no_grad()
    def logits(self, batch: Batch, epoch: int) -> Tensor:
        """(B, C) float32 on the batch's device, a constant."""
        return quantize(self._live.logits(batch, epoch)).values

    def end_epoch(self) -> dict[str, float]:
        return {}

    def finish(self) -> None:
        return


class CachedTeacher:
    """Knows a teacher's logits: from the disk where they are there, else from the network, which are then kept.

    Args:
        live: asks the network.
        plain: asks it too, to check what is kept: without compilation, which would take longer than all the checks.
        views: what it is shown.
        files: where logits are kept.
        tolerance: by which the network's logits may differ from the kept ones, as a share of the largest one: what its
            arithmetic may differ by from one run to the next.
        say: takes what a person should know, into the run's log.
    """

    def __init__(
        self, live: Teacher, plain: Teacher, views: CacheKeyShape, files: LogitCache, tolerance: float, say: Say
    ) -> None:
        self._live, self._plain, self._views, self._files = live, plain, views, files
        self._tolerance, self._say = tolerance, say
        self._reading = self._writing = True
        self._epoch: int | None = None
        self._table: QuantizedLogits | None = None
        self._hit = False
        self._asked = 0  # images of the epoch under way
        self._batch = 0
        self._from_disk = 0
        self._check_at = 0
        self._fit: Tensor | None = None
        self._epochs_read = self._epochs_written = self._bytes_written = self._checks = 0
        self._greeted = False
        # Writing 10 MB takes longer than reading them, and a small network's epoch on a fast GPU a second.
        self._writer = ThreadPoolExecutor(1)
        self._pending: Future[bool] | None = None
        self._pending_bytes = 0

    @torch.no_grad()
    def logits(self, batch: Batch, epoch: int) -> Tensor:
        """(B, C) float32 on the batch's device, a constant."""
        if epoch != self._epoch:
            self._open(epoch, batch.images.device)
        number = self._batch
        self._batch += 1
        self._asked += len(batch.labels)
        index = batch.index.to(batch.images.device, non_blocking=True)
        if self._hit and self._table:
            kept = dequantize(QuantizedLogits(self._table.centred[index], self._table.mean[index]))
            if number != self._check_at or self._confirmed(batch, epoch, kept):
                self._from_disk += len(batch.labels)
                return kept
        found = quantize(self._live.logits(batch, epoch))
        if self._table and not self._hit:
            self._table.centred.index_copy_(0, index, found.rows.centred)
            self._table.mean.index_copy_(0, index, found.rows.mean)
            fit = found.fits.all()
            self._fit = fit if self._fit is None else self._fit & fit
        return found.values

    def end_epoch(self) -> dict[str, float]:
        """Keep the epoch's logits where all of them were computed. Returns metrics by name."""
        if self._epoch is None:
            return {}
        share = 100 * self._from_disk / self._asked if self._asked else 0.0
        if self._hit:
            self._epochs_read += 1
        else:
            self.settle()
            if self._table and self._writing:
                self._publish(self._epoch, self._table)
        self._epoch = self._table = None
        return {"speed/teacher_reused": share}

    def finish(self) -> None:
        """Say what it came to."""
        self.settle()
        self._say(
            f"teacher logits: {self._epochs_read} epochs were read from the disk, {self._epochs_written} written "
            f"({self._bytes_written / 1e6:.1f} MB), {self._checks} batches checked against the network",
            "info",
        )

    def settle(self) -> None:
        """Wait for what is being written, and see whether it was."""
        if self._pending is None:
            return
        try:
            if self._pending.result():
                self._epochs_written += 1
                self._bytes_written += self._pending_bytes
            else:
                text = "an epoch's take {:.3g} GB, and DKD_TEACHER_LOGITS_GB and the disk leave {:.3g} GB for all runs"
                self._stop(text.format(self._pending_bytes / 1e9, self._files.room() / 1e9))
        except OSError as error:
            self._stop(f"the disk refuses: {error}")
        self._pending = None

    def _open(self, epoch: int, device: torch.device) -> None:
        self._epoch, self._table, self._hit = epoch, None, False
        self._asked = self._batch = self._from_disk = 0
        self._fit = None
        if not self._greeted:
            there = len(self._files.epochs())
            self._say(f"teacher logits are kept in {self._files.folder}; those of {there} epochs are there", "info")
            self._greeted = True
        samples, classes = self._views.samples, self._views.classes
        if not self._fits_in_memory(device):
            return
        if self._reading and (rows := self._files.read(epoch, samples, classes)):
            self._table, self._hit = QuantizedLogits(rows.centred.to(device), rows.mean.to(device)), True
            # The first one at once: a key that forgets something would be wrong in every epoch.
            steps = -(-samples // self._views.batch_size)
            seed = self._views.data_seed
            self._check_at = int(hashed_randint(steps, 1, seed, epoch, "check")[0]) if self._checks else 0
        elif self._writing:
            self._table = QuantizedLogits(
                torch.zeros(samples, classes, dtype=torch.float16, device=device), torch.zeros(samples, device=device)
            )

    def _fits_in_memory(self, device: torch.device) -> bool:
        if not (self._reading or self._writing):
            return False
        needed = self._views.samples * (2 * self._views.classes + 4)
        free = _free_memory(device)
        if needed * _SHARE_OF_MEMORY <= free:
            return True
        self._stop(
            f"an epoch's take {needed / 1e9:.2f} GB, more than an eighth of the {free / 1e9:.2f} GB free on {device}"
        )
        return False

    def _confirmed(self, batch: Batch, epoch: int, kept: Tensor) -> bool:
        """Whether the network says of this batch what is kept of it."""
        live = quantize(self._plain.logits(batch, epoch))
        apart = (live.values - kept).abs().max()
        largest = (live.values - live.rows.mean.unsqueeze(1)).abs().max()
        self._checks += 1
        difference, scale = torch.stack((apart, largest)).tolist()
        if difference <= self._tolerance * scale:
            return True
        self._say(
            f"the teacher logits kept in {self._files.folder} are not what the teacher says now: they differ by "
            f"{difference:.3g} in epoch {epoch + 1}, logits being up to {scale:.3g}; they are removed, and "
            "the teacher is asked from here on",
            "warning",
        )
        self._files.drop()
        self._reading = self._writing = self._hit = False
        self._table = None
        return False

    def _publish(self, epoch: int, table: QuantizedLogits) -> None:
        # An epoch that was resumed or stopped in its middle has rows that nobody computed here.
        if self._asked != self._views.samples:
            return
        if self._fit is None or not bool(self._fit):
            self._stop(f"some lie further than {MAX_DEVIATION:g} from their row's mean, where float16 is too coarse")
            return
        self._pending_bytes = table.nbytes
        rows = QuantizedLogits(table.centred.cpu(), table.mean.cpu())
        self._pending = self._writer.submit(self._files.publish, epoch, rows)

    def _stop(self, reason: str) -> None:
        """Write no more; what is there is still read, and the rounding stays: it is part of the run's numbers."""
        if self._writing:
            self._say(f"no more teacher logits are kept: {reason}", "info")
        self._writing = False


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")  # what is free in Linux's own sense leaves out the cache of files, which can go
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return available[0] if available else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
