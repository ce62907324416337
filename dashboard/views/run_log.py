"""The log on the Run page: searched and filtered by the backend, in the time zone of the browser or in UTC."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, timedelta, timezone, tzinfo
from pathlib import Path
from typing import BinaryIO
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from client import Client
from core.protocol.metrics import LOG_LEVELS
from core.protocol.public import TERMINAL, LogLine, LogsReply, Run
from dashboard import session, wording
from dashboard.lists import row_text
from dashboard.markup import escape, html

PAGE_LINES = 200
"""Number of lines that the page shows at once."""
_REFRESH_SECONDS = 5.0
"""Interval between two searches while the log grows. Lines without a search come with the page's own refresh."""
_MAX_CHARACTERS = 200
_LOCAL, _UTC = "Browser", "UTC"
_ZONE = "zone"


@dataclass(frozen=True)
class _Choice:
    """What a person looks for.

    Attributes:
        search: Text that the lines contain, in any case; empty for all.
        levels: Levels of the lines; empty for all.
    """

    search: str = ""
    levels: tuple[str, ...] = ()

    @property
    def filters(self) -> bool:
        return bool(self.search or self.levels)


def draw(run: Run, lines: Sequence[LogLine]) -> None:
    """Draw the tab.

    Args:
        run: The run.
        lines: The newest lines of its log, as the page has them already.
    """
    if not lines and not run.log_tail:
        st.caption("The log is empty so far." if run.state not in TERMINAL else "The log is empty.")
        return
    if not lines:
        st.caption("The run has no log. The worker reported these lines with the failure:")
        st.html(f'<pre class="dkd-tail">{_plain(run.log_tail)}</pre>')
        return
    choice, zone = _controls(run)
    before = _page_of(run, choice)
    if choice.filters or before is not None:
        reply = _found(run, choice, before, lines[-1].number)
        shown, total = reply.lines, reply.total or 0
    else:
        shown, total = list(lines[-PAGE_LINES:]), lines[-1].number
    _position(run, choice, shown, total, before)
    if shown:
        with st.container(height=480, autoscroll=before is None, key=f"run.log.{'older' if before else 'newest'}"):
            st.html(f'<pre class="dkd-tail">{_marked_lines(shown, choice.search, zone, "%Y-%m-%d %H:%M:%S")}</pre>')


def draw_tail(run: Run, lines: Sequence[LogLine]) -> None:
    """Draw the last lines of the log below the curves, in the time zone that was chosen on the tab.

    ``st.code`` is not used, since the browser would load 1.5 MB of syntax highlighting before it draws the curves.
    """
    if lines:
        st.html(f'<pre class="dkd-tail">{_marked_lines(lines, "", _chosen_zone()[0], "%H:%M:%S")}</pre>')
    else:
        st.html(f'<pre class="dkd-tail">{_plain(run.log_tail)}</pre>')


def _controls(run: Run) -> tuple[_Choice, tzinfo]:
    """Draw the controls, whose values are kept in the address; return what is looked for, and the time zone."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        search = st.text_input(
            "Search the whole log",
            key="search",
            bind="query-params",
            max_chars=_MAX_CHARACTERS,
            placeholder="any text, upper or lower case",
            width=320,
        )
        levels = st.pills("Levels", LOG_LEVELS, selection_mode="multi", key="levels", bind="query-params")
        st.segmented_control("Time zone", (_LOCAL, _UTC), default=_LOCAL, required=True, key=_ZONE, bind="query-params")
        zone, zone_name = _chosen_zone()
        st.download_button(
            "Download the whole log",
            _content(run, zone),
            file_name=f"{wording.file_stem([f'{run.experiment[:40]} {row_text.run_title(run)}'], 'log')}.txt",
            mime="text/plain",
            icon=":material/download:",
            on_click="ignore",
            key="run.log.download",
        )
    st.caption(f"Times are in {escape(zone_name)}.")
    # Anybody can write a link, with signs that no log contains.
    printable = "".join(sign for sign in search or "" if sign.isprintable())
    return _Choice(printable.strip()[:_MAX_CHARACTERS], tuple(levels or ())), zone


def _chosen_zone() -> tuple[tzinfo, str]:
    """Return the time zone that was chosen, with its name; UTC if the browser's is not known."""
    if st.session_state.get(_ZONE, _LOCAL) == _UTC:
        return UTC, "UTC"
    name, offset = st.context.timezone, st.context.timezone_offset
    if name:
        try:
            return ZoneInfo(name), name
        except (ZoneInfoNotFoundError, ValueError, OSError):  # this machine has no data of zones, or not of this one
            pass
    if offset is not None:  # minutes from the local time to UTC
        return timezone(timedelta(minutes=-offset)), f"the browser's time zone, {-offset / 60:+g} h from UTC"
    return UTC, "UTC, because the browser did not tell its time zone"


def _page_of(run: Run, choice: _Choice) -> int | None:
    """Return the number before which the lines of the page end; None for the newest ones."""
    stored: tuple[str, _Choice, int | None] | None = st.session_state.get("run.log.page")
    if stored is None or stored[:2] != (run.id, choice):
        return None
    return stored[2]


def _turn(run: Run, choice: _Choice, before: int | None) -> None:
    st.session_state["run.log.page"] = (run.id, choice, before)


def _found(run: Run, choice: _Choice, before: int | None, newest: int) -> LogsReply:
    """Return the lines of a page, searched again only if the log has grown, and not at every refresh.

    Args:
        run: The run.
        choice: What is looked for.
        before: The lines have smaller numbers; None for the newest ones.
        newest: Number of the newest line of the log.
    """
    key = (run.id, choice, before)
    stored: tuple[object, int, float, LogsReply] | None = st.session_state.get("run.log.found")
    if stored and stored[0] == key and (stored[1] == newest or time.monotonic() - stored[2] < _REFRESH_SECONDS):
        return stored[3]
    client = session.client()
    reply = session.fetch(
        f"log {key}",
        lambda: client.runs.logs(
            run.id,
            before=before,
            limit=PAGE_LINES,
            tail=PAGE_LINES,
            search=choice.search,
            level=choice.levels or None,
            count=True,
        ),
    ).value
    st.session_state["run.log.found"] = (key, newest, time.monotonic(), reply)
    return reply


def _position(run: Run, choice: _Choice, shown: Sequence[LogLine], total: int, before: int | None) -> None:
    """Draw how many lines there are, and the buttons to older and newer ones."""
    count = wording.counted(len(shown), "line")
    if choice.filters and not total:
        st.info("No line of the log matches. Shorten the text, or choose other levels.", icon=":material/search_off:")
        return
    matching = f"{total:,} matching" if choice.filters else f"{total:,}"
    text = f"The last {count} of {matching}." if before is None else f"{count} before line {before:,}, of {matching}."
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(text if shown else "There are no older lines.", width="content")
        if len(shown) == PAGE_LINES and total > PAGE_LINES:
            older = (run, choice, shown[0].number)
            st.button("Older lines", icon=":material/arrow_upward:", key="run.log.older", on_click=_turn, args=older)
        if before is not None:
            newest = (run, choice, None)
            st.button("Newest lines", icon=":material/arrow_downward:", key="run.log.new", on_click=_turn, args=newest)


def _content(run: Run, zone: tzinfo) -> Callable[[], BinaryIO]:
    """Return a function that reads the whole log. A download button calls it when a person presses the button."""
    client = session.client()  # created here, since the download runs outside the session that holds the token

    def fetch() -> BinaryIO:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "log.txt"
            write_log(client, run.id, zone, path)
            return path.open("rb")  # an open file stays readable after its folder has been deleted

    return fetch


def write_log(client: Client, run_id: str, zone: tzinfo, path: Path) -> None:
    """Write a run's log to a file: time with its distance from UTC, attempt, level and message of each line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(
            f"{line.time.astimezone(zone).isoformat(timespec='milliseconds')} attempt {line.attempt} "
            f"{line.level.upper()} {line.message}\n"
            for line in client.runs.log_lines(run_id)
        )


def _plain(lines: Sequence[str]) -> str:
    return html("\n".join(lines))


def _marked_lines(lines: Sequence[LogLine], search: str, zone: tzinfo, form: str) -> str:
    """Return lines as HTML in which every place with the searched text is marked."""
    return "\n".join(
        f"{html(line.time.astimezone(zone).strftime(form))} {_level(line)}{_marked(line.message, search)}"
        for line in lines
    )


def _level(line: LogLine) -> str:
    return "" if line.level == "info" else f"{html(line.level.upper())} "


def _marked(text: str, search: str) -> str:
    if not search:
        return html(text)
    # The separators of a split are its odd parts.
    parts = re.split(f"({re.escape(search)})", text, flags=re.IGNORECASE)
    return "".join(f"<mark>{html(part)}</mark>" if at % 2 else html(part) for at, part in enumerate(parts))
