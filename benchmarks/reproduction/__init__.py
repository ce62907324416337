"""Modules of ``benchmarks/reproduce.py``."""
