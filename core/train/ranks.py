"""One training on several GPUs (or CPU processes): the ranks share each batch and take the same step.

Each rank computes the forward and backward pass of its own part. The loss is that of the whole batch, computed from
logits that all ranks gather; the statistics of batch norm are those of the whole batch; DistributedDataParallel
averages the gradients. So after each step all ranks hold the same weights and the same sums, and only the first one
evaluates and writes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.errors import MachineError, TrainingError
from core.launch import RankFailure, RankInfo
from core.train.batch_norm import synchronize_batch_norm
from core.train.checkpoint import RandomState

_STEP_TIMEOUT = timedelta(minutes=30)  # ranks are apart by the writing of a checkpoint, or by a slow disk
_WAIT_TIMEOUT = timedelta(days=7)  # for the first rank's evaluation; a rank that died is noticed in other ways
# Torch 2.14 warns about the older name.
_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(nn.parallel.DistributedDataParallel).parameters
)
_SYNC_EVERY = 10  # steps on a GPU, which runs ahead of its host; on the CPU the ranks synchronise before every step


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, as one of them sees them. With a single process, every method is trivial.

    Attributes:
        info: Which of the processes this is; None for a training of a single process.
        control: The process group for agreements, on the CPU, so that no GPU has to be waited for.
    """

    info: RankInfo | None = None
    control: dist.ProcessGroup | None = None

    @property
    def rank(self) -> int:
        """The number of this process, counted from 0."""
        return self.info.rank if self.info else 0

    @property
    def size(self) -> int:
        """The number of processes."""
        return self.info.world_size if self.info else 1

    @property
    def is_main(self) -> bool:
        """Whether this rank evaluates, and writes the journal, the checkpoints and the weights."""
        return self.rank == 0

    def device(self, gpus_given: int = 0) -> torch.device:
        """Return the device of this rank: a visible GPU for each rank, or the CPU if no GPU is visible.

        Args:
            gpus_given: The number of GPUs that a worker has reserved for the training.

        Raises:
            TrainingError: There are GPUs, but fewer than ranks.
            MachineError: The reserved GPUs do not work. The CPU would take days for what was meant for a GPU.
        """
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count < gpus_given:
            raise MachineError(f"torch can use {count} of the {gpus_given} GPUs given to this training; see nvidia-smi")
        if count == 0:
            return torch.device("cpu")
        if count < self.size:
            text = f"{self.size} ranks need as many GPUs, and this process may see {count} (CUDA_VISIBLE_DEVICES)"
            raise TrainingError("spec", text)
        device = torch.device("cuda", self.rank)
        torch.cuda.set_device(device)
        return device

    def share(self, count: int) -> slice:
        """Return this rank's rows of a batch of ``count``."""
        return _share(count, self.rank, self.size)

    def synchronize(self, model: nn.Module, device: torch.device) -> None:
        """Replace a model's batch norm, in place, by one over all ranks. Taps are placed after that, not before."""
        if self.size > 1:
            synchronize_batch_norm(model, device)

    def parallelize(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return a synchronised model as a step calls it; ``model`` itself is still the one to evaluate and save."""
        if self.size == 1:
            return model
        # Buffers need no broadcast: every rank computes those of batch norm from the same sums.
        options: dict[str, Any] = {_SYNC_BUFFERS: False}
        return nn.parallel.DistributedDataParallel(
            model, device_ids=[device] if device.type == "cuda" else None, **options
        )

    def counts(self, total: int) -> list[int]:
        """Return the number of samples of each rank in a batch of ``total``."""
        shares = [_share(total, rank, self.size) for rank in range(self.size)]
        return [share.stop - share.start for share in shares]

    def exchange_counts(self, count: int, device: torch.device) -> list[int]:
        """Return the number of rows of each rank, where a sample has any number of them. The host waits for it."""
        own = torch.tensor([count], device=device)
        gathered = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(gathered, own)
        return torch.cat(gathered).tolist()

    def should_sync(self, step: int, device: torch.device) -> bool:
        """Whether the ranks agree on an action before this step."""
        return self.size == 1 or device.type == "cpu" or step % _SYNC_EVERY == 0

    def broadcast_int(self, value: int) -> int:
        """Return the first rank's value on all ranks, which wait for it however long it takes."""
        if self.size == 1:
            return value
        tensor = torch.tensor([value])
        dist.broadcast(tensor, 0, group=self.control)
        return int(tensor)

    def random_states(self, device: torch.device) -> list[RandomState]:
        """Return the states of torch's random generators on all ranks, in the order of the ranks."""
        local = RandomState.now(device)
        if self.size == 1:
            return [local]
        states: list[list[Tensor]] = []
        for tensor in (local.cpu, local.cuda):
            gathered = [torch.empty_like(tensor) for _ in range(self.size)] if tensor is not None else []
            if tensor is not None:
                dist.all_gather(gathered, tensor, group=self.control)
            states.append(gathered)
        cpu, cuda = states
        return [RandomState(state, cuda[rank] if cuda else None) for rank, state in enumerate(cpu)]

    def check_same_step(self, step: int) -> None:
        """Check that all ranks continue from the same step, because they would train different networks otherwise.

        Raises:
            TrainingError: The ranks are at different steps.
        """
        if self.size > 1:
            gathered = [torch.empty(1, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(gathered, torch.tensor([step]), group=self.control)
            steps = [int(tensor) for tensor in gathered]
            if len(set(steps)) > 1:
                raise TrainingError("error", f"the ranks read different checkpoints, of steps {steps}")

    def report_failure(self, error: TrainingError, *, peer_lost: bool = False) -> None:
        """Report to the process that started the ranks why this one cannot continue."""
        if self.info:
            RankFailure(error.kind, str(error), peer_lost).write(self.info)


SINGLE_PROCESS = Ranks()


@contextmanager
def process_group(info: RankInfo) -> Iterator[Ranks]:
    """A block in which this process communicates with the other ranks of its training.

    Args:
        info: Which of the processes this is.

    Yields:
        The ranks, as this process sees them.
    """
    has_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= info.world_size
    dist.init_process_group(
        "nccl" if has_gpus else "gloo",
        # A file, because another program could take a port meanwhile; by its path, because a URL ends at # or ?.
        store=dist.FileStore(str(info.folder / "meeting"), info.world_size),  # type: ignore[attr-defined]
        rank=info.rank,
        world_size=info.world_size,
        timeout=_STEP_TIMEOUT,
    )
    try:
        control = dist.new_group(backend="gloo", timeout=_WAIT_TIMEOUT)
        assert isinstance(control, dist.ProcessGroup)
        yield Ranks(info, control)
    finally:
        dist.destroy_process_group()


def is_peer_lost(error: BaseException) -> bool:
    """Whether an error only says that another rank is gone."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _share(count: int, rank: int, size: int) -> slice:
    return slice(count * rank // size, count * (rank + 1) // size)
