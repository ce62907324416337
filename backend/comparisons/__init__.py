"""Methods side by side, from what their runs have measured: comparisons, claims, the paper's table, exports."""

from backend.comparisons.build import Options, build, sample_of
from backend.comparisons.claims import judge
from backend.comparisons.data import ACCURACY
from backend.comparisons.overview import GROUPS, overview

__all__ = ["ACCURACY", "GROUPS", "Options", "build", "judge", "overview", "sample_of"]
