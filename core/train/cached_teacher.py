"""A teacher whose outputs are cached on disk, so that the next run with the same views need not compute them.

The logits and the tapped vectors are cached; maps would take too much of the disk. All of them are quantized in the
same way, whether they come from the network or from the disk. So a cache hit and a miss give the same numbers, and a
run's numbers do not depend on what is on the disk. A row that float16 would change by more than ``MAX_ROUNDING_ERROR``
is used unchanged, and an epoch with such a row is not cached.

Only the opening and the closing of an epoch, and the few checks against the network, wait for the device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from core.catalog.taps import STRONG_LOGITS
from core.distill.objective import NetworkShape, Outputs
from core.settings import TrainingSettings
from core.specs import RunSpec
from core.tasks.hashing import hashed_randint
from core.tasks.task import Batch, Task
from core.train.job import Job
from core.train.known_outputs import KnownOutputs
from core.train.output_cache import OutputCache
from core.train.performance import ExecutionPlan
from core.train.quantization import (
    LOGITS,
    MAX_DEVIATION,
    QuantizationResult,
    QuantizedRows,
    Table,
    dequantize,
    outputs_of,
    quantize_outputs,
)
from core.train.teacher import LiveTeacher, Teacher
from core.turns import in_group, release, shared

_MEMORY_SHARE = 8  # the outputs of an epoch may take one eighth of the device's free memory
_FOLDER = "teacher-logits"
# Relative to the largest logit, or the largest number of a tap. Equal networks differ by 1e-6, in 16 bits by 1e-2;
# another network, or another view of an image, differs by about 1.
_TOLERANCE, _TOLERANCE_16_BIT = 0.01, 0.05

LogFn = Callable[[str, Literal["info", "warning"]], object]
"""Logs a message with its level."""


@dataclass(frozen=True)
class CacheKeyShape:
    """The images that a teacher sees, and the shape of its outputs.

    Attributes:
        samples: N, the number of training images.
        widths: The number of columns of each output by name, C for the logits.
        batch_size: The number of images that it sees at once. It is in the key: kernels for another batch may differ in
            the last bit, which is sometimes another float16, and then a hit and a miss would differ.
        data_seed: Decides the views, and together with the batch size which samples share a batch.
    """

    samples: int
    widths: Mapping[str, int]
    batch_size: int
    data_seed: int


def cache_key(
    spec: RunSpec,
    teacher: Mapping[str, Any],
    plan: ExecutionPlan,
    batch_size: int,
    device: torch.device,
    taps: Collection[str] = (),
) -> dict[str, Any]:
    """Return everything that decides a teacher's outputs except the epoch, and nothing else, so not the method.

    Args:
        spec: The student's run.
        teacher: What identifies the teacher and its data, see ``core.tasks.task.LoadedTeacher``.
        plan: How the networks compute.
        batch_size: The number of samples that the teacher sees at once; with several ranks, on each of them.
        device: Where it computes.
        taps: The taps that are cached beside the logits.
    """
    key = dict(teacher) | {
        "augment": spec.training.augment,
        "data_seed": spec.data_seed,
        "batch_size": batch_size,
        # To be changed when LiveTeacher converts the network in another way.
        "network": "batch norm folded",
        # Everything except what concerns the student alone, or is recorded in other words below.
        "arithmetic": plan.model_dump(exclude={"fused", "cuda_graphs", "threads", "reasons"}),
        "float32_products": torch.get_float32_matmul_precision(),
        # Another machine, release or number of threads adds in another order.
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()}",
    }
    if STRONG_LOGITS in taps:
        key["strong_augment"] = spec.training.strong_augment
    return key | {"taps": sorted(taps)} if taps else key


def open_cache(key: Mapping[str, Any], settings: TrainingSettings) -> OutputCache:
    """Return the cache of a key, in the folder and within the limit of the settings."""
    return OutputCache(settings.cache_dir / _FOLDER, key, settings.teacher_logits_bytes)


def reused_teacher(
    live: LiveTeacher, teacher: Mapping[str, Any], job: Job, task: Task, shape: NetworkShape, plan: ExecutionPlan
) -> Teacher:
    """Return a run's teacher with its outputs cached, if all that the method reads can be.

    Args:
        live: Runs the teacher's network.
        teacher: What identifies the teacher, see ``cache_key``.
        job: The training of the student.
        task: Its data.
        shape: The width of the logits and the shapes of the taps that the method reads.
        plan: How the networks compute.
    """
    if others := [name for name, size in shape.taps.items() if len(size) != 1]:
        job.journal.log(
            f"the teacher runs in every step: the method reads its {', '.join(others)}, "
            "and only logits and vectors are cached"
        )
    elif job.ranks.size > 1:
        job.journal.log(
            "the teacher runs in every step: its outputs are cached only where one process sees all of them"
        )
    if others or job.ranks.size > 1:
        return QuantizedTeacher(live)
    spec, size = job.spec, job.spec.training.batch_size
    widths = {LOGITS: shape.num_classes} | {name: width for name, (width,) in shape.taps.items()}
    views = CacheKeyShape(task.train_size, widths, size, spec.data_seed)
    cache = open_cache(cache_key(spec, teacher, plan, size, task.device, shape.taps), job.settings)
    tolerance = _TOLERANCE if plan.precision == "float32" else _TOLERANCE_16_BIT
    return CachedTeacher(live, live.uncompiled(), views, cache, tolerance, job.journal.log)


class QuantizedTeacher:
    """Gives the same numbers as a ``CachedTeacher`` and caches none, for processes that each see a part of the images.

    Args:
        live: Runs the teacher's network.
    """

    def __init__(self, live: Teacher) -> None:
        self._live = live

    @torch.no_grad()
    def outputs(self, batch: Batch, epoch: int) -> Outputs:
        """Return logits (B, C) float32 and taps on the batch's device, as constants; maps are not rounded."""
        outputs = self._live.outputs(batch, epoch)
        rounded = {name: result.values for name, result in quantize_outputs(outputs).items()}
        return outputs_of({**outputs.taps, **rounded})

    def end_epoch(self) -> dict[str, float]:
        """Return no metrics."""
        return {}

    def finish(self) -> None:
        """Do nothing."""


class CachedTeacher:
    """Takes a teacher's outputs from the disk if they are there; else from the network, and caches them.

    Args:
        live: Runs the teacher's network.
        checker: Runs it too, to check cached outputs: without compilation, which would take longer than all the checks.
        shape: The images that the teacher sees.
        cache: The outputs on disk.
        tolerance: The largest difference between the network's outputs and the cached ones, relative to the largest
            number of each: what the arithmetic may differ by from one run to the next.
        log: Logs a message in the run's journal.
    """

    def __init__(
        self,
        live: Teacher,
        checker: Teacher,
        shape: CacheKeyShape,
        cache: OutputCache,
        tolerance: float,
        log: LogFn,
    ) -> None:
        self._live, self._checker, self._shape, self._cache = live, checker, shape, cache
        self._tolerance, self._log = tolerance, log
        self._kind = "teacher logits and taps" if len(shape.widths) > 1 else "teacher logits"
        self._reading = self._writing = True
        self._epoch: int | None = None
        self._known = KnownOutputs()
        self._hit = False
        self._images_seen = 0  # in the current epoch
        self._batch = 0
        self._images_reused = 0
        self._checked_batch = 0
        self._epochs_read = self._epochs_written = self._bytes_written = self._checks = 0
        self._opened = False
        # Writing 10 MB takes longer than reading it, and an epoch of a small network on a fast GPU takes a second.
        self._writer = ThreadPoolExecutor(1)
        self._pending: Future[bool] | None = None
        self._pending_bytes = 0

    @torch.no_grad()
    def outputs(self, batch: Batch, epoch: int) -> Outputs:
        """Return logits (B, C) and taps (B, D) float32 on the batch's device, as constants."""
        device = batch.tensors()[0].device
        if epoch != self._epoch:
            self._open_epoch(epoch, device)
        number = self._batch
        self._batch += 1
        self._images_seen += len(batch.index)
        if self._hit and self._known.table:
            index = batch.index.to(device, non_blocking=True)
            cached = {name: dequantize(rows.select(index)) for name, rows in self._known.table.items()}
            if number != self._checked_batch or self._confirm(batch, epoch, cached):
                self._images_reused += len(batch.index)
                return outputs_of(cached)
        elif (known := self._known.batch(batch.index)) is not None:
            self._images_reused += len(batch.index)
            return outputs_of(known)
        results = quantize_outputs(self._live.outputs(batch, epoch))
        if not self._hit:
            self._known.add(batch.index, results)
        return outputs_of({name: result.values for name, result in results.items()})

    def end_epoch(self) -> dict[str, float]:
        """Cache the outputs of the epoch if all of them were computed.

        Returns:
            Metrics by name.
        """
        if self._epoch is None:
            return {}
        share = 100 * self._images_reused / self._images_seen if self._images_seen else 0.0
        if self._hit:
            self._epochs_read += 1
        else:
            self.wait_for_writer()
            if self._known.table and self._writing and not self._known.written:
                self._write_epoch(self._epoch, self._known.table)
        release(self._key(self._epoch))
        self._epoch, self._known = None, KnownOutputs()
        return {"speed/teacher_reused": share}

    def finish(self) -> None:
        """Log how many epochs were read and written."""
        self.wait_for_writer()
        self._log(
            f"{self._kind}: {self._epochs_read} epochs were read from the disk, {self._epochs_written} written "
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
        self._epoch, self._known, self._hit = epoch, KnownOutputs(), False
        self._images_seen = self._batch = self._images_reused = 0
        if not self._opened:
            count = len(self._cache.epochs())
            self._log(f"{self._kind} are kept in {self._cache.folder}; {count} epochs are there", "info")
            self._opened = True
        samples, widths = self._shape.samples, self._shape.widths
        if not self._fits_in_memory(device):
            return
        if self._reading:
            self._known = shared(self._key(epoch), lambda: self._read(epoch, device))
            self._hit = self._known.from_disk
        if self._hit:
            # The first batch at once, because a key that misses something would be wrong in every epoch.
            steps = -(-samples // self._shape.batch_size)
            seed = self._shape.data_seed
            self._checked_batch = int(hashed_randint(steps, 1, seed, epoch, "check")[0]) if self._checks else 0
        elif self._writing and self._known.table is None:
            self._known.table = {name: QuantizedRows.zeros(samples, width, device) for name, width in widths.items()}

    def _read(self, epoch: int, device: torch.device) -> KnownOutputs:
        """Return the outputs of an epoch that are on the disk, or none."""
        table = self._cache.read(epoch, self._shape.samples, self._shape.widths)
        if not table:
            return KnownOutputs()
        return KnownOutputs({name: rows.to(device) for name, rows in table.items()}, from_disk=True)

    def _key(self, epoch: int) -> tuple[str, str, int]:
        """Return the name of an epoch's outputs among the runs of a group."""
        return "teacher", self._cache.name, epoch

    def _fits_in_memory(self, device: torch.device) -> bool:
        if not (self._reading or self._writing):
            return False
        size = 6 if in_group() else 2  # the runs of a group also keep the numbers as they were before the rounding
        needed = self._shape.samples * sum(size * width + 4 for width in self._shape.widths.values())
        free = _free_memory(device)
        if needed * _MEMORY_SHARE <= free:
            return True
        self._stop_writing(
            f"an epoch takes {needed / 1e9:.2f} GB, more than an eighth of the {free / 1e9:.2f} GB free on {device}"
        )
        return False

    def _confirm(self, batch: Batch, epoch: int, cached: Mapping[str, Tensor]) -> bool:
        """Whether the network's outputs for a batch are the cached ones."""
        results = quantize_outputs(self._checker.outputs(batch, epoch))
        pairs = [_difference(name, results[name], values) for name, values in cached.items()]
        self._checks += 1
        for name, (difference, scale) in zip(cached, torch.stack(pairs).tolist(), strict=True):
            if difference <= self._tolerance * scale:
                continue
            kind = "logits" if name == LOGITS else name
            self._log(
                f"the teacher {kind} cached in {self._cache.folder} are not the teacher's {kind} now: they differ by "
                f"{difference:.3g} in epoch {epoch + 1}, with {kind} up to {scale:.3g}; the cached ones are removed, "
                "and from here on the teacher's network runs in each step",
                "warning",
            )
            self._cache.clear()
            self._reading = self._writing = self._hit = False
            self._known = KnownOutputs()
            return False
        return True

    def _write_epoch(self, epoch: int, table: Table) -> None:
        # In an epoch that was resumed or stopped in its middle, some rows were not computed here.
        if self._known.images != self._shape.samples:
            return
        if not self._known.all_fit():
            self._stop_writing(
                f"some are further than {MAX_DEVIATION:g} from the mean of their row, and float16 is too coarse there"
            )
            return
        self._known.written = True
        self._pending_bytes = sum(rows.nbytes for rows in table.values())
        on_cpu = {name: rows.to("cpu") for name, rows in table.items()}
        self._pending = self._writer.submit(self._cache.write, epoch, on_cpu)

    def _stop_writing(self, reason: str) -> None:
        """Write no more. Cached epochs are still read, and the quantization stays: it is part of the run's numbers."""
        if self._writing:
            self._log(f"no more {self._kind} are cached: {reason}", "info")
        self._writing = False


def _difference(name: str, live: QuantizationResult, cached: Tensor) -> Tensor:
    """Return the largest difference from the cached rows, and the size that it is to be compared with."""
    # A softmax sees only how far logits are from their mean. A tap may be one number, which is its own mean.
    size = live.values - live.stored.mean.unsqueeze(1) if name == LOGITS else live.values
    return torch.stack(((live.values - cached).abs().max(), size.abs().max()))


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")  # MemAvailable includes the page cache, which MemFree does not
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return available[0] if available else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
