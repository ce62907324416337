"""Methods that read objects or boxes, on random steps, and what holds for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.catalog import METHODS
from core.distill.objective import Objective, Objects, Outputs, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms
from core.launch import RankInfo
from core.testing_ranks import run_two_ranks
from core.train.rank_loss import average_gradients, step_loss
from core.train.ranks import process_group
from tests.core.methods.feature_problem import Shapes, build

Array = NDArray[np.float64]
IMAGES, CLASSES = 4, 3
ROWS = (0, 0, 0, 1, 3, 3, 3, 3)
"""The image of each row of a method on boxes; the third image has none."""
_H = 1e-6


@dataclass(frozen=True)
class DetectionProblem:
    """A method in float64, and a step of four images.

    Attributes:
        objective: The method.
        step: What it reads; the student's outputs are leaves.
        image: (R,), the image of each row.
    """

    objective: Objective
    step: Step
    image: Tensor

    @property
    def leaves(self) -> dict[str, Tensor]:
        """Everything of the student and of the method that may receive a gradient."""
        student = self.step.student
        found = {"logits": student.logits} | {f"tap {name}": tap for name, tap in student.taps.items()}
        if student.offsets is not None:
            found["offsets"] = student.offsets
        return found | {f"own {name}": parameter for name, parameter in self.objective.named_parameters()}

    def terms(self) -> LossTerms:
        terms: LossTerms = self.objective(self.step)
        return terms

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients by name, with zeros where the loss does not depend on a leaf."""
        found = torch.autograd.grad(self.terms().total, list(self.leaves.values()), allow_unused=True)
        return {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(self.leaves.items(), found, strict=True)
        }

    def of_images(self, images: Sequence[int]) -> DetectionProblem:
        """Return the problem with some of its images, in their order, with new leaves."""
        step, numbers = self.step, torch.tensor(images, dtype=torch.int64)
        rows = torch.cat([(self.image == number).nonzero().flatten() for number in images])
        image = torch.cat([torch.full_like(rows[self.image[rows] == n], place) for place, n in enumerate(images)])
        return self._chosen(rows, numbers, image, _objects_of(step.objects, images))

    def of_rows(self, rows: Tensor) -> DetectionProblem:
        """Return the problem with some of its rows, with new leaves. Rows that are images lose their objects."""
        if len(self.image) != IMAGES:
            return self._chosen(rows, torch.arange(IMAGES), self.image[rows], self.step.objects)
        return self.of_images(rows.tolist())

    def _chosen(self, rows: Tensor, images: Tensor, image: Tensor, objects: Objects | None) -> DetectionProblem:
        step = self.step
        assert step.teacher is not None

        def chosen(outputs: Outputs, *, trained: bool) -> Outputs:
            taps = {name: tap.detach()[images].requires_grad_(trained) for name, tap in outputs.taps.items()}
            offsets = None if outputs.offsets is None else outputs.offsets.detach()[rows].requires_grad_(trained)
            return Outputs(outputs.logits.detach()[rows].requires_grad_(trained), taps, offsets=offsets)

        student, teacher = chosen(step.student, trained=True), chosen(step.teacher, trained=False)
        weight = None if step.rows.weight is None else step.rows.weight[rows]
        part = replace(
            step,
            rows=Rows(student.logits, teacher.logits, step.rows.target[rows], weight),
            student=student,
            teacher=teacher,
            index=images,
            objects=objects,
            offset_target=None if step.offset_target is None else step.offset_target[rows],
        )
        return replace(self, step=part, image=image)

    def with_weights(self, weight: Tensor) -> DetectionProblem:
        rows = replace(self.step.rows, weight=weight)
        return replace(self, step=replace(self.step, rows=rows))

    def moved(self, directions: Mapping[str, Tensor], distance: float) -> DetectionProblem:
        """Return the problem with the student's outputs moved along directions."""
        student = self.step.student

        def shifted(tensor: Tensor, name: str) -> Tensor:
            return tensor.detach() + distance * directions[name]

        taps = {name: shifted(tap, f"tap {name}") for name, tap in student.taps.items()}
        offsets = None if student.offsets is None else shifted(student.offsets, "offsets")
        outputs = replace(student, logits=shifted(student.logits, "logits"), taps=taps, offsets=offsets)
        rows = replace(self.step.rows, student=outputs.logits)
        return replace(self, step=replace(self.step, rows=rows, student=outputs))


def _objects_of(objects: Objects | None, images: Sequence[int]) -> Objects | None:
    """Return the objects of some images with the numbers that these have among themselves."""
    if objects is None:
        return None
    found = [(place, (objects.image == number).nonzero().flatten()) for place, number in enumerate(images)]
    chosen = torch.cat([rows for _, rows in found])
    image = torch.cat([torch.full_like(rows, place) for place, rows in found])
    return Objects(image, objects.boxes[chosen], objects.label[chosen])


def detection_problem(
    name: str, params: Mapping[str, Any], student: Shapes, teacher: Shapes, *, on_boxes: bool, seed: int = 0
) -> DetectionProblem:
    """Return a method of the catalog with a random step.

    Args:
        name: The method.
        params: Its parameters.
        student: The shapes of the student's taps, without the batch.
        teacher: Those of the teacher's.
        on_boxes: Whether the rows are boxes; else they are the images.
        seed: Decides all random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    image = torch.tensor(ROWS if on_boxes else range(IMAGES))

    def sample(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def outputs(shapes: Shapes, scale: float, *, trained: bool) -> Outputs:
        taps = {tap: sample(IMAGES, *shape).requires_grad_(trained) for tap, shape in shapes.items()}
        offsets = sample(len(image), CLASSES, 4).requires_grad_(trained) if on_boxes else None
        return Outputs((scale * sample(len(image), CLASSES)).requires_grad_(trained), taps, offsets=offsets)

    own, other = outputs(student, 1.0, trained=True), outputs(teacher, 2.0, trained=False)
    # The third image has no objects, and the objects of the first overlap. They are not in the order of the images.
    corners = [(0.1, 0.0, 0.7, 0.6), (0.35, 0.3, 1.0, 1.0), (0.2, 0.2, 0.45, 0.4), (0.0, 0.5, 0.3, 0.9)]
    objects = Objects(torch.tensor([3, 0, 0, 1]), torch.tensor(corners), torch.tensor([2, 1, 2, 1]))
    target = torch.tensor([1, 0, 2, 1, 0, 2, 0, 1])[: len(image)]
    offset_target = sample(len(image), 4) * (target > 0).unsqueeze(1) if on_boxes else None
    rows = Rows(own.logits, other.logits, target)
    objective = build(name, params, student, teacher, classes=CLASSES, seed=seed).double().train()
    step = Step(
        rows,
        own,
        other,
        torch.arange(IMAGES),
        objects=objects,
        offset_target=offset_target,
        sample_rows=False,
    )
    return DetectionProblem(objective, step, image)


def _rank_of_two(rank: int, arguments: Mapping[str, Any], folder: str) -> None:
    """Compute the gradients of one rank's images, averaged over two ranks as a training does."""
    torch.set_num_threads(1)
    problem = detection_problem(**arguments)
    with process_group(RankInfo(rank, 2, Path(folder))) as ranks:
        part = problem.of_images(range(IMAGES)[ranks.share(IMAGES)])
        loss = step_loss(problem.objective, part.step, IMAGES, ranks)
        loss.local.backward()  # type: ignore[no-untyped-call]
        if problem.objective.scope == "row" and part.step.sample_rows:
            average_gradients(problem.objective, ranks)
    gradients = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in part.leaves.items()}
    torch.save((loss.terms.total.detach(), gradients), f"{folder}/rank{rank}.pt")


class DetectionContract:
    """What holds for every method that reads objects or boxes."""

    arguments: ClassVar[Mapping[str, Any]]
    """Those of ``detection_problem``."""

    @pytest.fixture(scope="class")
    @classmethod
    def problem(cls) -> DetectionProblem:
        return detection_problem(**cls.arguments)

    def test_parts_add_up_and_terms_are_those_of_the_catalog(self, problem: DetectionProblem) -> None:
        terms, entry = problem.terms(), METHODS[self.arguments["name"]]
        assert set(terms.parts) == set(terms.values) == set(entry.terms) == set(entry.weight_params)
        assert sum(part.item() for part in terms.parts.values()) == pytest.approx(terms.total.item())
        for name, parameter in entry.weight_params.items():
            weight = getattr(entry.params(**self.arguments["params"]), parameter)
            assert terms.parts[name].item() == pytest.approx(weight * float(terms.values[name]))

    def test_gradient_is_that_of_finite_differences(self, problem: DetectionProblem) -> None:
        gradients = problem.gradients()
        generator = torch.Generator().manual_seed(1)
        of_student = [name for name in problem.leaves if not name.startswith("own ")]
        for _ in range(3):
            moves = {
                name: torch.randn(problem.leaves[name].shape, generator=generator, dtype=torch.float64)
                for name in of_student
            }
            above, below = (problem.moved(moves, h).terms().total.item() for h in (_H, -_H))
            expected = sum(float((gradients[name] * moves[name]).sum()) for name in of_student)
            assert (above - below) / (2 * _H) == pytest.approx(expected, rel=1e-4, abs=1e-7)

    def test_order_of_the_images_does_not_matter(self, problem: DetectionProblem) -> None:
        shuffled = problem.of_images([2, 0, 3, 1])
        assert shuffled.terms().total.item() == pytest.approx(problem.terms().total.item(), rel=1e-9)

    def test_row_of_weight_zero_is_absent(self, problem: DetectionProblem) -> None:
        weight = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 0.0, 0.25, 1.0], dtype=torch.float64)[: len(problem.image)]
        kept = weight.nonzero().flatten()
        weighted = problem.with_weights(weight)
        present, gradients = weighted.of_rows(kept), weighted.gradients()
        assert weighted.terms().total.item() == pytest.approx(present.terms().total.item(), rel=1e-9)
        for name, gradient in present.gradients().items():
            own = gradients[name]
            if len(own) == len(weight) and not name.startswith("own "):
                assert not own[weight == 0].any(), name
                own = own[kept]
            torch.testing.assert_close(own, gradient, rtol=1e-7, atol=1e-12)

    def test_absent_row_may_hold_anything(self, problem: DetectionProblem) -> None:
        weight = torch.ones(len(problem.image), dtype=torch.float64)
        weight[1] = 0
        broken = problem.of_images(range(IMAGES)).with_weights(weight)
        with torch.no_grad():
            for name, leaf in broken.leaves.items():
                if len(leaf) == len(weight) and not name.startswith("own "):
                    leaf[1] = torch.nan
        assert broken.terms().total.isfinite()
        assert all(gradient.isfinite().all() for gradient in broken.gradients().values())

    def test_images_without_objects_give_finite_terms(self, problem: DetectionProblem) -> None:
        step = problem.step
        no_objects = Objects(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        background = replace(step.rows, target=torch.zeros_like(step.rows.target))
        empty = replace(problem, step=replace(step, objects=no_objects, rows=background))
        assert empty.terms().total.isfinite()
        assert all(gradient.isfinite().all() for gradient in empty.gradients().values())

    def test_one_image(self, problem: DetectionProblem) -> None:
        for image in (1, 3):
            one = problem.of_images([image])
            assert one.terms().total.isfinite()
            assert all(gradient.isfinite().all() for gradient in one.gradients().values())

    def test_no_weight_at_all_gives_zero(self, problem: DetectionProblem) -> None:
        nothing = problem.with_weights(torch.zeros(len(problem.image), dtype=torch.float64))
        assert nothing.terms().total.item() == 0
        assert not any(gradient.any() for gradient in nothing.gradients().values())

    def test_sixteen_bits_are_near_float32(self, problem: DetectionProblem) -> None:
        def total(dtype: torch.dtype) -> Tensor:
            step = problem.step
            assert step.teacher is not None
            own, other = (
                outputs.with_tensors([tensor.detach().bfloat16().to(dtype) for tensor in outputs.tensors])
                for outputs in (step.student, step.teacher)
            )
            rows = replace(step.rows, student=own.logits, teacher=other.logits)
            objective = detection_problem(**self.arguments).objective.float()
            boxes = None if step.offset_target is None else step.offset_target.float()
            given = replace(step, rows=rows, student=own, teacher=other, offset_target=boxes)
            terms: LossTerms = objective(given)
            return terms.total

        coarse = total(torch.bfloat16)
        assert coarse.dtype == torch.float32
        assert coarse.item() == pytest.approx(total(torch.float32).item(), rel=1e-5)

    def test_two_ranks_equal_one(self, problem: DetectionProblem, tmp_path: Path) -> None:
        run_two_ranks(_rank_of_two, dict(self.arguments), str(tmp_path))
        value, gradients = problem.terms().total.item(), problem.gradients()
        parts = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
        for total, _ in parts:
            assert float(total) == pytest.approx(value, rel=1e-9)
        for name, gradient in gradients.items():
            first, second = (part[name] for _, part in parts)
            if name.startswith("own "):
                torch.testing.assert_close(first, gradient, rtol=1e-7, atol=1e-12)
                torch.testing.assert_close(second, gradient, rtol=1e-7, atol=1e-12)
            else:  # DistributedDataParallel averages the gradients of the two ranks
                torch.testing.assert_close(torch.cat((first, second)) / 2, gradient, rtol=1e-7, atol=1e-12)
