"""A loss over several ranks equals that of one process with the same global batch, for every method.

With and without weights of rows.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from core.distill.loss import Loss, build_loss
from core.distill.objective import LogitObjective, Outputs, Step
from core.distill.rows import Rows
from core.distill.scope import local_part
from core.launch import RankInfo
from core.specs import MethodRef
from core.train.rank_loss import step_loss
from core.train.ranks import Ranks
from tests.core.test_methods import ALL, SETTINGS
from tests.services import free_port

SIZE, CLASSES, FEATURES = 13, 6, 5  # an odd batch: the ranks' shares differ


WEIGHTED = pytest.mark.parametrize("weighted", [False, True])
# The first rank's rows have small weights, so that a sum over one rank alone gives another loss.
WEIGHT = torch.cat((torch.full((7,), 0.1), torch.tensor([2.0, 0.0, 5.0, 1.0, 3.0, 0.0]))).double()


def problem() -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    """A linear student in float64, its inputs, the teacher's logits and the targets."""
    random = torch.Generator().manual_seed(0)
    student = nn.Linear(FEATURES, CLASSES, dtype=torch.float64)
    with torch.no_grad():
        student.weight.copy_(torch.randn(CLASSES, FEATURES, generator=random))
        student.bias.zero_()
    inputs = torch.randn(SIZE, FEATURES, generator=random, dtype=torch.float64)
    teacher = 3 * torch.randn(SIZE, CLASSES, generator=random, dtype=torch.float64)
    return student, inputs, teacher, torch.randint(CLASSES, (SIZE,), generator=random)


def build(setting: str) -> Loss:
    return build_loss(MethodRef(name=setting.split()[0], params=SETTINGS[setting]))


def loss_of_one_process(setting: str, weighted: bool) -> tuple[float, Tensor]:
    student, inputs, teacher, target = problem()
    total = build(setting)(Rows(student(inputs), teacher, target, WEIGHT if weighted else None), 2).total
    total.backward()  # type: ignore[no-untyped-call]
    assert student.weight.grad is not None
    return total.item(), student.weight.grad


@ALL
@WEIGHTED
def test_gradients_of_local_parts_add_up_to_gradient_of_global_batch(setting: str, weighted: bool) -> None:
    value, gradient = loss_of_one_process(setting, weighted)
    student, inputs, teacher, target = problem()
    parts = [slice(0, 5), slice(5, 10), slice(10, SIZE)]
    weight = WEIGHT if weighted else None
    global_batch = Rows(student(inputs).detach().requires_grad_(), teacher, target, weight)
    terms = build(setting)(global_batch, 2)
    (rows,) = torch.autograd.grad(terms.total, global_batch.student)
    for part in parts:
        local = local_part(terms.total.detach(), rows, student(inputs[part]), part.start, ranks=1)
        local.backward()  # type: ignore[no-untyped-call]
    assert terms.total.item() == pytest.approx(value, rel=1e-12)
    assert student.weight.grad is not None
    assert torch.allclose(student.weight.grad, gradient, rtol=1e-10, atol=1e-14)


def _rank(rank: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    results = {}
    for setting, weighted in itertools.product(SETTINGS, (False, True)):
        student, inputs, teacher, target = problem()
        parallel = nn.parallel.DistributedDataParallel(student)
        first, last = (0, 6) if rank == 0 else (6, SIZE)
        logits = parallel(inputs[first:last])
        weight = WEIGHT[first:last] if weighted else None
        rows = Rows(logits, teacher[first:last], target[first:last], weight)
        part = Step(rows, Outputs(logits), Outputs(teacher[first:last]), epoch=2)
        loss = step_loss(LogitObjective(build(setting)), part, SIZE, Ranks(RankInfo(rank, 2, Path(out))))
        loss.local.backward()  # type: ignore[no-untyped-call]
        results[setting, weighted] = (loss.terms.total.item(), student.weight.grad)
    torch.save(results, f"{out}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_loss_and_gradient_over_two_ranks_equal_one_process(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(free_port(), str(tmp_path)), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for case in itertools.product(SETTINGS, (False, True)):
        value, gradient = loss_of_one_process(*case)
        for results in ranks:
            assert results[case][0] == pytest.approx(value, rel=1e-12), case
            assert torch.allclose(results[case][1], gradient, rtol=1e-10, atol=1e-14), case
