"""``python -m benchmarks.platform compare|growth``: both write their table under benchmarks/results/."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.platform import compare, growth, report
from benchmarks.platform.servers import ROOT

MLFLOW = "3.17.2"
VENV = ROOT.parent / "mlflow-venv"

cli = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

KeepOption = Annotated[
    Path | None, typer.Option(help="A file that what was measured is added to: a second call goes on from there.")
]


@cli.command("compare")
def compare_command(
    venv: Annotated[Path, typer.Option(help=f"Where MLflow {MLFLOW} is installed, or is to be.")] = VENV,
    rounds: Annotated[int, typer.Option(min=1, help="In all, those kept already included.")] = 5,
    keep: KeepOption = None,
) -> None:
    """MLflow's server and the backend in turn. Installs MLflow with uv into a venv of its own where it is not yet."""
    program = _installed(venv)
    found: list[tuple[dict[str, float], dict[str, float]]] = [(one, other) for one, other in _kept(keep, [])]
    while len(found) < rounds:
        found.append(compare.both(program))
        _keep(keep, found)
        theirs, own = found[-1]
        print(f"round {len(found)}")
        for measure in compare.MEASURES:
            ratio = measure.ratio(theirs[measure.against or measure.key], own[measure.key])
            print(f"  {measure.title:45} {own[measure.key]:10.3f} {measure.unit:9} {ratio:6.1f} ×")
    report.compared(found, MLFLOW)


@cli.command("growth")
def growth_command(
    keep: KeepOption = None,
    only: Annotated[str | None, typer.Option(help="As sqlite:100, for a part; with --keep.")] = None,
) -> None:
    """Lists, pages and charts with few runs and with many, on SQLite and PostgreSQL. The large ones take minutes."""
    found: dict[str, dict[str, Any]] = _kept(keep, {})
    wanted = [f"{kind}:{runs}" for kind in growth.DATABASES for runs in growth.SIZES]
    for name in wanted if only is None else [only]:
        if name in found:
            continue
        kind, _, runs = name.partition(":")
        shown = growth.measure(kind, int(runs), print)
        found[name] = {title: asdict(one) for title, one in shown.items()}
        _keep(keep, found)
        for title, one in shown.items():
            print(f"  {title:45} p50 {one.p50:7.1f} ms, p95 {one.p95:7.1f} ms")
    if all(name in found for name in wanted):
        report.grown(
            {
                kind: {
                    runs: {title: growth.Shown(**one) for title, one in found[f"{kind}:{runs}"].items()}
                    for runs in growth.SIZES
                }
                for kind in growth.DATABASES
            }
        )


def _installed(venv: Path) -> Path:
    """MLflow's program. It is kept out of our own environment: it would decide on half of our versions."""
    program = venv / "bin" / "mlflow"
    if not program.exists():
        uv = [sys.executable, "-m", "uv"]
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        subprocess.run([*uv, "venv", "--quiet", "--python", version, str(venv)], check=True)
        python = str(venv / "bin" / "python")
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, f"mlflow=={MLFLOW}"], check=True)
    return program


def _kept(file: Path | None, default: Any) -> Any:
    return json.loads(file.read_text()) if file is not None and file.exists() else default


def _keep(file: Path | None, found: Any) -> None:
    if file is not None:
        file.write_text(json.dumps(found))


if __name__ == "__main__":
    cli()
