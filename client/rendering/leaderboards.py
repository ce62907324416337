"""A leaderboard in a terminal: methods by their mean ranks, one column per setting, and the tests."""

from __future__ import annotations

import shlex

from rich.console import Group, RenderableType
from rich.text import Text

from client.rendering.tables import new_table
from common.formatting import NOTHING, p_text
from core.protocol.leaderboards import Leaderboard, LeaderboardCell, RankPair

_STYLES = {"better": "bold green", "worse": "red"}
_MAX_PAIRS = 15


def render_leaderboard(board: Leaderboard) -> RenderableType:
    """Return the table, the pairs of methods that differ, and the notes; without methods the notes alone."""
    if not board.methods:
        return Group(*(Text(note) for note in board.notes))
    titles = [setting.heading for setting in board.settings]
    table = new_table("method", "mean rank", *titles, numbers=("mean rank", *titles))
    cells = board.cells
    for method in board.methods:
        row = [_cell(cells.get((setting.title, method.label))) for setting in board.settings]
        table.add_row(method.label, method.rank_text, *row)
    lines = [*_pair_lines(board), *board.notes, *_fewer_lines(board)]
    return Group(table, Text(), *(Text(line) for line in lines))


def _cell(cell: LeaderboardCell | None) -> Text:
    return Text(cell.text, style=_STYLES.get(cell.verdict or "", "")) if cell else Text(NOTHING)


def _pair_lines(board: Leaderboard) -> list[str]:
    pairs = board.ranking.pairs if board.ranking else []
    differing = [pair for pair in pairs if pair.differs]
    if not pairs:
        return []
    if not differing:
        return ["No pair of methods is shown to differ."]
    more = [f"… and {len(differing) - _MAX_PAIRS} more pairs"] if len(differing) > _MAX_PAIRS else []
    return ["Pairs of methods that differ:", *map(_pair_line, differing[:_MAX_PAIRS]), *more]


def _pair_line(pair: RankPair) -> str:
    counts = f"{pair.wins} better, {pair.losses} worse, {pair.ties} equal"
    return f"  {pair.first} – {pair.second}: {counts}; p = {p_text(pair.p_holm)} after Holm"


def _fewer_lines(board: Leaderboard) -> list[str]:
    return [
        f"{item.settings} of {len(board.settings)} settings count without {', '.join(item.without)}: add "
        + " ".join(f"--without {shlex.quote(label)}" for label in item.without)
        for item in board.fewer
    ]
