"""Injects random faults into a whole stack and checks the runs afterwards: ``python -m benchmarks.chaos``."""
