"""``python -m benchmarks.platform compare|load|growth``: measure the backend over HTTP.

``compare`` and ``growth`` write their tables to benchmarks/results.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.platform import compare, growth, load, tables
from benchmarks.platform.servers import ROOT

MLFLOW_VERSION = "3.17.2"
VENV = ROOT.parent / "mlflow-venv"

cli = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

KeepOption = Annotated[
    Path | None, typer.Option(help="A file that stores what was measured; another call with it continues from there.")
]


@cli.command("compare")
def compare_command(
    venv: Annotated[Path, typer.Option(help=f"Folder of the environment with MLflow {MLFLOW_VERSION}.")] = VENV,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds, those of --keep included.")] = 5,
    keep: KeepOption = None,
) -> None:
    """Measure MLflow's server and the backend in turn.

    MLflow is installed with uv into an environment of its own if it is absent.
    """
    program = _install_mlflow(venv)
    results: list[tuple[compare.Round, compare.Round]] = [(one, other) for one, other in _load(keep, [])]
    while len(results) < rounds:
        results.append(compare.measure_both(program))
        _store(keep, results)
        mlflow, backend = results[-1]
        print(f"round {len(results)}")
        for measure in compare.MEASURES:
            ratio = measure.ratio(mlflow, backend)
            target = "" if ratio >= measure.target else f"  (target: {measure.target:g} ×)"
            print(f"  {measure.title:45} {backend[measure.key]:10.3f} {measure.unit:9} {ratio:6.1f} ×{target}")
        print(f"  {'Report under load, p95':45} {backend[compare.LOAD]:10.3f} ms")
    tables.write_comparison(results, MLFLOW_VERSION)


@cli.command("load")
def load_command() -> None:
    """Measure how long a report takes while many trainings report at a fixed rate; takes about 15 s."""
    latencies = load.report_latencies()
    print(
        f"{load.TRAININGS} trainings, {load.REPORTS_PER_SECOND} reports a second each, {load.CORES} cores: "
        f"p50 {statistics.median(latencies):.1f} ms, p95 {load.percentile_95(latencies):.1f} ms "
        f"(target: {load.TARGET_MS} ms), longest {max(latencies):.1f} ms"
    )


@cli.command("growth")
def growth_command(
    keep: KeepOption = None,
    only: Annotated[str | None, typer.Option(help="One part, for example sqlite:100; with --keep.")] = None,
) -> None:
    """Measure lists, pages and charts with few runs and with many, on SQLite and PostgreSQL.

    The large databases take minutes.
    """
    results: dict[str, dict[str, Any]] = _load(keep, {})
    parts = [f"{kind}:{runs}" for kind in growth.DATABASES for runs in growth.SIZES]
    for part in parts if only is None else [only]:
        if part in results:
            continue
        kind, _, runs = part.partition(":")
        latencies = growth.measure(kind, int(runs), print)
        results[part] = {title: asdict(latency) for title, latency in latencies.items()}
        _store(keep, results)
        for title, latency in latencies.items():
            print(f"  {title:45} p50 {latency.p50:7.1f} ms, p95 {latency.p95:7.1f} ms")
    if all(part in results for part in parts):
        tables.write_growth(
            {
                kind: {
                    runs: {title: growth.Latency(**values) for title, values in results[f"{kind}:{runs}"].items()}
                    for runs in growth.SIZES
                }
                for kind in growth.DATABASES
            }
        )


def _install_mlflow(venv: Path) -> Path:
    """Return MLflow's program. It has its own environment, since it would determine half of the versions of ours."""
    program = venv / "bin" / "mlflow"
    if not program.exists():
        uv = [sys.executable, "-m", "uv"]
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        subprocess.run([*uv, "venv", "--quiet", "--python", version, str(venv)], check=True)
        python = str(venv / "bin" / "python")
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, f"mlflow=={MLFLOW_VERSION}"], check=True)
    return program


def _load(file: Path | None, default: Any) -> Any:
    return json.loads(file.read_text()) if file is not None and file.exists() else default


def _store(file: Path | None, results: Any) -> None:
    if file is not None:
        file.write_text(json.dumps(results))


if __name__ == "__main__":
    cli()
