"""The Teachers page: who there is, how good, who uses it, where its weights come from; uploads of one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from client import ApiError, BackendUnreachable
from common.formatting import NOTHING
from core.protocol.artifacts import UPLOAD, Upload, UploadList
from core.protocol.public import TeacherInfo
from dashboard import session, theme, wording
from dashboard.forms.widgets import empty_state, table
from dashboard.lists import bulk, paging, row_text
from dashboard.markup import escape

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FORM_MOST = 1 << 30
"""Bytes. The browser's file goes through this process's memory; a larger one goes by the command line."""
_MEGABYTE = 1 << 20
_ROWS = 200


def show() -> None:
    """Draw the page. ``/teachers?id=RUN`` has a teacher chosen, ``?find=cifar`` keeps those that match."""
    st.title("Teachers")
    bulk.show_message()
    known = session.fetch("teachers", lambda: session.client().teachers().items)
    session.show_outage(known.outage_since)
    teachers = known.value
    held = session.fetch("uploads", lambda: session.client().uploads()).value
    if not teachers:
        empty_state("There are no teachers yet. An experiment with one trains it, and later ones share it.")
    else:
        _list(teachers, held.items)
    _uploads(held)
    paging.rerun_on_change(
        "teachers",
        lambda: session.client().teachers().items,
        _signature,
        teachers,
        outage_since=known.outage_since,
        every=5.0,
    )


def _signature(teachers: Sequence[TeacherInfo]) -> int:
    return hash(tuple((item.run_id, item.state, item.top1, item.students, int(item.epoch)) for item in teachers))


def _list(teachers: Sequence[TeacherInfo], uploads: Sequence[Upload]) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        text = st.text_input(
            "Search",
            key="find",
            bind="query-params",
            icon=":material/search:",
            placeholder="model, data set, weights, run id",
            width=300,
        )
        states = st.multiselect(
            "State",
            sorted({item.state for item in teachers}),
            key="status",
            bind="query-params",
            placeholder="any",
            width=260,
        )
    names = {upload.sha256: upload.name for upload in uploads}
    kept = [
        item
        for item in teachers
        if (not states or item.state in states)
        and text.lower() in f"{item.model} {item.dataset} {source(item, names)} {item.run_id}".lower()
    ]
    if not kept:
        st.info("No teacher matches these filters.", icon=":material/filter_alt_off:")
        return
    shown = kept[:_ROWS]
    chosen = _chosen(shown)
    _actions(chosen, names)
    column = st.column_config
    st.dataframe(
        row_text.teacher_rows(shown, {item.run_id: source(item, names) for item in shown}),
        key=_table_key(shown),
        on_select="rerun",
        selection_mode="single-row",
        selection_default=_default(shown),
        hide_index=True,
        placeholder=NOTHING,
        height=min(36 * len(shown) + 40, 480),
        column_config={
            "State": column.TextColumn(width=110),
            "Model": column.TextColumn(width=140),
            "Data set": column.TextColumn(width=110),
            "Seed": column.NumberColumn(format="%d", width=60),
            "Test accuracy (%)": column.NumberColumn(format="%.2f", width=130),
            "Students (runs)": column.NumberColumn(format="%d", width=110),
            "Experiments": column.NumberColumn(format="%d", width=100),
            "Weights": column.TextColumn(width=240),
            "Created": column.DatetimeColumn(format="distance", width=120),
            "Reason": column.TextColumn(width=260),
        },
    )
    more = f", the newest {_ROWS} of them shown: search to find others" if len(kept) > _ROWS else ""
    st.caption(f"{wording.counted(len(kept), 'teacher')}{more}")


def source(item: TeacherInfo, uploads: Mapping[str, str]) -> str:
    """Where a teacher's weights come from, in words."""
    if item.weights is None:
        return f"trained here, {item.total_epochs} epochs"
    name = item.weights
    if name.startswith(UPLOAD):
        sha256 = name.removeprefix(UPLOAD)
        name = f"upload {uploads[sha256]}" if sha256 in uploads else f"an upload that was deleted ({sha256[:8]}…)"
    elif name == "pretrained":
        name = "published weights"
    return f"{name}, trained on" if item.fine_tuned else name


def _table_key(shown: Sequence[TeacherInfo]) -> str:
    return f"teachers.table.{hash(tuple(item.run_id for item in shown))}"


def _default(shown: Sequence[TeacherInfo]) -> Any:
    wanted = st.query_params.get("id")
    return {"selection": {"rows": [row for row, item in enumerate(shown) if item.run_id == wanted]}}


def _chosen(shown: Sequence[TeacherInfo]) -> TeacherInfo | None:
    """The chosen teacher, whose run is in the address."""
    table = st.session_state.get(_table_key(shown))
    if table is not None:
        rows = table["selection"]["rows"]
        if rows and rows[0] < len(shown):
            st.query_params["id"] = shown[rows[0]].run_id
        else:
            st.query_params.pop("id", None)
    wanted = st.query_params.get("id")
    return next((item for item in shown if item.run_id == wanted), None)


def _actions(chosen: TeacherInfo | None, names: Mapping[str, str]) -> None:
    """What can be done with the chosen one. Always drawn, so that the table does not jump."""
    run, example = (chosen.run_id, chosen.example) if chosen else (None, None)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        session.action_link("run", "Its run", "show_chart", {"id": run} if run else None)
        session.action_link("runs", "Its students", "list", {"teacher": run} if run else None)
        session.action_link(
            "new",
            "Use in a new experiment",
            "add_circle",
            {"clone": example} if example else None,
            hint="The form opens with the newest experiment that uses it, and keeps the teacher until you choose to "
            "train one.",
        )
        if chosen is None:
            st.caption("Choose a row at its left edge.")
        else:
            what = escape(f"{chosen.model} on {chosen.dataset}")
            st.caption(
                f"Chosen: {what}, seed {chosen.seed:d} {theme.badge(chosen.state)} " + escape(source(chosen, names))
            )


def _uploads(held: UploadList) -> None:
    st.subheader("Uploaded weights")
    _form(held.max_bytes)
    if not held.items:
        st.caption("Nothing has been uploaded yet. A spec names an upload as `weights: upload:NAME`.")
        return
    table(row_text.upload_rows(held.items), wrap=True)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox("Upload", [item.name for item in held.items], key="teachers.upload", width=300)
        session.action_link("new", "Use in a new experiment", "add_circle", {"teacher": name})
        if st.button("Delete …", icon=":material/delete:", key="teachers.delete"):
            _ask_to_delete(name)
    st.caption("In the spec of an experiment; the model is the one that these weights are of:")
    st.code(f'teacher: {{model: MODEL, weights: "{UPLOAD}{name}"}}', language="yaml")


@st.dialog("Delete these weights?")
def _ask_to_delete(name: str) -> None:
    st.markdown(f"**{escape(name)}** is gone then. Teachers that were made of it keep their own copy.")
    if st.button(
        "Delete",
        type="primary",
        on_click=bulk.on_click,
        args=([name], session.client().delete_upload, "upload", "deleted"),
        key="teachers.delete.sure",
    ):
        st.rerun()


def _form(max_bytes: int) -> None:
    most = min(max_bytes, _FORM_MOST)
    with st.expander("Upload weights", icon=":material/upload:"):
        file = st.file_uploader(
            "A safetensors file",
            type="safetensors",
            max_upload_size=max(most // _MEGABYTE, 1),
            key=f"teachers.file.{st.session_state.get('teachers.uploaded', 0)}",
        )
        larger = "" if most == max_bytes else f" Larger ones, up to {row_text.size(max_bytes)}: `dkd upload FILE`."
        st.caption(
            f"Up to {row_text.size(most)} here.{larger} `python -m core convert` makes one of a PyTorch checkpoint."
        )
        suggested = _suggested(file.name) if file else ""
        name = st.text_input(
            "Name", placeholder=suggested or "resnet56-cifar", key="teachers.name", help="How specs name it."
        )
        name = (name or suggested).strip()
        wrong = bool(name) and not _NAME.fullmatch(name)
        if wrong:
            text = "Letters, digits and . _ - only, beginning with one of the first two; at most 100."
            st.markdown(f":small[:red[:material/error: {text}]]")
        ready = file is not None and bool(name) and not wrong
        if st.button("Upload", type="primary", disabled=not ready, key="teachers.send") and file is not None:
            with st.spinner("The backend checks the file …"):
                _send(file, name)
        said = st.session_state.pop("teachers.said", "")
        if said:
            st.error(escape(said), icon=":material/error:")


def _suggested(file_name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", file_name.removesuffix(".safetensors")).lstrip("._-")[:100]


def _send(file: Any, name: str) -> None:
    try:
        made = session.client().upload_teacher(file, name=name)
    except (ApiError, BackendUnreachable) as error:
        st.session_state["teachers.said"] = bulk.error_sentence(error)
        return
    st.session_state["teachers.uploaded"] = st.session_state.get("teachers.uploaded", 0) + 1
    bulk.set_message(f"{made.name} is here: {made.parameters:,} numbers in {wording.counted(made.tensors, 'tensor')}.")
    st.rerun()
