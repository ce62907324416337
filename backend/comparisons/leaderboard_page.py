"""A leaderboard as one HTML page with figures, which opens without a backend and loads nothing."""

from __future__ import annotations

from backend.comparisons.leaderboard_render import provenance
from common import rank_figures
from common.formatting import NOTHING, count_text, difference_text, p_text, signed
from common.html_page import data_block, folded, markup_table, page, table, text
from common.rank_figures import RankedLabel
from core.protocol.leaderboards import Leaderboard


def html(board: Leaderboard) -> str:
    """Return the page: figures, table, tests, notes, provenance, and all of it as JSON."""
    title = f"Leaderboard of {board.task}"
    parts = [
        f"<h1>{text(title)}</h1>",
        f'<p class="quiet">{text(provenance(board)[0])}</p>',
        f"<p>{text(summary(board))}</p>",
        _figures(board),
        f"<h2>Results</h2>{_results(board)}",
        _list(board.notes),
        _pairs(board),
        _against_baseline(board),
        _provenance(board),
        data_block("leaderboard", board.model_dump(mode="json")),
    ]
    return page(title, "".join(parts))


def summary(board: Leaderboard) -> str:
    """Return the size of the leaderboard in a sentence."""
    counted = f", of which {board.counted} count for the ranks" if board.counted < len(board.settings) else ""
    settings = count_text(len(board.settings), "setting")
    baseline = f", compared with {board.baseline}" if board.baseline else ""
    return f"{count_text(len(board.methods), 'method')} in {settings}{counted}{baseline}. Values are of the last epoch."


def ranked_labels(board: Leaderboard) -> list[RankedLabel]:
    """Return the methods that have a mean rank, in its order."""
    return [
        RankedLabel(
            method.label,
            method.mean_rank,
            method.interval.low if method.interval else None,
            method.interval.high if method.interval else None,
        )
        for method in board.methods
        if method.mean_rank is not None
    ]


def _figures(board: Leaderboard) -> str:
    methods = ranked_labels(board)
    if board.ranking is None or len(methods) < 2:
        return ""
    parts = ["<h2>Ranks</h2>", f"<figure>{rank_figures.mean_ranks(methods)}</figure>"]
    if board.ranking.pairs:
        drawn = rank_figures.critical_difference(methods, board.ranking.cliques, board.ranking.critical_difference)
        parts.append(f"<figure>{drawn}</figure>")
    return "".join(parts)


def _results(board: Leaderboard) -> str:
    if not board.settings:
        return "<p>There are no results.</p>"
    cells = board.cells
    titles = ["method", "mean rank", *(setting.heading for setting in board.settings)]
    rows = []
    for method in board.methods:
        row = [text(method.label), text(method.rank_text)]
        for setting in board.settings:
            cell = cells.get((setting.title, method.label))
            shown = text(cell.text if cell else NOTHING)
            row.append(f"<b>{shown}</b>" if cell and cell.verdict == "better" else shown)
        rows.append(row)
    seeds = [
        text(f"{len(setting.common_seeds)} common seeds" if setting.counted else setting.reason)
        for setting in board.settings
    ]
    return markup_table(titles, [*rows, ["", "", *seeds]])


def _pairs(board: Leaderboard) -> str:
    if board.ranking is None or not board.ranking.pairs:
        return ""
    rows = [
        [
            f"{pair.first} – {pair.second}",
            f"{pair.wins} better, {pair.losses} worse, {pair.ties} equal",
            p_text(pair.p),
            p_text(pair.p_holm),
            "differ" if pair.differs else "not shown to differ",
        ]
        for pair in board.ranking.pairs
    ]
    titles = ["pair", f"first method in {count_text(board.ranking.units, board.ranking.unit)}", "p", "p after Holm", ""]
    return f"<h2>Pairs of methods</h2>{table(titles, rows)}"


def _against_baseline(board: Leaderboard) -> str:
    rows = [
        [
            setting.title,
            cell.label,
            str(cell.pairs),
            difference_text(cell.mean_difference, cell.difference_interval),
            p_text(cell.p),
            p_text(cell.p_holm),
            cell.verdict or NOTHING,
        ]
        for setting in board.settings
        for cell in setting.cells
        if cell.pairs
    ]
    if not rows:
        return ""
    titles = ["setting", "method", "pairs", "difference, 95 % t interval", "p", "p after Holm", "verdict"]
    return f"<h2>{text(f'Against {board.baseline}')}</h2>{table(titles, rows)}"


def _provenance(board: Leaderboard) -> str:
    experiments = [
        [
            item.name,
            item.id,
            f"{item.created_at:%Y-%m-%d %H:%M} UTC",
            ", ".join(item.tags),
            str(item.trials) if item.trials else NOTHING,
            item.choice[:12] or NOTHING,
        ]
        for item in board.experiments
    ]
    runs = [
        [
            run.setting,
            run.label,
            str(run.seed),
            signed(run.value).lstrip("+"),
            run.id,
            run.experiment_id,
            run.fingerprint,
            run.commit[:12] or NOTHING,
            f"{run.ended_at:%Y-%m-%d %H:%M} UTC" if run.ended_at else NOTHING,
        ]
        for run in board.runs
    ]
    titles = ["setting", "method", "seed", "value", "run", "experiment", "fingerprint of the spec", "commit", "ended"]
    return (
        f"<h2>Provenance</h2>{_list(provenance(board))}"
        + table(["experiment", "id", "created", "tags", "trials per method", "choice"], experiments)
        + folded(count_text(len(runs), "run"), table(titles, runs))
    )


def _list(sentences: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{text(sentence)}</li>' for sentence in sentences)}</ul>"
