"""Comparisons of methods by measurements of their runs: comparison, overview, claims, table, and their text forms."""

from backend.comparisons.claims import judge
from backend.comparisons.comparison import compare, sample_of
from backend.comparisons.overview import overview
from backend.comparisons.table import Filter, Layout, find, published, table

__all__ = [
    "Filter",
    "Layout",
    "compare",
    "find",
    "judge",
    "overview",
    "published",
    "sample_of",
    "table",
]
