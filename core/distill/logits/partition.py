"""The distributions of a row over groups of classes, and within each group: GDKD's partition.

Notation: x = z/T; P_g is the probability of group g, and p̂_k that of class k within its group, of the student; Q_g and
q̂_k are the teacher's. DKD is the partition into the target and the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.distill.logits.alignment import RowTerm
from core.distill.rows import Rows


class Partition:
    """The softened distributions of both networks, split by groups of classes.

    Args:
        batch: the rows.
        temperature: T > 0.
        groups: (R, C) each, bool: which classes a group has in each row. Each class is in one group of each row. No
            group is empty; if one may be, only ``within`` another one has numbers.

    Attributes:
        log_q: (R, groups), the logarithm of Q.
    """

    def __init__(self, batch: Rows, temperature: float, groups: Sequence[Tensor]) -> None:
        self._temperature, self._groups = temperature, groups
        both = torch.stack((batch.student32, batch.teacher32)) / temperature
        both = both - both.amax(2, keepdim=True)
        levels, log_hat = [], torch.zeros_like(both)
        for members in groups:
            inside = both.masked_fill(~members, -torch.inf)
            log_inside = inside.log_softmax(2)
            # The largest logit minus its log-softmax is the logsumexp of all of them.
            levels.append(inside.amax(2) - log_inside.amax(2))
            log_hat = torch.where(members, log_inside, log_hat)
        self._log_p_hat, self._log_q_hat = log_hat.unbind()
        self._p_hat, self._q_hat = log_hat.exp().unbind()
        self._log_p, self.log_q = torch.stack(levels, 2).log_softmax(2).unbind()

    def between(self, log_q: Tensor | None = None) -> RowTerm:
        """Return T²·KL(Q ‖ P): gradient T·(P_g − Q_g)·p̂_k for k in group g.

        Args:
            log_q: (R, groups), the logarithm of another Q than the teacher's over these groups.
        """
        log_q = self.log_q if log_q is None else log_q
        p, q = self._log_p.exp(), log_q.exp()
        # P − Q in a form that keeps its digits where one group has nearly all the probability.
        product = p.unsqueeze(2) * q.unsqueeze(1)
        excess = (product - product.transpose(1, 2)).sum(2)
        pull = self._spread(excess)

        def curvature(directions: Tensor) -> Tensor:
            """Return p̂_k·[P_g·(m_g − m̄) + (P_g − Q_g)·(v_k − m_g)], with m_g = Σ p̂·v in g and m̄ = Σ P_g·m_g."""
            inside = self._p_hat * directions
            means = torch.cat([self._sums(inside, group) for group in range(len(self._groups))], 1)
            level = p * (means - (p * means).sum(1, keepdim=True)) - excess * means
            return self._p_hat * self._spread(level) + pull * inside

        values = self._temperature**2 * (q * (log_q - self._log_p)).sum(1)
        return RowTerm(values, self._temperature * pull * self._p_hat, curvature)

    def within(self, group: int) -> RowTerm:
        """Return T²·KL(q̂ ‖ p̂) within a group: gradient T·(p̂_k − q̂_k) for k in it."""
        members = self._groups[group]
        divergence = self._q_hat * (self._log_q_hat - self._log_p_hat)
        gradients = torch.where(members, self._temperature * (self._p_hat - self._q_hat), 0.0)

        def curvature(directions: Tensor) -> Tensor:
            inside = self._p_hat * directions
            return torch.where(members, inside - self._p_hat * self._sums(inside, group), 0.0)

        return RowTerm(self._temperature**2 * torch.where(members, divergence, 0.0).sum(1), gradients, curvature)

    def _sums(self, values: Tensor, group: int) -> Tensor:
        """Return the sum over the classes of a group (R, 1)."""
        return torch.where(self._groups[group], values, 0.0).sum(1, keepdim=True)

    def _spread(self, values: Tensor) -> Tensor:
        """Return the value of each class's group (R, C), of values of the groups (R, groups)."""
        spread = torch.zeros_like(self._p_hat)
        for group, members in enumerate(self._groups):
            spread = torch.where(members, values[:, group : group + 1], spread)
        return spread


def target_groups(batch: Rows) -> tuple[Tensor, Tensor]:
    """Return DKD's groups: the target class, and the others."""
    target = torch.zeros_like(batch.student32, dtype=torch.bool).scatter_(1, batch.label.unsqueeze(1), True)
    return target, ~target


def top_groups(logits: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Return groups of classes by the rank of their logits: the first ``sizes[0]``, the next ``sizes[1]`` …, the rest.

    Args:
        logits: (R, C).
        sizes: the sizes of all groups but the last; their sum is less than C.
    """
    ranked, none = logits.topk(sum(sizes), dim=1).indices, torch.zeros_like(logits, dtype=torch.bool)
    groups = [none.scatter(1, classes, True) for classes in torch.split(ranked, list(sizes), dim=1)]
    rest = ~torch.stack(groups).any(0)
    return (*groups, rest)
