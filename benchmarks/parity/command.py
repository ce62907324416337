"""``python -m benchmarks parity``: measure all comparisons whose repository is at hand, and write the table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.parity import classifiers, features, logits, mdistiller, repdistiller, updates
from benchmarks.parity.checkout import REPOSITORIES, Checkout
from benchmarks.parity.comparison import ROUNDING, Comparison, Measured
from benchmarks.parity.inputs import BATCH
from benchmarks.parity.variants import Variants, compare_variants, difference_of, with_variants
from core.catalog import METHODS

RESULTS = Path(__file__).parents[1] / "results" / "parity.md"
Either = Comparison | updates.UpdateComparison
COMPARISONS: tuple[Either, ...] = (
    *mdistiller.COMPARISONS,
    *repdistiller.COMPARISONS,
    *features.COMPARISONS,
    *classifiers.COMPARISONS,
    *logits.COMPARISONS,
    *updates.COMPARISONS,
)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and store the table.

    Raises:
        SystemExit: A comparison differs by more than rounding without a reason, or no repository is given.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    for name, repository in REPOSITORIES.items():
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"a checkout of {repository}")
    parser.add_argument("--method", action="append", metavar="NAME", help="default: every method")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    options = vars(parser.parse_args(arguments))
    checkouts = {name: Checkout(options[name]) for name in REPOSITORIES if options[name]}
    if not checkouts:
        parser.error("name at least one checkout, such as --mdistiller DIR")
    found = []
    for entry in METHODS:
        for comparison in COMPARISONS:
            is_chosen = comparison.method == entry.name and entry.name in (options["method"] or [entry.name])
            if is_chosen and comparison.repository in checkouts:
                found.append((comparison, comparison.measure(checkouts[comparison.repository])))
                print(_row(*found[-1]), flush=True)
    chosen = [entry for entry in with_variants() if entry.name in (options["method"] or [entry.name])]
    variants = {entry.name: compare_variants(entry) for entry in chosen}
    options["out"].write_text("\n".join(_document(found, variants, checkouts)) + "\n")
    print(f"written to {options['out']}")
    unexplained = [comparison for comparison, measured in found if not (measured.is_rounding or comparison.reason)]
    if unexplained:
        names = ", ".join(f"{one.method} ({one.repository})" for one in unexplained)
        sys.exit(f"differences without a reason: {names}")


def _document(
    found: Sequence[tuple[Either, Measured]],
    variants: Mapping[str, Variants],
    checkouts: Mapping[str, Checkout],
) -> list[str]:
    equal = sum(measured.is_rounding for _, measured in found)
    lines = [
        "# Parity with public code",
        "",
        f"Losses of this package and of public repositories on the same random tensors: a batch of {BATCH}, the "
        "stages of a ResNet-20 for the student, the same and wider ones with smaller and larger maps for the teacher, "
        "float64, equal weights in all layers of a method's own, after every ramp. The loss is that of distillation "
        "with the published weights, without cross-entropy. `python -m benchmarks parity` writes this file.",
        "",
        "Δ value is the largest relative difference of the loss over all shapes. Δ gradient is that of the gradient "
        "with respect to the student's logits and layers and to the weights of a method's own: the largest absolute "
        f"difference within a tensor, divided by the largest number in it. Up to {ROUNDING:g} it is the order of the "
        f"operations; so it is in {equal} of {len(found)} comparisons, and each other one has its reason.",
        "",
        "| Method | Repository | Part | Theirs | Ours | Δ value | Δ gradient | Why it is not rounding |",
        "|---|---|---|---:|---:|---:|---:|---|",
        *(_row(*one) for one in found),
        "",
    ]
    compared = {comparison.method for comparison in COMPARISONS}
    others = ", ".join(entry.title for entry in METHODS if entry.name not in compared)
    lines += [f"No repository that can be run in this way has {others}.", ""]
    if variants:
        lines += [
            "## The paper and the public code",
            "",
            "Methods that the paper and the code of the field define differently, both computed here with their "
            "default weights on the tensors of equal shapes. The norm is that of the gradient with respect to the "
            "student, the cosine that of the angle between both gradients. Layers of a method's own are as "
            "initialised.",
            "",
            "| Method | Loss, paper | Loss, public code | Norm, public code / paper | Cosine | How they differ |",
            "|---|---:|---:|---:|---:|---|",
            *(_variant_row(name, one) for name, one in variants.items()),
            "",
        ]
    commits = [f"{REPOSITORIES[name]} {checkout.commit()}".strip() for name, checkout in checkouts.items()]
    return [*lines, f"Measured with torch {torch.__version__} on a CPU, beside {', '.join(commits)}."]


def _row(comparison: Either, measured: Measured) -> str:
    reason = "" if measured.is_rounding else comparison.reason or "**no reason is known**"
    numbers = f"{measured.public:.6g} | {measured.own:.6g} | {measured.value:.0e} | {measured.gradient:.0e}"
    title, repository = METHODS[comparison.method].title, REPOSITORIES[comparison.repository]
    return f"| {title} | {repository} | {comparison.part} | {numbers} | {reason} |"


def _variant_row(name: str, variants: Variants) -> str:
    numbers = f"{variants.paper:.4g} | {variants.public_code:.4g} | {variants.norm:.3g} | {variants.cosine:.3f}"
    return f"| {METHODS[name].title} | {numbers} | {difference_of(METHODS[name])} |"
