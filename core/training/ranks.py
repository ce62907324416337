"""One training on several GPUs (or CPU processes): the ranks share out each batch and take one and the same step.

What every rank computes of its own part is the networks' forward and backward pass. The loss is that of the whole
batch, of logits that all ranks gather; batch norm's statistics are of the whole batch; gradients are averaged by
DistributedDataParallel. So all ranks hold the same weights and the same sums after each step, and only the first one
evaluates and writes.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.events import GPUS_GIVEN
from core.launch import RankFailure, RankInfo
from core.methods import LogitBatch, LossTerms
from core.methods.global_batch import gather_ranks, local_part, row_gradients
from core.training.batch_norm import synchronize_batch_norm
from core.training.checkpoint import RandomState
from core.training.errors import MachineError, TrainingError

_STEP_TIMEOUT = timedelta(minutes=30)  # ranks differ by a checkpoint's writing, or by a slow disk
_WAIT_TIMEOUT = timedelta(days=7)  # for the first rank's evaluation; one that died is noticed by other means
# Torch 2.14 warns of the older name.
_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(nn.parallel.DistributedDataParallel).parameters
)
_AGREE_EVERY = 10  # steps on a GPU, which runs ahead of its host; on the CPU every step


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, and which of them this is. Alone, everything here does nothing.

    Attributes:
        place: None for a training of a single process.
        control: what the ranks agree by, on the CPU, so that no GPU is waited for.
    """

    place: RankInfo | None = None
    control: dist.ProcessGroup | None = None

    @property
    def rank(self) -> int:
        return self.place.rank if self.place else 0

    @property
    def size(self) -> int:
        return self.place.ranks if self.place else 1

    @property
    def is_main(self) -> bool:
        """Whether this rank evaluates, and writes what is written."""
        return self.rank == 0

    def device(self) -> torch.device:
        """The first GPU that the process may see, one for each rank, else the CPU.

        Raises TrainingError where there are GPUs, but too few, and MachineError where a worker has given this training
        some and they do not work: the CPU would take days for what was meant for a GPU.
        """
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        given = int(os.environ.get(GPUS_GIVEN, "0"))
        if count < given:
            raise MachineError(f"torch can use {count} of the {given} GPUs given to this training; see nvidia-smi")
        if count == 0:
            return torch.device("cpu")
        if count < self.size:
            text = f"{self.size} ranks need as many GPUs, and this process may see {count} (CUDA_VISIBLE_DEVICES)"
            raise TrainingError("spec", text)
        device = torch.device("cuda", self.rank)
        torch.cuda.set_device(device)
        return device

    def share(self, count: int) -> slice:
        """This rank's rows of a batch of ``count``."""
        return _share(count, self.rank, self.size)

    def parallelize(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model as a step runs it; ``model`` stays what is evaluated and saved, its batch norm exchanged."""
        if self.size == 1:
            return model
        synchronize_batch_norm(model, device)
        # Buffers need no broadcast: batch norm's are computed of the same sums on every rank.
        options: dict[str, Any] = {_SYNC_BUFFERS: False}
        return nn.parallel.DistributedDataParallel(
            model, device_ids=[device] if device.type == "cuda" else None, **options
        )

    def gather_batch(self, part: LogitBatch, count: int) -> LogitBatch:
        """The batch of all ranks, ``count`` rows, of their parts."""
        if self.size == 1:
            return part
        shares = [_share(count, rank, self.size) for rank in range(self.size)]
        return gather_ranks(part, [share.stop - share.start for share in shares])

    def local_loss(self, terms: LossTerms, whole: LogitBatch, part: LogitBatch) -> Tensor:
        """What to call ``backward`` on: the whole loss, as a function of this rank's logits."""
        if self.size == 1:
            return terms.total
        first = self.share(len(whole.target)).start
        return local_part(terms, row_gradients(terms, whole), part, first, self.size)

    def should_sync(self, step: int, device: torch.device) -> bool:
        """Whether the ranks agree before this step on what to do."""
        return self.size == 1 or device.type == "cpu" or step % _AGREE_EVERY == 0

    def broadcast_int(self, value: int) -> int:
        """The first rank's value on all of them, which wait for it however long it takes."""
        if self.size == 1:
            return value
        told = torch.tensor([value])
        dist.broadcast(told, 0, group=self.control)
        return int(told)

    def random_states(self, device: torch.device) -> list[RandomState]:
        """Of all ranks, in their order."""
        own = RandomState.now(device)
        if self.size == 1:
            return [own]
        states: list[list[Tensor]] = []
        for tensor in (own.cpu, own.cuda):
            found = [torch.empty_like(tensor) for _ in range(self.size)] if tensor is not None else []
            if tensor is not None:
                dist.all_gather(found, tensor, group=self.control)
            states.append(found)
        cpu, cuda = states
        return [RandomState(state, cuda[rank] if cuda else None) for rank, state in enumerate(cpu)]

    def check_same_step(self, value: int) -> None:
        """Raises TrainingError where the ranks' values differ: they would train different networks."""
        if self.size > 1:
            found = [torch.empty(1, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(found, torch.tensor([value]), group=self.control)
            steps = [int(step) for step in found]
            if len(set(steps)) > 1:
                raise TrainingError("error", f"the ranks read different checkpoints, of steps {steps}")

    def report(self, error: TrainingError, *, peer_lost: bool = False) -> None:
        """Tell the process that started the ranks why this one cannot go on."""
        if self.place:
            RankFailure(error.kind, str(error), peer_lost).write(self.place)


SINGLE_PROCESS = Ranks()


@contextmanager
def process_group(place: RankInfo) -> Iterator[Ranks]:
    """A block in which this process is one of several ranks."""
    gpus = torch.cuda.is_available() and torch.cuda.device_count() >= place.ranks
    dist.init_process_group(
        "nccl" if gpus else "gloo",
        # A file and no port: nobody else can take it in the meantime. Its path and no URL, in which # and ? end a path.
        store=dist.FileStore(str(place.folder / "meeting"), place.ranks),  # type: ignore[attr-defined]
        rank=place.rank,
        world_size=place.ranks,
        timeout=_STEP_TIMEOUT,
    )
    try:
        control = dist.new_group(backend="gloo", timeout=_WAIT_TIMEOUT)
        assert isinstance(control, dist.ProcessGroup)
        yield Ranks(place, control)
    finally:
        dist.destroy_process_group()


def is_peer_lost(error: BaseException) -> bool:
    """Whether an error only says that another rank is gone."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _share(count: int, rank: int, size: int) -> slice:
    return slice(count * rank // size, count * (rank + 1) // size)
