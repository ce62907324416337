"""Methods on regions: maps beside rows, groups with parameters of their own, shares, the bound on ε and two ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from core import methods
from core.distill.gradients import measure_gradients
from core.distill.objective import NetworkShape, Objective, Objects, Outputs, Setting, Step, build_objective
from core.distill.regions import build_region_objective
from core.distill.rows import Rows
from core.distill.terms import LossTerms, separate
from core.launch import RankInfo
from core.specs import MethodRef
from core.testing_ranks import run_two_ranks
from core.testing_regions import gradient, random_rows, selected, step_of
from core.train.method import try_out
from core.train.rank_loss import step_loss
from core.train.ranks import process_group

IMAGES = 3
MAPS = {"p3": torch.Size([4, 8, 6]), "p4": torch.Size([4, 4, 3])}
AT: dict[str, Any] = {
    "name": "at",
    "params": {"student_taps": ["p3", "p4"], "teacher_taps": ["p3", "p4"], "weight": 50.0, "ce_weight": 0.5},
}
DKD: dict[str, Any] = {"name": "dkd", "params": {"alpha": 1.0, "beta": 2.0, "ramp_epochs": 0, "ce_weight": 0.0}}


def built(*, of_regions: bool = True, classes: int = 6, **method: Any) -> tuple[Objective, Setting]:
    ref = MethodRef.model_validate(method)
    settings = []
    for member in ref.members:
        taps = member.entry.taps_of(member.parsed_params)
        student, teacher = (_shape(classes, names) for names in (taps.student, taps.teacher))
        settings.append(Setting(student, teacher, 20, rows_are_regions=of_regions))
    torch.manual_seed(0)
    build = build_region_objective if of_regions else build_objective
    objective = build(ref, *settings).double()
    shape = _shape(classes, objective.taps.student)
    return objective, Setting(shape, shape, 20, rows_are_regions=of_regions)


def _shape(classes: int, names: Sequence[str]) -> NetworkShape:
    return NetworkShape(classes, {name: MAPS[name] for name in names})


def loss_of(step: Step, **method: Any) -> LossTerms:
    terms: LossTerms = built(**method)[0](step)
    return terms


def with_maps(rows: Rows) -> Step:
    """Return a step of three images, whose regions are the rows."""
    generator = torch.Generator().manual_seed(3)

    def maps(*, trained: bool) -> dict[str, Tensor]:
        return {
            name: torch.randn(IMAGES, *shape, generator=generator, dtype=torch.float64).requires_grad_(trained)
            for name, shape in MAPS.items()
        }

    assert rows.teacher is not None
    student, teacher = Outputs(rows.student, maps(trained=True)), Outputs(rows.teacher, maps(trained=False))
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.2, 0.3, 0.9, 0.9]])
    objects = Objects(torch.tensor([0, 2]), boxes, torch.tensor([1, 3]))
    return Step(rows, student, teacher, torch.arange(IMAGES), objects=objects, sample_rows=False)


def as_images(step: Step) -> Step:
    """Return a step in which the images of ``with_maps`` are rows."""
    assert step.teacher is not None
    logits = torch.zeros(IMAGES, 6, dtype=torch.float64)
    rows = Rows(logits, logits, torch.zeros(IMAGES, dtype=torch.int64))
    return replace(step, rows=rows, student=replace(step.student, logits=logits), sample_rows=True)


class TestMaps:
    def test_a_method_on_maps_sees_images_and_cross_entropy_the_regions(self) -> None:
        step = with_maps(random_rows())
        terms = loss_of(step, **AT)
        plain = loss_of(as_images(step), of_regions=False, **AT)
        assert torch.equal(terms.values["at"], plain.values["at"])
        for tap in step.student.taps.values():
            (found,) = torch.autograd.grad(terms.total, tap, retain_graph=True)
            (expected,) = torch.autograd.grad(plain.total, tap, retain_graph=True)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        of_labels = loss_of(step, name="ce")
        assert torch.equal(terms.values["ce"], of_labels.values["ce"])
        expected = 0.5 * gradient(of_labels.total, step.rows)
        torch.testing.assert_close(gradient(terms.total, step.rows), expected, rtol=1e-12, atol=1e-15)

    @pytest.mark.parametrize("first", ["maps", "rows"])
    @pytest.mark.parametrize("background", ["all", "none", "separate"])
    def test_terms_of_maps_and_rows_add_up(self, first: str, background: str) -> None:
        step = with_maps(random_rows())
        regions = {"background": background}
        bare = {"name": "at", "params": {k: v for k, v in AT["params"].items() if k != "ce_weight"}}
        dkd = {**DKD, "params": {**DKD["params"], "ce_weight": 0.5}}
        bare_dkd = {**DKD, "params": {k: v for k, v in DKD["params"].items() if k != "ce_weight"}}
        method = {**AT, "with": [bare_dkd]} if first == "maps" else {**dkd, "with": [bare]}
        terms = loss_of(step, **method, regions=regions)
        alone = loss_of(step, **dkd, regions=regions)
        of_maps = loss_of(step, **AT)
        assert terms.values.keys() == {*alone.values, "at"}
        assert set(separate(terms, step.rows)) == set(terms.values)
        total = alone.total + separate(of_maps, step.rows)["at"]
        assert float(terms.total.detach()) == pytest.approx(float(total.detach()), rel=1e-12)
        expected = gradient(alone.total, step.rows)
        torch.testing.assert_close(gradient(terms.total, step.rows), expected, rtol=1e-9, atol=1e-14)
        metrics = terms.diagnostics(terms.gradients) if terms.diagnostics else {}
        assert ("grad/bg_similarity" in metrics) == (background == "separate")
        assert not any(name.startswith("grad/share_") for name in metrics)  # they are measured at a layer of both

    def test_a_step_without_regions_has_the_loss_of_maps_alone(self) -> None:
        step = with_maps(selected(random_rows(), torch.arange(0)))
        terms = loss_of(step, **AT, **{"with": ["kd"]})
        of_maps = loss_of(as_images(step), of_regions=False, **AT)
        assert float(terms.total.detach()) == pytest.approx(float(separate(of_maps, step.rows)["at"].detach()))
        assert gradient(terms.total, step.rows).shape == (0, 6)

    @pytest.mark.parametrize("method", [AT, {**DKD, "with": [{"name": "kd"}]}, {"name": "mgd"}, {"name": "ctkd"}])
    def test_trial_before_the_first_step_has_regions(self, method: dict[str, Any]) -> None:
        if method["name"] == "mgd":
            method = {**method, "params": {"student_tap": "p3", "teacher_tap": "p3"}}
        objective, setting = built(**method)
        assert "ce" in try_out(objective.float(), setting, torch.device("cpu"), by_term=True)


class TestGroups:
    def test_the_background_has_its_own_parameters(self) -> None:
        rows = random_rows()
        assert rows.teacher is not None
        assert rows.weight is not None
        regions = {"background": "separate", "background_params": {"alpha": 0.5, "beta": 0.25, "temperature": 2.0}}
        terms = loss_of(step_of(rows), **DKD, regions=regions)
        z, v, w, target = rows.student.detach().requires_grad_(), rows.teacher, rows.weight, rows.target
        expected = torch.zeros((), dtype=torch.float64)
        for inside, alpha, beta, temperature in ((target != 0, 1.0, 2.0, 4.0), (target == 0, 0.5, 0.25, 2.0)):
            own = w * inside
            share = own.sum() / w.sum()
            tckd = methods.tckd(z, v, target, temperature, weight=own)
            nckd = methods.nckd(z, v, target, temperature, weight=own)
            expected = expected + share * (alpha * tckd + beta * nckd)
            prefix = "" if inside[1] else "bg_"
            assert float(terms.values[f"{prefix}nckd"]) == pytest.approx(float(nckd.detach()), rel=1e-12)
        assert float(terms.total.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
        (by_hand,) = torch.autograd.grad(expected, z)
        torch.testing.assert_close(gradient(terms.total, rows), by_hand, rtol=1e-9, atol=1e-14)

    def test_a_term_can_be_of_the_background_alone(self) -> None:
        given = {"align": "sample", "align_epsilon": 0.5}
        regions = {"background": "separate", "background_params": given}
        terms = loss_of(step_of(random_rows()), name="nkd", regions=regions)
        assert {"bg_align", "bg_epsilon"} <= terms.values.keys()
        assert "align" not in terms.values

    def test_metrics_of_the_background_are_those_of_its_rows(self) -> None:
        rows = random_rows()
        metrics = measure_gradients(loss_of(step_of(rows), **DKD, regions={"background": "separate"}), rows)
        of_background = selected(rows, (rows.target == 0).nonzero().flatten())
        alone = measure_gradients(loss_of(step_of(of_background), **DKD), of_background)
        for name in ("similarity", "tckd_norm", "nckd_norm", "covariance"):
            assert float(metrics[f"grad/bg_{name}"]) == pytest.approx(float(alone[f"grad/{name}"]), rel=1e-9)

    def test_epsilon_share_is_of_the_gradient_of_the_group(self) -> None:
        method = {"name": "dkd_align", "params": {"reduction": "log", "epsilon_share": 0.1, "ramp_epochs": 0}}
        rows = replace(random_rows(), label_weight=None)
        regions = {"background": "separate", "background_params": {"epsilon_share": 0.3}}
        terms = loss_of(step_of(rows), **method, regions=regions)
        of_labels = terms.gradients["ce"]
        for prefix, inside, share in (("", rows.target != 0, 0.1), ("bg_", rows.target == 0, 0.3)):
            own = [terms.gradients[f"{prefix}{name}"][inside].norm() for name in ("tckd", "nckd", "align")]
            every = torch.stack([*own, of_labels[inside].norm()])
            assert float(every[2] / every.sum()) == pytest.approx(share, rel=1e-9)


class TestShares:
    METHOD: ClassVar[dict[str, Any]] = {"name": "dkd", "params": {"ramp_epochs": 0}, "shares": {"nckd": 0.3}}

    @pytest.mark.parametrize("background", ["all", "none", "separate"])
    def test_a_term_has_its_share_at_the_logits_of_regions(self, background: str) -> None:
        rows = random_rows()
        terms = loss_of(step_of(rows), **self.METHOD, regions={"background": background})
        metrics = measure_gradients(terms, rows)
        assert float(metrics["grad/share_nckd"]) == pytest.approx(30.0)
        shares = [float(value) for name, value in metrics.items() if name.startswith("grad/share_")]
        assert sum(shares) == pytest.approx(100.0)
        assert float(terms.values["weight_nckd"]) > 0

    def test_groups_keep_the_ratio_of_their_weights(self) -> None:
        rows = random_rows()
        regions = {"background": "separate", "background_params": {"beta": 2.0}}
        terms = loss_of(step_of(rows), **self.METHOD, regions=regions)
        without = {name: value for name, value in self.METHOD.items() if name != "shares"}
        plain = loss_of(step_of(rows), **without, regions=regions)
        found, weighted = terms.gradients["nckd"], plain.gradients["nckd"] + plain.gradients["bg_nckd"]
        factor = found.norm() / weighted.norm()
        torch.testing.assert_close(found, factor * weighted, rtol=1e-9, atol=1e-15)
        assert float(terms.values["weight_nckd"]) == pytest.approx(8.0 * float(factor), rel=1e-9)
        assert terms.values["bg_nckd"] == plain.values["bg_nckd"]


class TestBound:
    """Where the student equals the teacher is a minimum for each group up to its bound on ε, C·min(α, β)."""

    CLASSES = 4

    def curvatures(self, epsilon: float, background: dict[str, float]) -> tuple[float, float]:
        """Return the least eigenvalue of the Hessian of an object's row, and of a row of background."""
        params = {"reduction": "sample", "epsilon": epsilon, "alpha": 1.0, "beta": 1.0}
        regions = {"background": "separate", "background_params": background}
        params |= {"ramp_epochs": 0, "ce_weight": 0.0, "temperature": 1.0}
        objective, _ = built(name="dkd_align", params=params, regions=regions, classes=self.CLASSES)
        # Teachers that are torn between two classes that are not the target.
        torn = torch.tensor([[-9.0, -9.0, 4.0, 4.0], [-9.0, 4.0, 4.0, -9.0]], dtype=torch.float64)
        target = torch.tensor([1, 0])

        def slope(z: Tensor) -> Tensor:
            rows = Rows(z.detach().requires_grad_(), torn, target)
            terms: LossTerms = objective(step_of(rows))
            return gradient(terms.total, rows).flatten()

        h, unit = 1e-5, torch.eye(2 * self.CLASSES, dtype=torch.float64).view(-1, 2, self.CLASSES)
        hessian = torch.stack([(slope(torn + h * e) - slope(torn - h * e)) / (2 * h) for e in unit])
        first, second = hessian[:4, :4], hessian[4:, 4:]
        least = [float(torch.linalg.eigvalsh((block + block.T) / 2)[0]) for block in (first, second)]
        return least[0], least[1]

    def test_within_the_bound_both_groups_have_a_minimum(self) -> None:
        assert min(self.curvatures(3.9, {})) > -1e-6
        assert min(self.curvatures(3.9, {"beta": 0.25, "epsilon": 0.95})) > -1e-6

    def test_beyond_it_a_group_has_none(self) -> None:
        objects, background = self.curvatures(3.9, {"beta": 0.25})  # the bound of the background is 1
        assert objects > -1e-6
        assert background < -1e-3
        objects, background = self.curvatures(4.5, {"epsilon": 3.9})
        assert objects < -1e-3
        assert background > -1e-6


RANK_METHODS: list[dict[str, Any]] = [
    {**DKD, "regions": {"background": "separate", "background_params": {"beta": 1.0}}},
    {
        "name": "dkd_align",
        "params": {"reduction": "log", "epsilon_share": 0.1, "ramp_epochs": 0},
        "regions": {"background": "none"},
    },
    {**AT, "with": [{"name": "dist"}], "regions": {"background": "weight", "background_weight": 0.5}},
]


def _gradients(step: Step) -> list[Tensor | None]:
    return [step.rows.student.grad, *(tap.grad for tap in step.student.taps.values())]


def _rank(rank: int, first_rows: int, folder: str) -> None:
    """Compute the gradients of one rank's regions, the first ones or the rest, and of its images."""
    torch.set_num_threads(1)
    whole = with_maps(random_rows())
    regions = torch.arange(len(whole.rows.target)).tensor_split([first_rows])[rank]
    found = []
    with process_group(RankInfo(rank, 2, Path(folder))) as ranks:
        images = torch.arange(IMAGES)[ranks.share(IMAGES)]
        for method in RANK_METHODS:
            part = _part(whole, regions, images)
            loss = step_loss(built(**method)[0], part, IMAGES, ranks)
            loss.local.backward()  # type: ignore[no-untyped-call]
            found.append((loss.terms.total.detach(), loss.terms.values, _gradients(part)))
    torch.save(found, f"{folder}/rank{rank}.pt")


def _part(whole: Step, regions: Tensor, images: Tensor) -> Step:
    def taps(outputs: Outputs, *, trained: bool) -> dict[str, Tensor]:
        return {name: tap.detach()[images].requires_grad_(trained) for name, tap in outputs.taps.items()}

    rows = selected(whole.rows, regions)
    assert whole.teacher is not None
    assert rows.teacher is not None
    student, teacher = (
        Outputs(rows.student, taps(whole.student, trained=True)),
        Outputs(rows.teacher, taps(whole.teacher, trained=False)),
    )
    return Step(rows, student, teacher, images, sample_rows=False)


@pytest.mark.parametrize("first_rows", [4, 0])
def test_two_ranks_with_other_numbers_of_regions_equal_one(first_rows: int, tmp_path: Path) -> None:
    run_two_ranks(_rank, first_rows, str(tmp_path))
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for number, method in enumerate(RANK_METHODS):
        step = with_maps(random_rows())
        terms = loss_of(step, **method)
        terms.total.backward()  # type: ignore[no-untyped-call]
        for found in ranks:
            total, values, _ = found[number]
            assert float(total) == pytest.approx(float(terms.total.detach()), rel=1e-9)
            assert values.keys() == terms.values.keys()
        for place, expected in enumerate(_gradients(step)):
            parts = [found[number][2][place] for found in ranks]
            if expected is None:
                assert not any(part is not None and part.any() for part in parts)
                continue
            # DistributedDataParallel averages the gradients of the two ranks.
            torch.testing.assert_close(torch.cat(parts) / 2, expected, rtol=1e-7, atol=1e-12)
