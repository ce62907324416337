"""Pages of results, each made from a committed record alone: ``python -m benchmarks results``."""
