"""A report of experiments as one HTML file, which needs no server, no network and no further file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from client.client import Client
from client.errors import ApiError
from client.exporters.packages import MissingPackageError
from client.rendering import figures, html
from common.durations import duration_text
from common.formatting import difference_unit, value_text
from common.html_page import STYLE, data_block
from core.protocol.comparisons import Comparison
from core.protocol.records import ExperimentRecord, RunRecord
from core.specs import dump_text

_MAX_POINTS = 500
_NOT_COMPARABLE = 422
_CURVES = ("train/loss",)
"""Metrics that are drawn beside the compared one."""

# Nothing is loaded from elsewhere, whatever the names in the report contain.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def build(client: Client, *experiments: str) -> str:
    """Return the report of experiments.

    It contains for each the comparison with the referee's sentences, figures that can be zoomed, every run, the spec,
    and the provenance: code, packages, hardware and data. Several experiments are also compared together, if they
    differ only in their seeds.

    Args:
        client: The client.
        experiments: Names or ids.

    Raises:
        MissingPackageError: Plotly, of the extra ``export``, is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingPackageError("plotly") from None
    records = [client.experiments.record(experiment) for experiment in experiments]
    sections = _together(client, records) if len(records) > 1 else []
    for number, record in enumerate(records):
        sections += _experiment(client, record, f"e{number}-" if len(records) > 1 else "")
    title = html.text(", ".join(record.name for record in records))
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title><style>{STYLE}</style>'
        f"<script>{get_plotlyjs()}</script>"
    )
    return f'<!DOCTYPE html><html lang="en"><head>{head}</head><body>{"".join(sections)}{_DRAW}</body></html>\n'


def _together(client: Client, records: Sequence[ExperimentRecord]) -> list[str]:
    """Return the contents of a report of several experiments, and their comparison together."""
    links = "".join(
        f'<li><a href="#e{number}-top">{html.text(record.name)}</a></li>' for number, record in enumerate(records)
    )
    parts = [f"<h1>{len(records)} experiments</h1><ul>{links}</ul>"]
    try:
        comparison = client.comparisons.get([record.experiment_id for record in records])
    except ApiError as error:
        if error.status != _NOT_COMPARABLE:
            raise
        return [*parts, f"<p>They are not tested together: {html.text(str(error))}</p>"]
    data = data_block("comparison", comparison.model_dump(mode="json"))
    return [*parts, f"<h2>Result over all experiments</h2>{html.result(comparison)}", data]


def _experiment(client: Client, record: ExperimentRecord, prefix: str) -> list[str]:
    """Return the sections of an experiment; ``prefix`` makes the names of its elements unique."""
    comparison = client.comparisons.get(record.experiment_id)
    students = [run for run in record.runs if run.spec["role"] == "student"]
    names = [comparison.metric, *_CURVES]
    drawn = [
        figures.DrawnRun(
            run.label, run.spec["seed"], client.runs.metrics(run.run_id, names=names, max_points=_MAX_POINTS)
        )
        for run in students
    ]
    return [
        _heading(record, prefix),
        f"<h2>Result</h2>{html.result(comparison)}",
        _figures(comparison, drawn, prefix),
        _runs(comparison, record.runs),
        f"<h2>Spec</h2><pre>{html.text(dump_text(record.spec, width=100))}</pre>",
        _provenance(record.runs),
        data_block(f"{prefix}comparison", comparison.model_dump(mode="json")),
    ]


_DRAW = """<script>
for (const element of document.querySelectorAll("[data-figure]")) {
  const figure = JSON.parse(document.getElementById(element.dataset.figure).textContent);
  Plotly.newPlot(element, figure.data, figure.layout, figure.config);
}
</script>"""


def _heading(record: ExperimentRecord, prefix: str) -> str:
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    written = f"written {now} by DKD Lab {version('dkd-lab')}"
    line = f"experiment {record.experiment_id}, created {record.created_at:%Y-%m-%d %H:%M} UTC; {written}"
    notes = record.spec.get("notes") or ""
    heading = f'<h1 id="{prefix}top">{html.text(record.name)}</h1>'
    return f'{heading}<p>{html.text(notes)}</p><p class="quiet">{html.text(line)}</p>'


def _figures(comparison: Comparison, drawn_runs: Sequence[figures.DrawnRun], prefix: str) -> str:
    unit = f" ({comparison.unit})" if comparison.unit else ""
    title = f"{comparison.title or comparison.metric}{unit}"
    change = f"difference to {comparison.baseline} ({difference_unit(comparison.unit)})"
    drawn = {
        title: figures.curves(drawn_runs, comparison.metric, title),
        "Training loss": figures.curves(drawn_runs, "train/loss", "training loss"),
        "Values of all runs; a line joins the runs of a seed": figures.values(comparison, title),
        f"Paired differences, each with its {comparison.interval_title}": figures.differences(comparison, change),
    }
    parts = ["<h2>Figures</h2>"]
    for number, (caption, figure) in enumerate(drawn.items()):
        if figure is not None:
            name = f"{prefix}figure-{number}"
            parts.append(f'<h3>{html.text(caption)}</h3><div data-figure="{name}"></div>{data_block(name, figure)}')
    return "".join(parts)


def _runs(comparison: Comparison, runs: Sequence[RunRecord]) -> str:
    rows = []
    for run in runs:
        seconds = (run.ended_at - run.started_at).total_seconds() if run.started_at and run.ended_at else None
        last = run.attempts[-1] if run.attempts else None
        value = run.metrics.get(comparison.metric)
        rows.append(
            [
                run.label,
                str(run.spec["seed"]),
                run.state,
                value_text(value, comparison.unit, 2) if value is not None else "",
                duration_text(seconds) if seconds is not None else "",
                f"{last.device or ''} on {last.host}" if last else "",
                run.run_id,
                run.reason,
            ]
        )
    titles = ["run", "seed", "state", comparison.metric, "time", "hardware", "id", "reason"]
    return f"<h2>Runs</h2>{html.table(titles, rows)}"


def _provenance(runs: Sequence[RunRecord]) -> str:
    """Return code, environment and packages. What all runs share is written once."""
    parts = ["<h2>Provenance</h2>"]
    commits = _shared((run.commit for run in runs), "not recorded")
    parts.append(f"<p>Code: {html.text(', '.join(commits))}</p>")
    facts: dict[str, list[str]] = {}
    for run in runs:
        for key, value in run.environment.items():
            facts.setdefault(key, []).append(value)
    rows = [[key, "; ".join(_shared(values, ""))] for key, values in sorted(facts.items())]
    parts.append(html.table(["setting", "value"], rows))
    fingerprints = [[f"{run.label} seed {run.spec['seed']}", run.fingerprint, run.weights_sha256] for run in runs]
    parts.append(html.table(["run", "fingerprint of the spec", "SHA-256 of the weights"], fingerprints))
    parts += _folded("Installed packages", ("\n".join(run.packages) for run in runs))
    parts += _folded("Uncommitted changes", (run.diff for run in runs))
    return "".join(parts)


def _folded(title: str, texts: Iterable[str]) -> list[str]:
    """Return each distinct text that is not empty behind a title that opens it."""
    distinct = dict.fromkeys(filter(None, texts))
    return [f"<details><summary>{title}</summary><pre>{html.text(text)}</pre></details>" for text in distinct]


def _shared(values: Iterable[str], missing: str) -> list[str]:
    """Return the distinct values."""
    return list(dict.fromkeys(value or missing for value in values))
