"""The parity table beside stub repositories: no public code is needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.parity import command
from benchmarks.parity.checkout import REPOSITORIES, Checkout
from core.catalog import METHODS

KD = """
import torch

class KD(torch.nn.Module):
    def __init__(self, student, teacher, cfg):
        super().__init__()
        self.student, self.teacher, self.T, self.weight = student, teacher, cfg.KD.TEMPERATURE, cfg.KD.LOSS.KD_WEIGHT

    def forward_train(self, image, target, **kwargs):
        (z, _), (v, _) = self.student(image), self.teacher(image)
        loss = 0
        for row, other in zip(z.cuda() / self.T, v / self.T):
            p, q = row.exp() / row.exp().sum(), other.exp() / other.exp().sum()
            loss = loss + (q * (q / p).log()).sum() / len(z)
        print("computed")
        return z, {"loss_ce": torch.zeros(()), "loss_kd": FACTOR * self.weight * self.T**2 * loss}
"""


def repository(folder: Path, factor: float = 1.0) -> Path:
    """Write a repository with a package of mdistiller's layout, whose ``__init__`` cannot be imported."""
    package = folder / "mdistiller" / "distillers"
    package.mkdir(parents=True)
    for init in (package.parent / "__init__.py", package / "__init__.py"):
        init.write_text("import a_package_that_nobody_has\n")
    (package / "factor.py").write_text(f"FACTOR = {factor}\n")
    (package / "KD.py").write_text("from .factor import FACTOR\n" + KD)
    return folder


def test_equal_losses_differ_by_rounding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "parity.md"
    command.main(["--mdistiller", str(repository(tmp_path / "code")), "--method", "kd", "--out", str(out)])
    (row,) = [line for line in out.read_text().splitlines() if line.startswith("| KD |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == "megvii-research/mdistiller"
    assert cells[3] == cells[4]
    assert float(cells[3]) > 0.1
    assert max(float(cells[5]), float(cells[6])) < 1e-12
    assert cells[7] == ""
    assert "computed" not in capsys.readouterr().out


def test_a_difference_without_a_reason_is_an_error(tmp_path: Path) -> None:
    out = tmp_path / "parity.md"
    code = repository(tmp_path / "code", factor=1.01)
    with pytest.raises(SystemExit, match=r"without a reason: kd \(mdistiller\)"):
        command.main(["--mdistiller", str(code), "--method", "kd", "--out", str(out)])
    (row,) = [line for line in out.read_text().splitlines() if line.startswith("| KD |")]
    assert "no reason is known" in row
    assert "| 1e-02 | 1e-02 |" in row


def test_packages_of_one_name_stay_apart(tmp_path: Path) -> None:
    checkouts = [Checkout(repository(tmp_path / name, factor)) for name, factor in (("one", 1.0), ("two", 2.0))]
    modules = [checkout.module("mdistiller.distillers.KD") for checkout in checkouts]
    assert [module.FACTOR for module in modules] == [1.0, 2.0]
    assert not [name for name in sys.modules if name.split(".")[0] == "mdistiller"]


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="not the checkout that was expected: it has no file"):
        command.main(["--repdistiller", str(tmp_path), "--method", "kd", "--out", str(tmp_path / "parity.md")])


def test_without_a_checkout_there_is_nothing_to_compare(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main([])
    assert "name at least one checkout" in capsys.readouterr().err


def test_comparisons_name_methods_and_repositories_that_exist() -> None:
    for comparison in command.COMPARISONS:
        assert comparison.method in METHODS
        assert comparison.repository in REPOSITORIES
        METHODS[comparison.method].params.model_validate(dict(comparison.params))
    assert {one.repository for one in command.COMPARISONS} == set(REPOSITORIES)


def test_every_row_of_the_table_is_rounding_or_has_a_reason() -> None:
    rows = [line for line in command.RESULTS.read_text().split("## The paper")[0].splitlines() if "/" in line[:60]]
    rows = [line for line in rows if line.startswith("| ")]
    assert len(rows) == len(command.COMPARISONS)
    for row in rows:
        *_, value, gradient, reason = [cell.strip() for cell in row.strip("|").split("|")]
        assert max(float(value), float(gradient)) <= 1e-9 or reason
        assert "no reason is known" not in reason
