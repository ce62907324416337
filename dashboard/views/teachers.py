"""The Teachers page: all teachers with their results, students and source of weights; and the uploaded weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from client import ApiError, BackendUnreachable
from common.formatting import NOTHING, size_text
from core.protocol.artifacts import UPLOAD, Upload, UploadList
from core.protocol.public import TeacherInfo
from dashboard import session, theme, wording
from dashboard.forms.widgets import empty_state, table
from dashboard.lists import bulk, paging, row_text
from dashboard.markup import escape

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_FORM_BYTES = 1 << 30
"""Size limit of an upload in the browser, which passes through this process's memory.

``dkd upload`` uploads larger files.
"""
_MEGABYTE = 1 << 20
_ROWS = 200


def show() -> None:
    """Draw the page. ``/teachers?id=RUN`` selects a teacher, ``?find=cifar`` searches."""
    st.title("Teachers")
    bulk.show_message()
    reply = session.fetch("teachers", lambda: session.client().teachers().items)
    session.show_outage(reply.outage_since)
    teachers = reply.value
    uploads = session.fetch("uploads", lambda: session.client().uploads()).value
    if not teachers:
        empty_state("There are no teachers yet. An experiment trains its teacher, and later experiments reuse it.")
    else:
        _list(teachers, uploads.items)
    _uploads(uploads)
    paging.rerun_on_change(
        "teachers",
        lambda: session.client().teachers().items,
        _signature,
        teachers,
        outage_since=reply.outage_since,
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
    matching = [
        item
        for item in teachers
        if (not states or item.state in states)
        and text.lower() in f"{item.model} {item.dataset} {source(item, names)} {item.run_id}".lower()
    ]
    if not matching:
        st.info("No teacher matches these filters.", icon=":material/filter_alt_off:")
        return
    shown = matching[:_ROWS]
    _actions(_selected_teacher(shown), names)
    column = st.column_config
    headlines = session.headline_labels(item.headline for item in shown)
    st.dataframe(
        row_text.teacher_rows(shown, {item.run_id: source(item, names) for item in shown}, headlines),
        key=_table_key(shown),
        on_select="rerun",
        selection_mode="single-row",
        selection_default=_default_selection(shown),
        hide_index=True,
        placeholder=NOTHING,
        height=min(36 * len(shown) + 40, 480),
        column_config={
            "State": column.TextColumn(width=110),
            "Model": column.TextColumn(width=140),
            "Data set": column.TextColumn(width=110),
            "Seed": column.NumberColumn(format="%d", width=60),
            **{title: column.NumberColumn(format="%.2f", width=130) for title in headlines.values()},
            "Students (runs)": column.NumberColumn(format="%d", width=110),
            "Experiments": column.NumberColumn(format="%d", width=100),
            "Weights": column.TextColumn(width=240),
            "Created": column.DatetimeColumn(format="distance", width=120),
            "Reason": column.TextColumn(width=260),
        },
    )
    more = f" (showing the newest {_ROWS}; search to find others)" if len(matching) > _ROWS else ""
    st.caption(f"{wording.counted(len(matching), 'teacher')}{more}")


def source(item: TeacherInfo, uploads: Mapping[str, str]) -> str:
    """Return the source of a teacher's weights as text."""
    if item.weights is None:
        return f"trained here, {item.total_epochs} epochs"
    name = item.weights
    if name.startswith(UPLOAD):
        sha256 = name.removeprefix(UPLOAD)
        name = f"upload {uploads[sha256]}" if sha256 in uploads else f"deleted upload ({sha256[:8]}…)"
    elif name == "pretrained":
        name = "published weights"
    return f"{name}, fine-tuned" if item.fine_tuned else name


def _table_key(shown: Sequence[TeacherInfo]) -> str:
    return f"teachers.table.{hash(tuple(item.run_id for item in shown))}"


def _default_selection(shown: Sequence[TeacherInfo]) -> Any:
    """Return the table's initial selection: the row of the teacher whose run id is in the address."""
    run_id = st.query_params.get("id")
    return {"selection": {"rows": [row for row, item in enumerate(shown) if item.run_id == run_id]}}


def _selected_teacher(shown: Sequence[TeacherInfo]) -> TeacherInfo | None:
    """Copy the run id of the selected row into the address; return the teacher with the run id in the address."""
    table = st.session_state.get(_table_key(shown))
    if table is not None:
        rows = table["selection"]["rows"]
        if rows and rows[0] < len(shown):
            st.query_params["id"] = shown[rows[0]].run_id
        else:
            st.query_params.pop("id", None)
    run_id = st.query_params.get("id")
    return next((item for item in shown if item.run_id == run_id), None)


def _actions(selected: TeacherInfo | None, names: Mapping[str, str]) -> None:
    """Draw the actions on the selected teacher. They are always drawn, so that the table does not move."""
    run, example = (selected.run_id, selected.example) if selected else (None, None)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        session.action_link("run", "Open run", "show_chart", {"id": run} if run else None)
        session.action_link("runs", "Students", "list", {"teacher": run} if run else None)
        session.action_link(
            "new",
            "Use in a new experiment",
            "add_circle",
            {"clone": example} if example else None,
            hint="Opens the form with a copy of the newest experiment that uses this teacher. The copy keeps the "
            "teacher unless you choose to train a new one.",
        )
        if selected is None:
            st.caption("Select a row with the check box on the left.")
        else:
            network = escape(f"{selected.model} on {selected.dataset}")
            st.caption(
                f"Selected: {network}, seed {selected.seed:d} {theme.badge(selected.state)} "
                + escape(source(selected, names))
            )


def _uploads(uploads: UploadList) -> None:
    st.subheader("Uploaded weights")
    _upload_form(uploads.max_bytes)
    if not uploads.items:
        st.caption("There are no uploads yet. A spec refers to an upload as `weights: upload:NAME`.")
        return
    table(row_text.upload_rows(uploads.items), wrap=True)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox("Upload", [item.name for item in uploads.items], key="teachers.upload", width=300)
        session.action_link("new", "Use in a new experiment", "add_circle", {"teacher": name})
        if st.button("Delete …", icon=":material/delete:", key="teachers.delete"):
            _ask_to_delete(name)
    st.caption("Use in a spec; MODEL must be the model of these weights:")
    st.code(f'teacher: {{model: MODEL, weights: "{UPLOAD}{name}"}}', language="yaml")


@st.dialog("Delete these weights?")
def _ask_to_delete(name: str) -> None:
    st.markdown(f"This deletes **{escape(name)}**. Teachers that use these weights keep their own copy.")
    if st.button(
        "Delete",
        type="primary",
        on_click=bulk.on_click,
        args=([name], session.action_client().delete_upload, "upload", "deleted"),
        key="teachers.delete.sure",
    ):
        st.rerun()


def _upload_form(max_bytes: int) -> None:
    form_limit = min(max_bytes, _MAX_FORM_BYTES)
    with st.expander("Upload weights", icon=":material/upload:"):
        file = st.file_uploader(
            "Safetensors file",
            type="safetensors",
            max_upload_size=max(form_limit // _MEGABYTE, 1),
            key=f"teachers.file.{st.session_state.get('teachers.uploaded', 0)}",
        )
        larger = "" if form_limit == max_bytes else f" For files up to {size_text(max_bytes)}, use `dkd upload FILE`."
        st.caption(f"At most {size_text(form_limit)}.{larger} `python -m core convert` converts a PyTorch checkpoint.")
        suggested = _suggested_name(file.name) if file else ""
        name = st.text_input(
            "Name", placeholder=suggested or "resnet56-cifar", key="teachers.name", help="Name of the upload in specs."
        )
        name = (name or suggested).strip()
        invalid = bool(name) and not _NAME.fullmatch(name)
        if invalid:
            text = "Use letters, digits and . _ -, starting with a letter or digit, at most 100 characters."
            st.markdown(f":small[:red[:material/error: {text}]]")
        ready = file is not None and bool(name) and not invalid
        if st.button("Upload", type="primary", disabled=not ready, key="teachers.send") and file is not None:
            with st.spinner("Uploading and checking the file …"):
                _upload(file, name)
        message = st.session_state.pop("teachers.message", "")
        if message:
            st.error(escape(message), icon=":material/error:")


def _suggested_name(file_name: str) -> str:
    """Return the file's name without its suffix, with the characters that an upload's name may contain."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", file_name.removesuffix(".safetensors")).lstrip("._-")[:100]


def _upload(file: Any, name: str) -> None:
    try:
        upload = session.client().upload_teacher(file, name=name)
    except (ApiError, BackendUnreachable) as error:
        st.session_state["teachers.message"] = bulk.error_sentence(error)
        return
    st.session_state["teachers.uploaded"] = st.session_state.get("teachers.uploaded", 0) + 1
    tensors = wording.counted(upload.tensors, "tensor")
    bulk.set_message(f"{upload.name} uploaded: {upload.parameters:,} parameters in {tensors}.")
    st.rerun()
