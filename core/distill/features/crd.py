"""Contrastive Representation Distillation (Tian, Krishnan and Isola, ICLR 2020).

s_i and t_i are the unit vectors of one sample, from a linear layer after each network. The memories S and T have one
vector for each of the n training samples. The loss of a sample is

    L_i = ℓ(s_i, T) + ℓ(t_i, S),    ℓ(a_i, M) = −log h(a_i, M_i) − Σ_{j in N_i} log(1 − h(a_i, M_j)),

    h(a, m) = e/(e + K/n),    e = exp(⟨a, m⟩/τ)/Z,

where N_i are K samples of other classes, drawn at every step (equations 18 and 19 of the paper). Only a_i has a
gradient: the memories are constants, and ℓ(t_i, S) trains the teacher's linear layer alone. With
x = ⟨a, m⟩/τ − log Z − log(K/n), both logarithms are softplus functions: −log h = softplus(−x) and
−log(1 − h) = softplus(x).

After each step the memory of a sample of the batch becomes its old value times the momentum plus (1 − momentum) times
its new vector, scaled to length 1.

Z is not in the paper. The paper's own code divides by it, as Wu et al. (CVPR 2018) do: n times the mean of
exp(⟨a, m⟩/τ) over the first batch and its K + 1 memories, one constant for each direction. Without it the mean of e
over many negatives is about 1 or more, K/n is below 1, and the negatives outweigh all else: each adds at least log 2,
which is 11,357 for K = 16,384. That code also adds 10⁻⁷ to each denominator, which adds 2·10⁻⁷·n to the loss and
changes its gradient by 10⁻⁸.

The samples of a step share one random order of all training samples, and N_i are the first K in it whose class is not
that of sample i. So each sample has a uniform draw without replacement, as in the public code, which draws each N_i by
itself; here one matrix product gives all inner products, and a batch of 64 reads 8 MB of memory in place of 537 MB.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.catalog.methods.crd import CRDParams, too_few_others
from core.distill.objective import NetworkShape, Objective, ObjectiveError, Setting, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms, autocast_disabled, label_term, with_gradient

_MASK = 2**32 - 1


class CRD(Objective):
    """CRD with its linear layers and its memories.

    Args:
        params: The parameters.
        setting: The networks, and the classes of all training samples.

    Raises:
        ObjectiveError: A tap gives no vectors, a sample has no class, or there are too few samples of other classes.
    """

    scope = "batch"
    capturable = False
    reads_index = True
    labels: Tensor
    student_memory: Tensor
    teacher_memory: Tensor
    normalisers: Tensor
    seed: Tensor
    steps: Tensor

    def __init__(self, params: CRDParams, setting: Setting) -> None:
        super().__init__()
        assert setting.teacher is not None
        if setting.labels is None:
            raise ObjectiveError("its negatives are of other classes, and these samples have no single class each")
        self._params = params
        self._largest_class = int(setting.labels.bincount().max())
        if text := too_few_others(params.negatives, setting.samples, self._largest_class):
            raise ObjectiveError(f"negatives: {text}")
        self.student_layer = nn.Linear(_width(setting.student, params.student_tap, "student_tap"), params.dimensions)
        self.teacher_layer = nn.Linear(_width(setting.teacher, params.teacher_tap, "teacher_tap"), params.dimensions)
        limit = math.sqrt(3 / params.dimensions)  # so that the mean squared length is 1
        for name in ("student_memory", "teacher_memory"):
            self.register_buffer(name, torch.empty(setting.samples, params.dimensions).uniform_(-limit, limit))
        self.register_buffer("normalisers", torch.zeros(2))  # 0: not set yet
        self._has_normalisers = False  # so that the device is waited for in the first step alone
        self.register_buffer("seed", torch.randint(2**31, ()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("labels", setting.labels.detach().cpu().clone(), persistent=False)

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step, and put the vectors of its samples into the memories."""
        rows, params = step.rows, self._params
        ce = label_term(rows)
        with autocast_disabled(rows):
            crd = self._contrast(step)
        parts = {
            "ce": with_gradient(rows.student, ce.value * params.ce_weight, ce.gradient * params.ce_weight),
            "crd": params.weight * crd,
        }
        return LossTerms(parts["ce"] + parts["crd"], {"ce": ce.value, "crd": crd.detach()}, parts=parts)

    def _contrast(self, step: Step) -> Tensor:
        """Return the mean of L_i."""
        assert step.teacher is not None
        assert step.index is not None
        rows, index, params = step.rows, step.index, self._params
        student = self._embed(rows, step.student.taps[params.student_tap], self.student_layer)
        teacher = self._embed(rows, step.teacher.taps[params.teacher_tap], self.teacher_layer)
        candidates = self._candidates()
        is_other_class = self.labels[candidates] != self.labels[index].unsqueeze(1)
        chosen = is_other_class & (is_other_class.cumsum(1) <= params.negatives)
        pairs = (
            (student / params.temperature, self.teacher_memory),
            (teacher / params.temperature, self.student_memory),
        )
        products = [((anchor * memory[index]).sum(1), anchor @ memory[candidates].T) for anchor, memory in pairs]
        if not self._has_normalisers:
            self._set_normalisers(rows, products, chosen)
        # A first batch in which all rows have the weight 0 leaves them unset.
        log_z = torch.where(self.normalisers > 0, self.normalisers, torch.ones_like(self.normalisers)).log()
        shifts = log_z + math.log(params.negatives / len(self.labels))
        losses = []
        for (positive, negative), shift in zip(products, shifts, strict=True):
            others = torch.where(chosen, F.softplus(negative - shift), 0.0).sum(1)
            losses.append(F.softplus(shift - positive) + others)
        self._remember(rows, index, student.detach(), teacher.detach())
        return rows.weigh(losses[0] + losses[1]).mean()

    def _embed(self, rows: Rows, vectors: Tensor, layer: nn.Linear) -> Tensor:
        vectors = vectors.to(layer.weight.dtype)
        if rows.weight is not None:  # a row of weight 0 may hold anything
            vectors = torch.where((rows.weight > 0).unsqueeze(1), vectors, torch.zeros_like(vectors))
        return F.normalize(layer(vectors), dim=1)

    def _candidates(self) -> Tensor:
        """Return samples (M,) in a random order, enough of them for K negatives of each class."""
        count = len(self.labels)
        keys = _hashed(torch.arange(count, device=self.labels.device), _hashed(self.steps, self.seed))
        keys = keys * 2**30 + torch.arange(count, device=keys.device)  # no two are equal
        needed = min(count, self._params.negatives + self._largest_class)
        return keys.topk(needed, largest=False).indices

    @torch.no_grad()
    def _set_normalisers(self, rows: Rows, products: list[tuple[Tensor, Tensor]], chosen: Tensor) -> None:
        """Set Z of both directions, unless a checkpoint has set them."""
        means = []
        for positive, negative in products:
            total = positive.exp() + torch.where(chosen, negative.exp(), 0.0).sum(1)
            means.append(rows.weigh(total / (1 + self._params.negatives)).mean())
        estimate = len(self.labels) * torch.stack(means)
        self.normalisers.copy_(torch.where(self.normalisers > 0, self.normalisers, estimate))
        self._has_normalisers = bool(self.normalisers.all())

    @torch.no_grad()
    def _remember(self, rows: Rows, index: Tensor, student: Tensor, teacher: Tensor) -> None:
        """Move the memories of the samples of a batch towards their new vectors, and count the step."""
        for memory, vectors in ((self.student_memory, student), (self.teacher_memory, teacher)):
            old = memory[index]
            new = F.normalize(torch.lerp(vectors, old, self._params.momentum), dim=1)
            if rows.weight is not None:
                new = torch.where((rows.weight > 0).unsqueeze(1), new, old)
            memory.index_copy_(0, index, new)
        self.steps += 1


def _width(shape: NetworkShape, tap: str, field: str) -> int:
    size = shape.taps[tap]
    if len(size) != 1:
        raise ObjectiveError(f"{field} gives maps of {tuple(size)}; CRD compares vectors, such as features")
    return size[0]


def _hashed(values: Tensor, seed: Tensor) -> Tensor:
    """Return a pseudorandom number in [0, 2³²) for each number, the same on every device.

    Products and shifts mix the bits; no product of a number below 2³² with one below 2³¹ overflows.
    """
    mixed = (values + seed * 0x1E3779B1 + 0x05EBCA6B) & _MASK
    for shift, factor in ((16, 0x7FEB352D), (15, 0x4E3779B1)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & _MASK
    return mixed ^ (mixed >> 16)
