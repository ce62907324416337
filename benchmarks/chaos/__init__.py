"""Faults at random against a whole stack, and an account of what came of the runs: ``python -m benchmarks.chaos``."""
