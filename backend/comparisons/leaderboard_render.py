"""A leaderboard as a sheet (for Markdown and LaTeX) and as records (for CSV), each with its provenance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from backend.comparisons.sheets import Sheet, Text
from common.formatting import NOTHING, count_text
from core.protocol.leaderboards import Leaderboard, LeaderboardCell


def sheet(board: Leaderboard) -> Sheet:
    """Return the leaderboard as a sheet: one row per method, one column per setting."""
    header = ["Method", "Mean rank", *(setting.heading for setting in board.settings)]
    cells = board.cells
    rows = [
        [
            Text(method.label),
            Text(method.rank_text),
            *(_cell(cells.get((setting.title, method.label))) for setting in board.settings),
        ]
        for method in board.methods
    ]
    commented = [
        f"{setting.title}, {cell.label}: runs {' '.join(cell.run_ids) or NOTHING}"
        for setting in board.settings
        for cell in setting.cells
    ]
    commented += [
        f"run {run.id}: experiment {run.experiment_id}, seed {run.seed}, fingerprint {run.fingerprint}, commit "
        f"{run.commit or NOTHING}, ended {run.ended_at.isoformat() if run.ended_at else NOTHING}"
        for run in board.runs
    ]
    notes = [*board.notes, *provenance(board)]
    return Sheet(f"Leaderboard of {board.task}", header, rows, frozenset(range(1, len(header))), notes, commented)


def records(board: Leaderboard) -> list[dict[str, Any]]:
    """Return a record per method and setting, also for cells without a value."""
    cells = board.cells
    runs = {run.id: run for run in board.runs}
    names = {item.id: item.name for item in board.experiments}
    found = []
    for setting in board.settings:
        for method in board.methods:
            cell = cells.get((setting.title, method.label)) or LeaderboardCell(label=method.label, n=0)
            of_cell = [runs[run] for run in cell.run_ids if run in runs]
            ended = sorted(run.ended_at for run in of_cell if run.ended_at)
            interval, difference = cell.interval, cell.difference_interval
            found.append(
                {
                    "setting": setting.title,
                    "dataset": setting.dataset,
                    "teacher": setting.teacher,
                    "student": setting.student,
                    "epochs": setting.epochs,
                    "metric": setting.metric,
                    "epoch": "last",
                    "method": method.label,
                    "mean_rank": method.mean_rank,
                    "mean_rank_low": method.interval.low if method.interval else None,
                    "mean_rank_high": method.interval.high if method.interval else None,
                    "counted": setting.counted,
                    "n": cell.n,
                    "mean": cell.mean,
                    "sd": cell.sd,
                    "mean_low": interval.low if interval else None,
                    "mean_high": interval.high if interval else None,
                    "best": cell.best,
                    "rank": cell.mean_rank,
                    "baseline": board.baseline,
                    "pairs": cell.pairs,
                    "difference": cell.mean_difference,
                    "difference_low": difference.low if difference else None,
                    "difference_high": difference.high if difference else None,
                    "sign_flip_p": cell.p,
                    "sign_flip_p_holm": cell.p_holm,
                    "verdict": cell.verdict or "",
                    "missing": cell.reason or ("" if cell.n else "not in these experiments"),
                    "trials": cell.trials,
                    "seeds": _joined(cell.seeds),
                    "run_ids": _joined(cell.run_ids),
                    "fingerprints": _joined(run.fingerprint for run in of_cell),
                    "commits": _joined(dict.fromkeys(run.commit for run in of_cell if run.commit)),
                    "experiment_ids": _joined(cell.experiments),
                    "experiments": "; ".join(names[item] for item in cell.experiments if item in names),
                    "last_ended_at": ended[-1].isoformat() if ended else "",
                    "version": board.version,
                    "made_at": board.made_at.isoformat(),
                    "address": board.address,
                }
            )
    return found


def provenance(board: Leaderboard) -> list[str]:
    """Return where the numbers come from, in sentences."""
    names = ", ".join(f"{item.name} ({item.id})" for item in board.experiments)
    made = f"Made {board.made_at:%Y-%m-%d %H:%M} UTC by DKD Lab {board.version}"
    commits = sorted({run.commit[:12] for run in board.runs if run.commit})
    code = f"; trained by the code of commit {', '.join(commits)}" if commits else ""
    tuned = [item for item in board.experiments if item.trials]
    at = f" at {board.address}" if board.address else ""
    sentences = [f"{made}{at} from {count_text(len(board.runs), 'run')}{code}."]
    if names:
        sentences.append(f"Experiments: {names}.")
    sentences += [
        f"{item.name}: up to {count_text(item.trials, 'trial')} per method, choice {item.choice[:12]}."
        for item in tuned
    ]
    return sentences


def _cell(cell: LeaderboardCell | None) -> Text:
    return Text(cell.text, bold=cell.verdict == "better") if cell else Text(NOTHING)


def _joined(values: Iterable[object]) -> str:
    return " ".join(map(str, values))
