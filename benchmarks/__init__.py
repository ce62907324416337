"""Benchmarks, each run by ``python -m benchmarks.NAME``; ``make bench`` runs them all. They are not tests."""
