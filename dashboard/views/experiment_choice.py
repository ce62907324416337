"""How the settings of an experiment's methods were chosen, on its page."""

from __future__ import annotations

from typing import Any

import streamlit as st

from common.formatting import value_text
from core.protocol.public import ChosenSettings, Experiment
from dashboard import session
from dashboard.forms.widgets import table
from dashboard.markup import escape


def draw(experiment: Experiment) -> None:
    """Draw the choice, or what it waits for; nothing if the spec gives the settings."""
    choice, tune = experiment.choice, experiment.spec.get("tune")
    if choice is None and not tune:
        return
    st.subheader("Choice of settings")
    if choice is None:
        ended = sum(run.trial and run.role == "student" and run.ended_at is not None for run in experiment.runs)
        items = f"{escape(session.item(experiment.dataset))}s"
        trials = sum(run.trial and run.role == "student" for run in experiment.runs)
        st.caption(
            f"{ended:,} of {trials:,} runs of the trials have ended. They are measured on {items} held out of the "
            f"training {items}. When all have ended, each method gets the settings that were best, and the runs of the "
            "experiment follow."
        )
    elif choice.error:
        st.error(escape(choice.error), icon=":material/error:")
        st.caption("Retry a trial to choose again, or clone the experiment.")
    else:
        st.caption(escape(choice.sentences[0]))
        metric = next((item for item in session.catalog().metrics if item["name"] == choice.metric), {})
        table([_row(chosen, metric.get("title", choice.metric), metric.get("unit", "")) for chosen in choice.methods])


def _row(chosen: ChosenSettings, title: str, unit: str) -> dict[str, Any]:
    searched = ", ".join(f"{path.rpartition('.')[2]} = {value}" for path, value in chosen.settings.items())
    first = chosen.score_of_spec
    return {
        "Method": chosen.label,
        "Best trial": f"{chosen.trial} of {chosen.trials}" if searched else "nothing to search",
        "Settings": searched,
        title: value_text(chosen.score, unit, 2),
        "With the settings of the spec": "" if first is None else value_text(first, unit, 2),
    }
