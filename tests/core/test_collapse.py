"""Neural collapse of features with known NC1–NC4."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from core.tasks.classification.diagnostics.collapse import Features, neural_collapse


def numbers(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def simplex(classes: int, dimension: int) -> Tensor:
    """Return C unit vectors (C, D), D ≥ C, with pairwise cosine −1/(C−1): the limit of the collapse."""
    frame = torch.eye(classes, dtype=torch.float64) - 1 / classes
    rotation, _ = torch.linalg.qr(
        torch.randn(dimension, dimension, generator=torch.Generator().manual_seed(3)).double()
    )
    vectors: Tensor = math.sqrt(classes / (classes - 1)) * frame @ rotation[:classes]
    return vectors


class TestCollapse:
    CLASSES, DIMENSION = 5, 8

    def of(self, features: Tensor, labels: Tensor, weight: Tensor, classes: Tensor | None = None) -> dict[str, float]:
        measures = numbers(neural_collapse(Features(features, labels if classes is None else classes, labels), weight))
        return {name.removeprefix("collapse/"): value for name, value in measures.items()}

    def test_simplex_is_collapsed_at_any_position_and_scale(self) -> None:
        corners = simplex(self.CLASSES, self.DIMENSION)
        labels = torch.arange(self.CLASSES).repeat(20)
        measures = self.of(3 * corners[labels] + 10, labels, 0.1 * corners)
        assert measures == pytest.approx(dict.fromkeys(measures, 0.0), abs=1e-12)

    def test_variability_equals_the_trace_of_its_definition(self) -> None:
        # Isotropic noise of variance σ² around a simplex of radius r: Σ_W = σ²·I, and Σ_B = r²/(C−1) on its C−1
        # directions, so Tr(Σ_W Σ_B†)/C = σ²·(C−1)²/(C·r²).
        random = torch.Generator().manual_seed(0)
        labels = torch.arange(self.CLASSES).repeat(4000)
        noise = 0.1 * torch.randn(len(labels), self.DIMENSION, generator=random).double()
        corners = simplex(self.CLASSES, self.DIMENSION)
        measures = self.of(2 * corners[labels] + noise, labels, corners)
        assert measures["nc1"] == pytest.approx(0.01 * 16 / (5 * 4), rel=0.03)
        assert measures["nc2_norms"] < 0.01
        assert measures["nc3"] < 1e-4

    @pytest.mark.parametrize(("classes", "dimension"), [(5, 8), (12, 4)])
    def test_measures_equal_a_numpy_reference(self, classes: int, dimension: int) -> None:
        random = np.random.default_rng(0)
        labels = np.arange(classes).repeat(9)
        features = random.normal(size=(len(labels), dimension)) + random.normal(size=(classes, dimension))[labels]
        weight, guesses = random.normal(size=(classes, dimension)), random.integers(classes, size=len(labels))

        means = np.stack([features[labels == c].mean(0) for c in range(classes)])
        around = means - features.mean(0)
        within = np.mean([np.outer(h - means[c], h - means[c]) for h, c in zip(features, labels, strict=True)], 0)
        between = np.mean([np.outer(m, m) for m in around], 0)

        def angles(rows: np.ndarray) -> float:
            cosines = [
                rows[a] @ rows[b] / np.linalg.norm(rows[a]) / np.linalg.norm(rows[b])
                for a in range(classes)
                for b in range(classes)
                if a != b
            ]
            return float(np.mean(np.abs(np.asarray(cosines) + 1 / (classes - 1))))

        nearest = np.asarray([np.argmin([np.linalg.norm(h - m) for m in means]) for h in features])
        norms, weights = np.linalg.norm(around, axis=1), np.linalg.norm(weight, axis=1)
        measures = self.of(*map(torch.from_numpy, (features, labels, weight, guesses)))
        assert measures == pytest.approx(
            {
                "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / classes,
                "nc2_norms": norms.std() / norms.mean(),
                "nc2_angles": angles(around),
                "nc2_weight_norms": weights.std() / weights.mean(),
                "nc2_weight_angles": angles(weight),
                "nc3": np.sum((weight / np.linalg.norm(weight) - around / np.linalg.norm(around)) ** 2),
                "nc4": 100 * np.mean(nearest != guesses),
            },
            rel=1e-9,
        )
        assert measures["nc1"] > 0.1
        assert measures["nc2_angles"] > 0.1

    def test_opposed_classifier_has_the_largest_nc3(self) -> None:
        corners = simplex(self.CLASSES, self.DIMENSION)
        labels = torch.arange(self.CLASSES).repeat(3)
        assert self.of(corners[labels], labels, -corners)["nc3"] == pytest.approx(4)

    def test_nc4_counts_disagreements_with_the_nearest_mean(self) -> None:
        corners = simplex(self.CLASSES, self.DIMENSION)
        labels = torch.arange(self.CLASSES).repeat(4)
        wrong = labels.clone()
        wrong[:5] = (wrong[:5] + 1) % self.CLASSES
        assert self.of(corners[labels], labels, corners, wrong)["nc4"] == pytest.approx(25)

    def test_class_without_images_is_ignored(self) -> None:
        corners = simplex(self.CLASSES, self.DIMENSION)
        labels = torch.tensor([0, 1, 3, 4]).repeat(6)
        random = torch.randn(24, self.DIMENSION, generator=torch.Generator().manual_seed(5)).double()
        dense = torch.tensor([0, 1, 9, 2, 3])[labels]
        present = corners[[0, 1, 3, 4]]
        assert self.of(random, labels, corners) == pytest.approx(self.of(random, dense, present), rel=1e-9)

    @pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
    def test_constant_features_are_not_collapsed(self, value: float) -> None:
        labels = torch.arange(self.CLASSES).repeat(3)
        features = torch.full((15, self.DIMENSION), value)
        measures = self.of(features, labels, simplex(self.CLASSES, self.DIMENSION))
        assert all(math.isnan(measures[name]) for name in ("nc1", "nc2_norms", "nc2_angles", "nc3"))
