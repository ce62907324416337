"""Losses of this package beside those of public repositories on the same random tensors.

    python -m benchmarks parity --mdistiller DIR --repdistiller DIR …

Each ``--NAME DIR`` is a checkout, see ``REPOSITORIES``; comparisons with repositories that are not given are left out.
Both sides are computed in float64 at a batch of 64, with the same weights in all layers of a method's own. The result
is written to ``benchmarks/results/parity.md``.
"""
