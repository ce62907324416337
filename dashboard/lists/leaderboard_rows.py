"""Rows of the Leaderboard page, as pure functions."""

from __future__ import annotations

from urllib.parse import urlencode

from common.formatting import NOTHING, difference_text, p_text
from core.protocol.leaderboards import FewerMethods, Leaderboard, LeaderboardCell, LeaderboardSetting
from dashboard import wording
from dashboard.markup import escape

_MAX_RUNS = 60
"""Greatest number of runs in a link."""
_MAX_LINKS = 8
"""Links to experiments of one setting."""
_NO_BREAK_SPACE = "\u00a0"


def table_rows(board: Leaderboard) -> list[dict[str, str]]:
    """Return one row per method and one column per setting, in Markdown; the last row names the experiments."""
    cells = board.cells
    rows = [
        {"Method": escape(method.label), "Mean rank": method.rank_text.replace(" ", _NO_BREAK_SPACE)}
        | {escape(setting.heading): cell_text(cells.get((setting.title, method.label))) for setting in board.settings}
        for method in board.methods
    ]
    foot = {"Method": "", "Mean rank": ""} | {
        escape(setting.heading): setting_text(setting) for setting in board.settings
    }
    return [*rows, foot]


def cell_text(cell: LeaderboardCell | None) -> str:
    """Return a cell with a link to its runs, or to its experiment if it has many; bold if it is better."""
    if cell is None:
        return NOTHING
    if cell.mean is None:
        return f"{NOTHING} {escape(cell.reason)}" if cell.reason else NOTHING
    text = cell.text.replace(" ", _NO_BREAK_SPACE)
    shown = f"**{text}**" if cell.verdict == "better" else text
    if len(cell.run_ids) <= _MAX_RUNS:
        address = f"compare?{urlencode([('run', run) for run in cell.run_ids])}"
    else:
        address = f"experiment?{urlencode({'id': cell.experiments[0]})}"
    return f"[{shown}]({address})"


def setting_text(setting: LeaderboardSetting) -> str:
    """Return the number of common seeds or why the setting does not count, with links to its experiments."""
    seeds = wording.counted(len(setting.common_seeds), "common seed")
    text = seeds if setting.counted else escape(setting.reason)
    links = " ".join(
        f"[{number}](compare?{urlencode({'experiment': experiment})})"
        for number, experiment in enumerate(setting.experiments[:_MAX_LINKS], 1)
    )
    return f"{text} · {links}"


def comparison_rows(board: Leaderboard) -> list[dict[str, str]]:
    """Return the comparisons with the baseline, one row for each method and setting."""
    return [
        {
            "Setting": setting.title,
            "Method": cell.label,
            "Pairs": str(cell.pairs),
            f"Difference to {board.baseline}": difference_text(cell.mean_difference, cell.difference_interval),
            "p alone": p_text(cell.p),
            "p after Holm": p_text(cell.p_holm),
            "Verdict": cell.verdict or NOTHING,
        }
        for setting in board.settings
        for cell in setting.cells
        if cell.pairs
    ]


def pair_rows(board: Leaderboard) -> list[dict[str, str]]:
    """Return the pairs of methods with their signed-rank tests."""
    return [
        {
            "First": pair.first,
            "Second": pair.second,
            "First better / worse / equal": f"{pair.wins} / {pair.losses} / {pair.ties}",
            "p alone": p_text(pair.p),
            "p after Holm": p_text(pair.p_holm),
            "Differ": "yes" if pair.differs else "not shown",
        }
        for pair in (board.ranking.pairs if board.ranking else ())
    ]


def fewer_text(item: FewerMethods, settings: int) -> str:
    """Return what leaving methods out gives, in Markdown."""
    names = ", ".join(f"**{escape(label)}**" for label in item.without)
    return f"Without {names}, {item.settings} of {wording.counted(settings, 'setting')} count for the ranks."
