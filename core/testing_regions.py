"""A test suite that every method on rows of logits, also of a plug-in, runs against itself as a method on regions.

A test module subclasses ``RegionContract`` and names the method::

    class TestMyMethod(RegionContract):
        method = {"name": "my_method", "params": {"weight": 0.5}}
        plugins = ("my_plugin",)

It needs no data and trains nothing: the regions are random rows, some of them background, some for the distillation or
for the cross-entropy alone.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from core.catalog import load_plugins
from core.catalog.methods.entry import LABEL_TERM
from core.distill.gradients import measure_gradients
from core.distill.objective import NetworkShape, Objective, Outputs, Setting, Step, build_objective
from core.distill.regions import BACKGROUND, build_region_objective
from core.distill.rows import Rows
from core.distill.terms import LossTerms, label_term, separate
from core.specs import MethodRef

_CLASSES = 6
_H = 1e-6  # step of the finite differences, in float64
_TARGET = torch.tensor([0, 3, 0, 5, 1, 0, 2, 0, 4, 1])
# Rows 4 and 5 are for the cross-entropy alone, row 7 for the distillation alone, and row 8 for nothing.
_WEIGHT = torch.tensor([1.0, 1.0, 1.0, 0.5, 0.0, 0.0, 1.0, 2.0, 0.0, 1.0], dtype=torch.float64)
_LABEL_WEIGHT = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0], dtype=torch.float64)

BACKGROUNDS: Mapping[str, dict[str, Any]] = {
    "all": {},
    "none": {"background": "none"},
    "weight": {"background": "weight", "background_weight": 0.25},
    "separate": {"background": "separate"},
}
"""By name, what boxes without an object may count."""


def random_rows() -> Rows:
    """Return regions in float64, some of which are background."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        scale * torch.randn(len(_TARGET), _CLASSES, generator=generator, dtype=torch.float64) for scale in (1.0, 2.0)
    )
    return Rows(student.requires_grad_(), teacher, _TARGET, _WEIGHT, label_weight=_LABEL_WEIGHT)


def selected(rows: Rows, index: Tensor, *, weight: Tensor | None = None) -> Rows:
    """Return some rows, as new tensors that receive gradients.

    Args:
        rows: The rows.
        index: The indices of the rows.
        weight: The weights of all rows, if they are others.
    """
    given = rows.weight if weight is None else weight
    assert rows.teacher is not None
    assert given is not None
    assert rows.label_weight is not None
    return Rows(
        rows.student.detach()[index].requires_grad_(),
        rows.teacher[index],
        rows.target[index],
        given[index],
        label_weight=rows.label_weight[index],
    )


def step_of(rows: Rows, epoch: int | None = None) -> Step:
    """Return a step whose rows are regions."""
    teacher = None if rows.teacher is None else Outputs(rows.teacher)
    return Step(rows, Outputs(rows.student), teacher, epoch=epoch, sample_rows=False)


def gradient(total: Tensor, rows: Rows) -> Tensor:
    """Return the gradient of a scalar with respect to the student's logits."""
    (found,) = torch.autograd.grad(total, rows.student, retain_graph=True)
    return found


@functools.lru_cache(maxsize=16)
def _objective(method: str, *, plain: bool) -> Objective:
    """Return a method, given as JSON, in float64. It keeps nothing from one step to the next."""
    ref, shape = MethodRef.model_validate_json(method), NetworkShape(_CLASSES)
    torch.manual_seed(0)
    build = build_objective if plain else build_region_objective
    return build(ref, *[Setting(shape, shape, 20, rows_are_regions=not plain)] * len(ref.members)).double()


class RegionContract:
    """What holds for every method on rows of logits that is applied to regions."""

    method: ClassVar[Any]
    """The method as a spec names it, without ``regions``."""
    plugins: ClassVar[tuple[str, ...]] = ()
    """Modules that add the method to the catalog."""
    epoch: ClassVar[int | None] = None
    """The epoch, counted from 0; None for full strength of every schedule."""
    has_exact_gradient: ClassVar[bool] = True
    """False for a loss whose gradient is not that of its value: its weights depend on its own gradients."""
    is_mean_over_rows: ClassVar[bool] = True
    """Whether each term is a mean of one number for each row, so that the mean of two groups is that of all rows."""

    def objective(self, background: Mapping[str, Any], *, plain: bool = False) -> Objective:
        """Return the method in float64.

        Args:
            background: What boxes without an object count.
            plain: Whether to build it as for the classification of images.
        """
        load_plugins(self.plugins)
        given = {"name": self.method} if isinstance(self.method, str) else self.method
        return _objective(json.dumps(given if plain else {**given, "regions": dict(background)}), plain=plain)

    def loss(self, background: str, rows: Rows) -> LossTerms:
        """Return the loss of rows."""
        terms: LossTerms = self.objective(BACKGROUNDS[background])(step_of(rows, self.epoch))
        return terms

    @pytest.mark.parametrize("background", BACKGROUNDS)
    def test_terms_and_metrics_are_finite_scalars(self, background: str) -> None:
        rows = random_rows()
        terms = self.loss(background, rows)
        for name, value in {"total": terms.total, **terms.values, **measure_gradients(terms, rows)}.items():
            assert value.shape == (), name
            assert value.isfinite(), name
        parts = torch.stack(list(separate(terms, rows).values()))
        assert float(terms.total.detach()) == pytest.approx(float(parts.sum().detach()), rel=1e-9)

    @pytest.mark.parametrize("background", BACKGROUNDS)
    def test_gradient_is_that_of_finite_differences(self, background: str) -> None:
        rows = random_rows()
        exact = gradient(self.loss(background, rows).total, rows)
        assert exact.isfinite().all()
        if not self.has_exact_gradient:
            return  # finite differences would move the weights too
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            direction = torch.randn(rows.student.shape, generator=generator, dtype=torch.float64)
            sides = []
            for h in (_H, -_H):
                moved = (rows.student.detach() + h * direction).requires_grad_()
                sides.append(float(self.loss(background, replace(rows, student=moved)).total.detach()))
            expected = float((exact * direction).sum())
            assert (sides[0] - sides[1]) / (2 * _H) == pytest.approx(expected, rel=1e-4, abs=1e-6)

    @pytest.mark.parametrize("background", BACKGROUNDS)
    def test_order_of_the_regions_does_not_matter(self, background: str) -> None:
        rows = random_rows()
        order = torch.randperm(len(_TARGET), generator=torch.Generator().manual_seed(2))
        permuted = selected(rows, order)
        terms, again = self.loss(background, rows), self.loss(background, permuted)
        assert float(again.total.detach()) == pytest.approx(float(terms.total.detach()), rel=1e-9)
        expected = gradient(terms.total, rows)[order]
        torch.testing.assert_close(gradient(again.total, permuted), expected, rtol=1e-7, atol=1e-10)

    @pytest.mark.parametrize("background", BACKGROUNDS)
    def test_region_of_no_weight_is_absent(self, background: str) -> None:
        rows, kept = random_rows(), ((_WEIGHT > 0) | (_LABEL_WEIGHT > 0)).nonzero().flatten()
        nothing = rows.student.detach().clone()
        nothing[8] = torch.nan
        rows = replace(rows, student=nothing.requires_grad_(), target=_TARGET.index_fill(0, torch.tensor([8]), -1))
        present = selected(rows, kept)
        terms, again = self.loss(background, rows), self.loss(background, present)
        assert float(terms.total.detach()) == pytest.approx(float(again.total.detach()), rel=1e-9)
        found = gradient(terms.total, rows)
        assert not found[8].any()
        torch.testing.assert_close(found[kept], gradient(again.total, present), rtol=1e-7, atol=1e-10)

    @pytest.mark.parametrize("background", BACKGROUNDS)
    def test_cross_entropy_is_of_the_rows_that_have_labels(self, background: str) -> None:
        rows = random_rows()
        labelled = selected(rows, _LABEL_WEIGHT.nonzero().flatten(), weight=_LABEL_WEIGHT)
        expected = label_term(replace(labelled, label_weight=None)).value
        assert float(self.loss(background, rows).values[LABEL_TERM]) == pytest.approx(float(expected), rel=1e-12)

    def test_all_is_the_method_on_rows(self) -> None:
        rows = random_rows()
        plain: LossTerms = self.objective({}, plain=True)(step_of(rows, self.epoch))
        terms = self.loss("all", rows)
        assert float(terms.total.detach()) == float(plain.total.detach())
        assert torch.equal(gradient(terms.total, rows), gradient(plain.total, rows))

    def test_none_leaves_out_the_background_except_in_the_cross_entropy(self) -> None:
        rows, objects = random_rows(), (_TARGET != BACKGROUND).nonzero().flatten()
        terms = self.loss("none", rows)
        of_objects = selected(rows, objects)
        plain: LossTerms = self.objective({}, plain=True)(step_of(of_objects, self.epoch))
        assert terms.values.keys() == plain.values.keys()
        for name in terms.values.keys() - {LABEL_TERM}:
            if self.has_exact_gradient:
                assert float(terms.values[name]) == pytest.approx(float(plain.values[name]), rel=1e-9), name
        if not self.has_exact_gradient:
            return  # a share is of the gradient of the cross-entropy too
        parts, expected = separate(terms, rows), separate(plain, of_objects)
        for name in parts.keys() - {LABEL_TERM}:
            found = gradient(parts[name], rows)
            assert not found[_TARGET == BACKGROUND].any()
            torch.testing.assert_close(found[objects], gradient(expected[name], of_objects), rtol=1e-7, atol=1e-12)

    def test_weight_one_is_all_and_a_small_one_is_near_none(self) -> None:
        rows = random_rows()
        for weight, other in ((1.0, "all"), (1e-12, "none")):
            objective = self.objective({"background": "weight", "background_weight": weight})
            terms: LossTerms = objective(step_of(rows, self.epoch))
            expected = self.loss(other, rows)
            assert float(terms.total.detach()) == pytest.approx(float(expected.total.detach()), rel=1e-5)
            torch.testing.assert_close(
                gradient(terms.total, rows), gradient(expected.total, rows), rtol=1e-4, atol=1e-5
            )

    def test_separate_groups_of_equal_parameters_are_all(self) -> None:
        rows = random_rows()
        terms, together = self.loss("separate", rows), self.loss("all", rows)
        own = {name for name in together.values if name != LABEL_TERM and not name.startswith("weight_")}
        assert {f"bg_{name}" for name in own} <= terms.values.keys()
        if not self.is_mean_over_rows:
            return
        assert float(terms.total.detach()) == pytest.approx(float(together.total.detach()), rel=1e-9)
        expected = gradient(together.total, rows)
        torch.testing.assert_close(gradient(terms.total, rows), expected, rtol=1e-7, atol=1e-12)

    @pytest.mark.parametrize("background", BACKGROUNDS)
    @pytest.mark.parametrize("kept", [_TARGET == BACKGROUND, _TARGET != BACKGROUND, _TARGET < 0])
    def test_groups_without_regions_add_nothing(self, background: str, kept: Tensor) -> None:
        rows = selected(random_rows(), kept.nonzero().flatten())
        terms = self.loss(background, rows)
        assert all(value.isfinite() for value in (terms.total, *terms.values.values()))
        assert gradient(terms.total, rows).isfinite().all()
        parts = separate(terms, rows)
        if not kept.any():
            assert float(terms.total.detach()) == 0
        elif background == "none" and (rows.target == BACKGROUND).all():
            for name in parts.keys() - {LABEL_TERM}:
                assert float(parts[name].detach()) == 0, name
                assert not gradient(parts[name], rows).any(), name
