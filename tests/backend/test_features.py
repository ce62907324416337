"""Penultimate features of finished runs over HTTP, and their projections."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from backend.predictions import projections
from backend.predictions.projections import fit_axes
from backend.settings import Settings
from core.items.features import FEATURES_NAME, NetworkFeatures, Snapshot
from tests.backend import featured
from tests.backend.lab import Json, Lab, plain


@pytest.fixture
def claim(lab: Lab) -> Json:
    lab.register()
    lab.submit(plain())
    return lab.claim()


@pytest.fixture
def run(lab: Lab, claim: Json, settings: Settings) -> str:
    """A run that has succeeded, with its features; return its id."""
    featured.write_features(Path(settings.artifacts, claim["folder"]), featured.features())
    lab.succeed(claim)
    run_id: str = claim["run_id"]
    return run_id


def get(lab: Lab, run: str, part: str = "", status: int = 200, **query: Any) -> Json:
    answer = lab.admin.get(f"/api/v1/runs/{run}/features{part}", params=query)
    assert answer.status_code == status, answer.text
    body: Json = answer.json()
    return body


def only_umap(spec: ModuleSpec | None) -> Callable[..., ModuleSpec | None]:
    """Return a search for packages that finds this for umap."""
    real = importlib.util.find_spec
    return lambda name, package=None: spec if name == "umap" else real(name, package)


class TestSummary:
    def test_epochs_and_measures_of_run_and_teacher(self, lab: Lab, run: str) -> None:
        reply = get(lab, run)
        assert (reply["classes"], reply["all_classes"]) == (["cat", "dog", "owl"], 3)
        own, teacher = reply["networks"]["run"], reply["networks"]["teacher"]
        assert (own["epochs"], own["length"], own["images"], own["measured"]) == ([1, 5, 10], 4, 12, 40)
        assert own["measures"]["nc1"] == pytest.approx([1, 1 / 2, 1 / 3])
        assert (teacher["epochs"], teacher["length"]) == ([0], 6)

    def test_run_without_teacher_has_its_own_alone(self, lab: Lab, claim: Json, settings: Settings) -> None:
        featured.write_features(Path(settings.artifacts, claim["folder"]), featured.features(teacher=False))
        lab.succeed(claim)
        assert list(get(lab, claim["run_id"])["networks"]) == ["run"]
        assert "no features of a teacher" in get(lab, claim["run_id"], "/map", 422, network="teacher")["detail"]

    def test_some_of_many_classes_are_named(self, lab: Lab, claim: Json, settings: Settings) -> None:
        many = featured.features(classes=tuple(f"class {number}" for number in range(100)))
        featured.write_features(Path(settings.artifacts, claim["folder"]), many)
        lab.succeed(claim)
        reply = get(lab, claim["run_id"])
        assert (reply["classes"], reply["all_classes"]) == (["class 0", "class 1", "class 2"], 100)


class TestMap:
    def test_points_of_the_last_epoch_by_default(self, lab: Lab, run: str) -> None:
        reply = get(lab, run, "/map")
        assert (reply["epoch"], reply["projection"], reply["network"]) == (10, "pca", "run")
        assert reply["item"] == list(range(12))
        assert reply["label"] == featured.LABELS.tolist()
        assert len(reply["x"]) == len(reply["y"]) == 12
        assert 0.8 < reply["explained"] <= 1

    def test_angles_are_those_of_the_cosines(self, lab: Lab, run: str) -> None:
        assert get(lab, run, "/map")["angles"] == [[0.0, 120.0, 90.0], [120.0, 0.0, None], [90.0, None, 0.0]]

    def test_axes_of_pca_are_those_of_the_last_epoch(self, lab: Lab, run: str) -> None:
        network = featured.features().networks["student"]
        last, first = (network.snapshots[epoch].values.astype(float) for epoch in (10, 1))
        covariance = np.cov(last.T)
        _, vectors = np.linalg.eigh(covariance)
        expected = (first - first.mean(0)) @ vectors[:, ::-1][:, :2]
        reply = get(lab, run, "/map", epoch=1)
        for axis, values in zip(("x", "y"), expected.T, strict=True):
            found = np.array(reply[axis])
            sign = np.sign(found @ values)
            np.testing.assert_allclose(found, sign * values, atol=2e-3)
        extents = [get(lab, run, "/map", epoch=epoch)["extent"] for epoch in (1, 5, 10)]
        assert extents == [extents[0]] * 3
        points = [get(lab, run, "/map", epoch=epoch) for epoch in (1, 5, 10)]
        greatest = max(abs(value) for reply in points for axis in ("x", "y") for value in reply[axis])
        assert extents[0] == pytest.approx(greatest, abs=1e-3)

    def test_tsne_is_seeded_and_keeps_classes_together(self, lab: Lab, run: str) -> None:
        reply = get(lab, run, "/map", projection="tsne", network="teacher")
        assert (reply["epoch"], reply["extent"], reply["explained"]) == (0, None, None)
        points = np.stack([reply["x"], reply["y"]], 1)
        apart = np.linalg.norm(points[:, None] - points, axis=2)
        nearest = np.argsort(apart, axis=1)[:, 1]
        assert (featured.LABELS[nearest] == featured.LABELS).mean() > 0.9
        lab.app.state.projector = projections.Projector()
        again = get(lab, run, "/map", projection="tsne", network="teacher")
        assert (again["x"], again["y"]) == (reply["x"], reply["y"])

    def test_projection_is_computed_once(self, lab: Lab, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[int] = []

        def counted(centred: Any, start: Any) -> Any:
            calls.append(len(centred))
            return start

        monkeypatch.setattr(projections, "_tsne", counted)
        for epoch in (5, 5, 10, 5):
            get(lab, run, "/map", projection="tsne", epoch=epoch)
        assert calls == [12, 12]

    def test_umap_says_what_to_install_where_it_is_missing(
        self, lab: Lab, run: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", only_umap(None))
        assert "pip install umap-learn" in get(lab, run)["unavailable"]["umap"]
        refused = get(lab, run, "/map", 422, projection="umap")
        assert refused["errors"][0]["path"] == "projection"
        assert "umap-learn" in refused["detail"]

    def test_umap_begins_with_the_points_of_pca_and_has_a_seed(
        self, lab: Lab, run: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: dict[str, Any] = {}

        class Umap:
            def __init__(self, **options: Any) -> None:
                given.update(options)

            def fit_transform(self, values: Any) -> Any:
                return np.asarray(given["init"]) + 5

        module = ModuleType("umap")
        module.UMAP = Umap  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "umap", module)
        monkeypatch.setattr(importlib.util, "find_spec", only_umap(ModuleSpec("umap", None)))
        reply = get(lab, run, "/map", projection="umap")
        assert (given["random_state"], given["n_neighbors"]) == (0, 11)
        assert np.mean(reply["x"]) == pytest.approx(0, abs=1e-3)
        assert np.std(reply["x"]) == pytest.approx(10, rel=1e-3)

    @pytest.mark.parametrize(
        ("query", "path"),
        [
            ({"epoch": 3}, "epoch"),
            ({"epoch": -1}, "epoch"),
            ({"projection": "isomap"}, "projection"),
            ({"network": "x"}, "network"),
        ],
    )
    def test_bad_values_are_named(self, lab: Lab, run: str, query: Json, path: str) -> None:
        refused = get(lab, run, "/map", 422, **query)
        assert [error["path"] for error in refused["errors"]] == [path]
        if query == {"epoch": 3}:
            assert "they were after 1, 5, 10" in refused["detail"]


class TestRefused:
    def test_run_that_has_not_succeeded(self, lab: Lab, claim: Json) -> None:
        assert "features are written when a run succeeds" in get(lab, claim["run_id"], status=409)["detail"]

    def test_run_that_kept_none_says_why(self, lab: Lab, claim: Json) -> None:
        lab.succeed(claim)
        for part in ("", "/map"):
            assert "kept no features" in get(lab, claim["run_id"], part, 404)["detail"]

    def test_damaged_file_can_be_downloaded(self, lab: Lab, claim: Json, settings: Settings) -> None:
        folder = Path(settings.artifacts, claim["folder"])
        featured.write_features(folder, featured.features())
        content = bytearray((folder / FEATURES_NAME).read_bytes())
        content[30] ^= 1
        (folder / FEATURES_NAME).write_bytes(content)
        lab.succeed(claim)
        assert "damaged" in get(lab, claim["run_id"], status=409)["detail"]

    def test_features_that_are_not_finite(self, lab: Lab, claim: Json, settings: Settings) -> None:
        found = featured.features(teacher=False)
        found.networks["student"].snapshots[5].values[0, 0] = np.nan
        featured.write_features(Path(settings.artifacts, claim["folder"]), found)
        lab.succeed(claim)
        assert "after epoch 5 are not finite" in get(lab, claim["run_id"], "/map", 409)["detail"]


def network(change: Callable[[Any], Any]) -> NetworkFeatures:
    kept = featured.snapshot(0.5, seed=1)
    values = change(kept.values.astype(np.float32)).astype(np.float16)
    return NetworkFeatures(featured.images(), {1: Snapshot(values, kept.cosines, kept.measures)})


class TestAxes:
    def test_sign_of_an_axis_is_always_the_same(self) -> None:
        axes, mirrored = fit_axes(network(lambda values: values)), fit_axes(network(lambda values: -values))
        np.testing.assert_allclose(axes.directions, mirrored.directions, atol=1e-6)

    def test_equal_features_are_one_point(self) -> None:
        constant = network(np.ones_like)
        axes = fit_axes(constant)
        assert (axes.extent, projections.explained(constant, 1, axes)) == (0.0, None)

    def test_features_of_one_number_have_one_axis(self) -> None:
        line = network(lambda values: values[:, :1])
        axes = fit_axes(line)
        assert axes.directions.tolist() == [[1.0, 0.0]]
        assert projections.explained(line, 1, axes) == pytest.approx(1)
