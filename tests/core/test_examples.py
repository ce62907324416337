"""Every file of ``examples/`` is a valid spec and is listed in the catalog."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.catalog import describe
from core.papers import PUBLISHED_NUMBERS, published_for
from core.papers.cifar100_weights import pairs
from core.papers.decoupled_kd import PAPER as DKD
from core.specs import load_file, parse_experiment, parse_sweep, read_experiment
from core.specs.sweep import expand

EXAMPLES = Path(__file__).parents[2] / "examples"
LISTED = describe()["examples"]


def test_catalog_lists_every_example_once() -> None:
    written = [read_experiment(path) for path in EXAMPLES.rglob("*.yaml") if path.parent.name != "sweeps"]
    assert sorted(item["name"] for item in LISTED) == sorted(spec.name for spec in written)
    assert len({(item["group"], item["title"]) for item in LISTED}) == len(LISTED)


@pytest.mark.parametrize("path", sorted((EXAMPLES / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_example_of_a_sweep_has_experiments_with_the_name_of_its_file(path: Path) -> None:
    experiments = expand(parse_sweep(load_file(path)))
    assert len(experiments) > 1
    assert all(experiment.name.startswith(path.stem) for experiment in experiments)


@pytest.mark.parametrize("item", LISTED, ids=lambda item: item["name"])
def test_listed_example_is_a_valid_spec(item: dict[str, object]) -> None:
    spec = parse_experiment(item["spec"])
    assert spec.name == item["name"]
    assert spec.plan()


def test_examples_are_grouped_by_publication() -> None:
    counts: dict[str, int] = {}
    for item in LISTED:
        counts[item["group"]] = counts.get(item["group"], 0) + 1
    assert counts["Decoupled Gradient KD, 2025"] == 14
    assert counts["CIFAR-100 pairs"] == len(pairs()) == 17


def test_every_pair_of_the_tables_has_a_spec_with_its_methods() -> None:
    specs = [read_experiment(path) for path in (EXAMPLES / "cifar100").glob("*.yaml")]
    by_pair = {(spec.teacher.model.name, spec.student.model.name): spec for spec in specs if spec.teacher}
    assert sorted(by_pair) == sorted(pairs())
    for (teacher, student), spec in by_pair.items():
        named = {(method.name, tuple(added.name for added in method.added)) for method in spec.methods}
        for number in published_for("cifar100", {"image_size": 32}, teacher, student):
            if number.method and number.method != "teacher":
                assert (number.method, number.combined) in named, (teacher, student, number.printed)


def test_every_method_with_published_numbers_is_in_a_spec() -> None:
    published = {number.method for number in PUBLISHED_NUMBERS if number.dataset == "cifar100"} - {"", "teacher"}
    shown = {method.name for path in (EXAMPLES / "cifar100").glob("*.yaml") for method in read_experiment(path).methods}
    assert published
    assert published <= shown


def test_examples_contain_the_published_pairs() -> None:
    """With the β of each pair, and the smaller rate of ShuffleNet and MobileNet students."""
    rows = [read_experiment(path) for path in sorted((EXAMPLES / "decoupled-gradient-kd-2025").glob("*.yaml"))]
    assert len(rows) == 14
    assert {row.training.augment for row in rows} == {"flip"}
    pairs = [read_experiment(path) for path in sorted((EXAMPLES / "cifar100").glob("*.yaml"))]
    of_pair = {}
    for pair in pairs:
        assert pair.teacher
        beta = next((method.params["beta"] for method in pair.methods if method.name == "dkd"), None)
        of_pair[pair.teacher.model.name, pair.student.model.name] = beta
        small = pair.student.model.name.startswith(("shufflenet", "mobilenet"))
        assert pair.training.optimizer.lr == (0.01 if small else 0.05)
    published = {(row.teacher, row.student) for row in DKD.published if row.dataset == "cifar100"}
    assert len(published) == 11
    assert sorted(of_pair[pair] or 0 for pair in published) == [2, 2, 6, 6, 6, 6, 8, 8, 8, 8, 8]
    assert of_pair["resnet56", "resnet20"] == of_pair["resnet110", "resnet32"] == 2
    assert len(of_pair) == 17
