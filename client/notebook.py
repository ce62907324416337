"""Experiments in Jupyter: curves as a figure, and progress that is drawn again until the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from client.errors import ClientSettingsError
from core.protocol.public import Experiment, MetricsReply

MAX_POINTS = 300
"""Points of each curve of a figure."""


def in_notebook() -> bool:
    """Return whether this program is a kernel of Jupyter, which shows HTML."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel")


def table(experiment: Experiment) -> str:
    """Return an experiment's progress and its runs as HTML."""
    # Imported here: scripts that show nothing need no terminal library.
    from client.rendering import html

    return html.experiment(experiment)


def curves(experiment: Experiment, read: Callable[[str, list[str]], MetricsReply], metric: str | None) -> Any:
    """Return the curves of the students as a figure of Plotly, which a notebook shows.

    Args:
        experiment: The experiment.
        read: Reads metrics of a run by its id.
        metric: The metric; by default the one by which the runs are judged.

    Returns:
        The figure; None if no run has a point yet.

    Raises:
        ClientSettingsError: Plotly is not installed.
    """
    from client.rendering import figures

    try:
        from plotly.graph_objects import Figure
    except ImportError:
        raise ClientSettingsError("a figure needs plotly: pip install 'dkd-lab[export]'") from None
    students = [run for run in experiment.runs if run.role == "student"]
    name = metric or (students[0].headline if students else "")
    started = [run for run in students if run.step]
    drawn = [figures.DrawnRun(run.label, run.seed, read(run.id, [name])) for run in started]
    figure = figures.curves(drawn, name, name)
    return None if figure is None else Figure(data=figure["data"], layout=figure["layout"])


class _Replaceable:
    """A figure that a later one can replace. Plotly's own display appends each figure to the cell.

    Args:
        figure: The figure of Plotly.
    """

    def __init__(self, figure: Any) -> None:
        self.figure = figure

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.figure._repr_mimebundle_(**options)


def watch(fetch: Callable[[], Experiment], draw: Callable[[Experiment], Any], interval: float) -> Experiment:
    """Show an experiment below the cell, and draw it again until every run has ended.

    Args:
        fetch: Reads the experiment.
        draw: Returns its figure; None for none.
        interval: Seconds between two drawings.

    Returns:
        The experiment at its end.
    """
    from IPython.display import HTML, display

    shown: Any = display(HTML(""), display_id=True)
    figure: Any = None
    while True:
        experiment = fetch()
        shown.update(HTML(table(experiment)))
        if (drawn := draw(experiment)) is not None:
            if figure is None:
                figure = display(_Replaceable(drawn), display_id=True)
            else:
                figure.update(_Replaceable(drawn))
        if experiment.state != "active":
            return experiment
        time.sleep(interval)
