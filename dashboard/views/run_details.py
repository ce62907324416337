"""The static tabs of the Run page: attempts, spec, environment, files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import streamlit as st

from common.formatting import size_text
from core.protocol.artifacts import Artifact
from core.protocol.public import Run
from dashboard import session
from dashboard.forms import spec_yaml
from dashboard.forms.widgets import table
from dashboard.lists import row_text
from dashboard.markup import escape

_MAX_BYTES = 512 * 2**20
"""Size limit of a file that the page offers for download.

The download passes through the dashboard's memory. For larger files, the page shows the command that writes them to
disk.
"""


def attempts(run: Run) -> None:
    rows = row_text.attempt_rows(run.attempts, datetime.now(UTC))
    if rows:
        table(rows, wrap=True)
    else:
        st.caption("No worker has started this run yet.")


def spec(run: Run) -> None:
    st.code(spec_yaml.yaml_of(run.spec), language="yaml", wrap_lines=True)


def environment(run: Run) -> None:
    item = session.item(run.dataset)
    facts = {
        "Parameters": f"{run.parameters:,}" if run.parameters else "",
        f"Training {item}s": f"{run.train_size:,}" if run.train_size else "",
        f"Test {item}s": f"{run.test_size:,}" if run.test_size else "",
        "Created (UTC)": row_text.timestamp(run.created_at),
        "Started (UTC)": row_text.timestamp(run.started_at),
        "Ended (UTC)": row_text.timestamp(run.ended_at),
        "Fingerprint": run.fingerprint,
        "Weights": run.weights,
        **run.environment,
    }
    table([{"Property": name, "Value": str(value)} for name, value in facts.items() if value], wrap=True)


def files(run: Run) -> None:
    """Draw the files of all attempts. The list is requested when the tab is opened and when the run's state changes."""
    stored: tuple[tuple[str, str, int], list[Artifact]] | None = st.session_state.get("run.files")
    key = (run.id, run.state, run.attempt)
    if stored is None or stored[0] != key:
        stored = (key, session.client().artifacts(run.id).items)
        st.session_state["run.files"] = stored
    if not stored[1]:
        st.caption("This run has no files yet.")
        return
    for item in stored[1]:
        with st.container(horizontal=True, vertical_alignment="center"):
            if item.size <= _MAX_BYTES:
                st.download_button(
                    escape(PurePosixPath(item.name).name),
                    _content(run.id, item.id),
                    file_name=PurePosixPath(item.name).name,
                    mime="application/octet-stream",
                    icon=":material/download:",
                    on_click="ignore",
                    key=f"run.file.{item.id}",
                )
            else:
                st.code(f"dkd download {run.id} {item.name}", language=None)
            st.caption(escape(f"{item.name}, attempt {item.attempt}, {size_text(item.size)}"), width="content")


def _content(run_id: str, artifact_id: str) -> Callable[[], BinaryIO]:
    """Return a function that downloads the file. A download button calls it when a person presses the button."""
    client = session.client()  # created here, since the download runs outside the session that holds the token

    def fetch() -> BinaryIO:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            client.download(run_id, artifact_id, path)
            return path.open("rb")  # an open file stays readable after its folder has been deleted

    return fetch
