"""Comparisons of methods by measurements of their runs, from one experiment to a leaderboard, and their text forms."""

from backend.comparisons.claims import judge
from backend.comparisons.comparison import compare, sample_of
from backend.comparisons.leaderboard import leaderboard
from backend.comparisons.measured import measured_metrics
from backend.comparisons.overview import overview
from backend.comparisons.published import beside_published, published
from backend.comparisons.selection import Filter, find
from backend.comparisons.table import Layout, table
from backend.comparisons.tasks import refuse_several_tasks

__all__ = [
    "Filter",
    "Layout",
    "beside_published",
    "compare",
    "find",
    "judge",
    "leaderboard",
    "measured_metrics",
    "overview",
    "published",
    "refuse_several_tasks",
    "sample_of",
    "table",
]
