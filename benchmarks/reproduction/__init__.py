"""The parts of ``benchmarks/reproduce.py``."""
