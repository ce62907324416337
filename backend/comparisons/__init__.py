"""Methods side by side, from what their runs have measured: comparisons, claims, the paper's table, and their texts."""

from backend.comparisons.claims import judge
from backend.comparisons.compare import Options, build, sample_of
from backend.comparisons.overview import GROUPS, overview
from backend.comparisons.run_data import ACCURACY
from backend.comparisons.table import Filter, Layout, find, published, table

__all__ = [
    "ACCURACY",
    "GROUPS",
    "Filter",
    "Layout",
    "Options",
    "build",
    "find",
    "judge",
    "overview",
    "published",
    "sample_of",
    "table",
]
