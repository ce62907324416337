"""The names of measurements that were made on held-out images in place of the test images."""

from __future__ import annotations

from collections.abc import Mapping

from core.catalog import METRICS


def named_by_split(report: Mapping[str, float], headline: str) -> dict[str, float]:
    """Return a report of the test split under the names of the split that its place was given to.

    Args:
        report: Measurements by name, of which those of the test split begin with ``test/``.
        headline: The metric that the run is judged by; its split is the one that was measured.

    Returns:
        ``val/top1`` for ``test/top1`` of a run that is judged on held-out images. What the catalog knows of the test
        split alone, such as the scores of a teacher, is left out.
    """
    split, _, _ = headline.partition("/")
    if split == "test":
        return dict(report)
    names = {name: f"{split}/{name.removeprefix('test/')}" if name.startswith("test/") else name for name in report}
    return {names[name]: value for name, value in report.items() if names[name] == name or names[name] in METRICS}
