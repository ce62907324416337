"""The progress of teachers for which students wait."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import streamlit as st

from common.formatting import share_text
from core.protocol.public import TERMINAL, RunSummary
from dashboard import session, theme, wording
from dashboard.lists import row_text
from dashboard.markup import escape


def draw(runs: Sequence[RunSummary]) -> None:
    """Draw a bar for each teacher that has not ended, with the number of students that wait for it.

    Args:
        runs: Students and teachers.
    """
    for teacher in unfinished(runs):
        share = row_text.progress(teacher)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.progress(share, text=escape(sentence(teacher, waiting(teacher, runs))))
            st.page_link(
                session.page("run"),
                label="Its curves",
                icon=":material/school:",
                query_params={"id": teacher.id},
                width="content",
            )


def unfinished(runs: Iterable[RunSummary]) -> list[RunSummary]:
    """Return each teacher that has not ended, once."""
    return list({run.id: run for run in runs if run.role == "teacher" and run.state not in TERMINAL}.values())


def waiting(teacher: RunSummary, runs: Iterable[RunSummary]) -> int:
    """Return the number of students that wait for a teacher."""
    return len({run.id for run in runs if run.state == "waiting" and run.teacher_run_id == teacher.id})


def sentence(teacher: RunSummary, students: int) -> str:
    """Return the progress of a teacher in words.

    Args:
        teacher: The teacher.
        students: Number of students that wait for it.
    """
    name = f"Teacher {teacher.model}, seed {teacher.seed}"
    state = theme.state_text(teacher.state)
    epochs = f"{teacher.total_epochs:,}" if teacher.total_epochs else "?"
    done = f"epoch {teacher.epoch:.1f} of {epochs}, {share_text(row_text.progress(teacher))}"
    progress = done if teacher.step else "not started yet"
    verb = "waits" if students == 1 else "wait"
    waits = f"; {wording.counted(students, 'student')} {verb} for it" if students else ""
    return f"{name}: {state}, {progress}{waits}"
