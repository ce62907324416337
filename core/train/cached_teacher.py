"""A teacher whose logits are cached on disk, so that the next run with the same views need not compute them.

All logits are quantized in the same way, whether they come from the network or from the disk: the mean of a row is
subtracted, the rest is rounded to float16, and the mean (float32) is added again. So a cache hit and a miss give the
same numbers, and a run's numbers do not depend on what is on the disk. Subtracting the mean first spends float16's
digits on the differences, which are all that a softmax sees. A row that float16 would change by more than
``MAX_ROUNDING_ERROR`` is used unchanged, and an epoch with such a row is not cached.

Only the opening and the closing of an epoch, and the few checks against the network, wait for the device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from core.distill.objective import Outputs
from core.settings import TrainingSettings
from core.specs import RunSpec
from core.tasks.classification.data.hashing import hashed_randint
from core.tasks.task import Batch, Task
from core.train.job import Job
from core.train.logit_cache import LogitCache, QuantizedLogits
from core.train.performance import ExecutionPlan
from core.train.teacher import LiveTeacher, Teacher

MAX_DEVIATION = 256.0
MAX_ROUNDING_ERROR = 1 / 16
"""Half of float16's spacing below ``MAX_DEVIATION``: rows with logits further from their mean are not rounded."""

_MEMORY_SHARE = 8  # the logits of an epoch may take one eighth of the device's free memory
_FOLDER = "teacher-logits"
# Relative to the largest logit. Equal networks differ by 1e-6, in 16 bits by 1e-2; another network, or another view of
# an image, differs by about 1.
_TOLERANCE, _TOLERANCE_16_BIT = 0.01, 0.05

LogFn = Callable[[str, Literal["info", "warning"]], object]
"""Logs a message with its level."""


@dataclass(frozen=True)
class CacheKeyShape:
    """The images that a teacher sees, and the shape of its logits.

    Attributes:
        samples: N, the number of training images.
        classes: C, the number of logits for each.
        batch_size: The number of images that it sees at once. It is in the key: kernels for another batch may differ in
            the last bit, which is sometimes another float16, and then a hit and a miss would differ.
        data_seed: Decides the views, and together with the batch size which samples share a batch.
    """

    samples: int
    classes: int
    batch_size: int
    data_seed: int


def cache_key(
    spec: RunSpec, teacher: Mapping[str, Any], plan: ExecutionPlan, batch_size: int, device: torch.device
) -> dict[str, Any]:
    """Return everything that decides a teacher's logits except the epoch, and nothing else, so not the method.

    Args:
        spec: The student's run.
        teacher: What identifies the teacher and its data, see ``core.tasks.task.LoadedTeacher``.
        plan: How the networks compute.
        batch_size: The number of samples that the teacher sees at once; with several ranks, on each of them.
        device: Where it computes.
    """
    return dict(teacher) | {
        "augment": spec.training.augment,
        "data_seed": spec.data_seed,
        "batch_size": batch_size,
        "network": "batch norm folded",  # to be changed when LiveTeacher converts the network in another way
        # Everything except what concerns the student alone, or is recorded in other words below.
        "arithmetic": plan.model_dump(exclude={"fused", "cuda_graphs", "threads", "reasons"}),
        "float32_products": torch.get_float32_matmul_precision(),
        # Another machine, release or number of threads adds in another order.
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()}",
    }


def open_cache(key: Mapping[str, Any], settings: TrainingSettings) -> LogitCache:
    """Return the cache of a key, in the folder and within the limit of the settings."""
    return LogitCache(settings.cache_dir / _FOLDER, key, settings.teacher_logits_bytes)


def cached_teacher(
    live: LiveTeacher, teacher: Mapping[str, Any], job: Job, task: Task, classes: int, plan: ExecutionPlan
) -> CachedTeacher:
    """Return a run's teacher with its logits cached.

    Args:
        live: Runs the teacher's network.
        teacher: What identifies the teacher, see ``cache_key``.
        job: The training of the student.
        task: Its data.
        classes: C, the width of the logits.
        plan: How the networks compute.
    """
    spec, size = job.spec, job.spec.training.batch_size
    shape = CacheKeyShape(task.train_size, classes, size, spec.data_seed)
    cache = open_cache(cache_key(spec, teacher, plan, size, task.device), job.settings)
    tolerance = _TOLERANCE if plan.precision == "float32" else _TOLERANCE_16_BIT
    return CachedTeacher(live, live.uncompiled(), shape, cache, tolerance, job.journal.log)


@dataclass(frozen=True)
class QuantizationResult:
    """A batch's logits after the quantization.

    Attributes:
        stored: The rows as they are cached.
        values: (B, C) float32, as a run uses them: dequantized rows, or the original row if it does not fit.
        fits: (B,) bool, whether float16 holds the row well enough; a row with a NaN or an infinity does not fit.
    """

    stored: QuantizedLogits
    values: Tensor
    fits: Tensor


def quantize(logits: Tensor) -> QuantizationResult:
    """Quantize logits (B, C)."""
    logits = logits.float()
    mean = logits.mean(1)
    deviation = logits - mean.unsqueeze(1)
    stored, fits = QuantizedLogits(deviation.half(), mean), (deviation.abs() < MAX_DEVIATION).all(1)
    return QuantizationResult(stored, torch.where(fits.unsqueeze(1), dequantize(stored), logits), fits)


def dequantize(stored: QuantizedLogits) -> Tensor:
    """Return logits (B, C) float32 from cached rows."""
    return stored.centred.float() + stored.mean.unsqueeze(1)


class QuantizedTeacher:
    """Gives the same numbers as a ``CachedTeacher`` and caches none, for processes that each see a part of the images.

    Args:
        live: Runs the teacher's network.
    """

    def __init__(self, live: Teacher) -> None:
        self._live = live

    @torch.no_grad()
    def outputs(self, batch: Batch, epoch: int) -> Outputs:
        """Return logits (B, C) float32 and taps on the batch's device, as constants."""
        outputs = self._live.outputs(batch, epoch)
        return replace(outputs, logits=quantize(outputs.logits).values)

    def end_epoch(self) -> dict[str, float]:
        """Return no metrics."""
        return {}

    def finish(self) -> None:
        """Do nothing."""


class CachedTeacher:
    """Takes a teacher's logits from the disk if they are there; else from the network, and caches them.

    Args:
        live: Runs the teacher's network.
        checker: Runs it too, to check cached logits: without compilation, which would take longer than all the checks.
        shape: The images that the teacher sees.
        cache: The logits on disk.
        tolerance: The largest difference between the network's logits and the cached ones, relative to the largest
            logit: what the arithmetic may differ by from one run to the next.
        log: Logs a message in the run's journal.
    """

    def __init__(
        self,
        live: Teacher,
        checker: Teacher,
        shape: CacheKeyShape,
        cache: LogitCache,
        tolerance: float,
        log: LogFn,
    ) -> None:
        self._live, self._checker, self._shape, self._cache = live, checker, shape, cache
        self._tolerance, self._log = tolerance, log
        self._reading = self._writing = True
        self._epoch: int | None = None
        self._table: QuantizedLogits | None = None
        self._hit = False
        self._images_seen = 0  # in the current epoch
        self._batch = 0
        self._images_from_disk = 0
        self._checked_batch = 0
        self._all_fit: Tensor | None = None
        self._epochs_read = self._epochs_written = self._bytes_written = self._checks = 0
        self._opened = False
        # Writing 10 MB takes longer than reading it, and an epoch of a small network on a fast GPU takes a second.
        self._writer = ThreadPoolExecutor(1)
        self._pending: Future[bool] | None = None
        self._pending_bytes = 0

    @torch.no_grad()
    def outputs(self, batch: Batch, epoch: int) -> Outputs:
        """Return logits (B, C) float32 on the batch's device, as constants."""
        return Outputs(self._logits(batch, epoch, batch.tensors()[0].device))

    def _logits(self, batch: Batch, epoch: int, device: torch.device) -> Tensor:
        if epoch != self._epoch:
            self._open_epoch(epoch, device)
        number = self._batch
        self._batch += 1
        self._images_seen += len(batch.index)
        index = batch.index.to(device, non_blocking=True)
        if self._hit and self._table:
            cached = dequantize(QuantizedLogits(self._table.centred[index], self._table.mean[index]))
            if number != self._checked_batch or self._confirm(batch, epoch, cached):
                self._images_from_disk += len(batch.index)
                return cached
        result = quantize(self._live.outputs(batch, epoch).logits)
        if self._table and not self._hit:
            self._table.centred.index_copy_(0, index, result.stored.centred)
            self._table.mean.index_copy_(0, index, result.stored.mean)
            fit = result.fits.all()
            self._all_fit = fit if self._all_fit is None else self._all_fit & fit
        return result.values

    def end_epoch(self) -> dict[str, float]:
        """Cache the logits of the epoch if all of them were computed.

        Returns:
            Metrics by name.
        """
        if self._epoch is None:
            return {}
        share = 100 * self._images_from_disk / self._images_seen if self._images_seen else 0.0
        if self._hit:
            self._epochs_read += 1
        else:
            self.wait_for_writer()
            if self._table and self._writing:
                self._write_epoch(self._epoch, self._table)
        self._epoch = self._table = None
        return {"speed/teacher_reused": share}

    def finish(self) -> None:
        """Log how many epochs were read and written."""
        self.wait_for_writer()
        self._log(
            f"teacher logits: {self._epochs_read} epochs were read from the disk, {self._epochs_written} written "
            f"({self._bytes_written / 1e6:.1f} MB), {self._checks} batches checked against the network",
            "info",
        )

    def wait_for_writer(self) -> None:
        """Wait until the pending epoch is on the disk, and stop writing if the disk refused it."""
        if self._pending is None:
            return
        try:
            if self._pending.result():
                self._epochs_written += 1
                self._bytes_written += self._pending_bytes
            else:
                text = "an epoch takes {:.3g} GB, and DKD_TEACHER_LOGITS_GB and the disk leave {:.3g} GB for all runs"
                self._stop_writing(text.format(self._pending_bytes / 1e9, self._cache.available_bytes() / 1e9))
        except OSError as error:
            self._stop_writing(f"the disk refuses: {error}")
        self._pending = None

    def _open_epoch(self, epoch: int, device: torch.device) -> None:
        self._epoch, self._table, self._hit = epoch, None, False
        self._images_seen = self._batch = self._images_from_disk = 0
        self._all_fit = None
        if not self._opened:
            count = len(self._cache.epochs())
            self._log(f"teacher logits are kept in {self._cache.folder}; {count} epochs are there", "info")
            self._opened = True
        samples, classes = self._shape.samples, self._shape.classes
        if not self._fits_in_memory(device):
            return
        if self._reading and (rows := self._cache.read(epoch, samples, classes)):
            self._table, self._hit = QuantizedLogits(rows.centred.to(device), rows.mean.to(device)), True
            # The first batch at once, because a key that misses something would be wrong in every epoch.
            steps = -(-samples // self._shape.batch_size)
            seed = self._shape.data_seed
            self._checked_batch = int(hashed_randint(steps, 1, seed, epoch, "check")[0]) if self._checks else 0
        elif self._writing:
            self._table = QuantizedLogits(
                torch.zeros(samples, classes, dtype=torch.float16, device=device), torch.zeros(samples, device=device)
            )

    def _fits_in_memory(self, device: torch.device) -> bool:
        if not (self._reading or self._writing):
            return False
        needed = self._shape.samples * (2 * self._shape.classes + 4)
        free = _free_memory(device)
        if needed * _MEMORY_SHARE <= free:
            return True
        self._stop_writing(
            f"an epoch takes {needed / 1e9:.2f} GB, more than an eighth of the {free / 1e9:.2f} GB free on {device}"
        )
        return False

    def _confirm(self, batch: Batch, epoch: int, cached: Tensor) -> bool:
        """Whether the network's logits of a batch are the cached ones."""
        live = quantize(self._checker.outputs(batch, epoch).logits)
        difference_tensor = (live.values - cached).abs().max()
        largest = (live.values - live.stored.mean.unsqueeze(1)).abs().max()
        self._checks += 1
        difference, scale = torch.stack((difference_tensor, largest)).tolist()
        if difference <= self._tolerance * scale:
            return True
        self._log(
            f"the teacher logits cached in {self._cache.folder} are not the teacher's logits now: they differ by "
            f"{difference:.3g} in epoch {epoch + 1}, with logits up to {scale:.3g}; they are removed, and "
            "from here on the teacher's network runs in each step",
            "warning",
        )
        self._cache.clear()
        self._reading = self._writing = self._hit = False
        self._table = None
        return False

    def _write_epoch(self, epoch: int, table: QuantizedLogits) -> None:
        # In an epoch that was resumed or stopped in its middle, some rows were not computed here.
        if self._images_seen != self._shape.samples:
            return
        if self._all_fit is None or not bool(self._all_fit):
            self._stop_writing(
                f"some are further than {MAX_DEVIATION:g} from the mean of their row, where float16 is too coarse"
            )
            return
        self._pending_bytes = table.nbytes
        rows = QuantizedLogits(table.centred.cpu(), table.mean.cpu())
        self._pending = self._writer.submit(self._cache.write, epoch, rows)

    def _stop_writing(self, reason: str) -> None:
        """Write no more. Cached epochs are still read, and the quantization stays: it is part of the run's numbers."""
        if self._writing:
            self._log(f"no more teacher logits are cached: {reason}", "info")
        self._writing = False


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")  # MemAvailable includes the page cache, which MemFree does not
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return available[0] if available else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
