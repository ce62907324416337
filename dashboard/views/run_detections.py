"""The tab "Detections" of the Run page: AP by class, errors, calibration, and test images with their boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from client import ApiError
from core.protocol.detections import (
    DetectionImage,
    DetectionImages,
    DetectionKind,
    DetectionSource,
    ImageDetections,
)
from core.protocol.public import TERMINAL, Run
from dashboard import session
from dashboard.charts import chart_component, detection_figures, scenes
from dashboard.charts.bars import MOST_COLUMNS
from dashboard.curves.curve import Curve, RunCurves
from dashboard.lists import paging
from dashboard.markup import escape, html
from dashboard.wording import sentence

_PAGE_SIZE = 4
_ALL = ""
_SCORE = 0.5
_SECONDS = 600
_ROWS_HEIGHT = 520
"""Height in px of the part of the page in which many classes scroll."""
_OF_CLASS: Mapping[DetectionSource, str] = {"student": "ap_class/", "teacher": "ap_class_teacher/"}
"""Beginnings of the names of metrics; the name of a class follows."""
_LOST = "errors/"
"""Beginning of the names of the numbers of a file of detections that are AP lost to a kind of error."""


def show(run: Run, stored: RunCurves) -> None:
    """Draw the tab."""
    # The page redraws this part alone, so that the page's own boundary does not catch its errors.
    with session.error_boundary():
        _show(run, stored)


def _show(run: Run, stored: RunCurves) -> None:
    networks, item = _networks(run), session.item(run.dataset)
    about, problem = _about(run)
    _figures(stored, about, networks)
    st.markdown(f"**Test {escape(item)}s**")
    if about is None:
        st.info(escape(problem), icon=":material/image_search:")
    else:
        _images(run.id, about, networks, item)


def _networks(run: Run) -> dict[DetectionSource, str]:
    """Return the networks that a run may have, with their titles. A teacher's own run has one."""
    return {"student": "Teacher"} if run.role == "teacher" else {"teacher": "Teacher", "student": "Student"}


def _about(run: Run) -> tuple[DetectionImages | None, str]:
    """Return a summary of all test images; or None and the reason why there is none."""
    if run.state != "succeeded":
        ended = "This run ended before it wrote its detections."
        return (
            None,
            ended
            if run.state in TERMINAL
            else f"Boxes on test {escape(session.item(run.dataset))}s appear when the run has succeeded.",
        )
    try:
        return _fetched_page(run.id, _Filter(None, "student", None, _SCORE, False), None), ""
    except ApiError as error:
        if error.status not in (404, 409):
            raise
        return None, sentence(str(error))


@dataclass(frozen=True)
class _Filter:
    """What the controls select."""

    kind: DetectionKind | None
    source: DetectionSource
    label: str | None
    score: float
    pictured: bool


def _fetched_page(run_id: str, chosen: _Filter, cursor: str | None) -> DetectionImages:
    url = session.client().url
    return session.fetch(f"images of {run_id} {chosen} {cursor}", lambda: _page(url, run_id, chosen, cursor)).value


@st.cache_data(ttl=_SECONDS, max_entries=100, show_spinner=False)
def _page(url: str, run_id: str, chosen: _Filter, cursor: str | None) -> DetectionImages:
    return session.client().runs.detections(
        run_id,
        kind=chosen.kind,
        source=chosen.source,
        label=chosen.label,
        score=chosen.score,
        pictured=chosen.pictured,
        cursor=cursor,
        limit=_PAGE_SIZE,
    )


@st.cache_data(ttl=_SECONDS, max_entries=400, show_spinner=False)
def _image(url: str, run_id: str, item: int, score: float) -> ImageDetections:
    return session.client().runs.image_detections(run_id, item, score=score)


@st.cache_data(ttl=_SECONDS, max_entries=400, show_spinner=False)
def _picture(url: str, run_id: str, item: int) -> bytes:
    return session.client().runs.picture(run_id, item)


def _figures(stored: RunCurves, about: DetectionImages | None, networks: Mapping[DetectionSource, str]) -> None:
    """Draw the figures that there are numbers for."""
    by_class = {source: _ap_by_class(stored.curves, about, source) for source in networks}
    by_class = {source: values for source, values in by_class.items() if values}
    if by_class.get("student"):
        st.markdown("**AP by class**", help="Average precision over IoU 0.5 to 0.95 on the test images.")
        figure = detection_figures.ap_by_class_figure(by_class, networks)
        in_rows = len(by_class["student"]) > MOST_COLUMNS
        with st.container(height=_ROWS_HEIGHT if in_rows else "content", border=False):
            chart_component.chart(
                figure,
                key="run.ap-by-class",
                alt="AP of each class of this run and its teacher",
                filename="ap-by-class",
            )
    if about is None:
        return
    left, right = st.columns(2)
    with left:
        st.markdown(
            "**AP lost by kind of error**",
            help="How much higher AP at IoU 0.5 would be without the errors of one kind (TIDE). The numbers do not add "
            "up to the distance from 100 %, because errors hide each other.",
        )
        chart_component.chart(
            detection_figures.lost_ap_figure(*_lost_ap(about, networks)),
            key="run.lost-ap",
            alt="AP that each kind of error costs this run and its teacher",
            filename="ap-lost",
        )
    with right:
        st.markdown(
            "**Calibration of detections**",
            help="How many of the detections with a score are right at IoU 0.5. Below the dotted line, scores are too "
            "high. A larger marker stands for more detections. "
            f"Detections with a score below {about.least_score:.2f} were not kept.",
        )
        chart_component.chart(
            detection_figures.calibration_figure(about.calibration, networks),
            key="run.calibration",
            alt="Share of right detections over their score, of this run and its teacher",
            filename="calibration",
        )


def _ap_by_class(
    curves: Mapping[str, Curve], about: DetectionImages | None, source: DetectionSource
) -> dict[str, float]:
    """Return the newest AP of each class in %. Of more than 100 classes, a run reports none, and its file has them."""
    prefix = _OF_CLASS[source]
    newest = {name: curve.value[-1] for name, curve in curves.items() if name.startswith(prefix) and len(curve)}
    if not newest and about is not None:
        prefix = _OF_CLASS["student"]
        newest = {name: value for name, value in about.scores.get(source, {}).items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): value for name, value in newest.items()}


def _lost_ap(
    about: DetectionImages, networks: Mapping[DetectionSource, str]
) -> tuple[dict[DetectionSource, dict[str, float]], Mapping[DetectionSource, str], list[str]]:
    """Return the lost AP of each network by the title of the kind of error, the networks, and the titles."""
    titles = {f"{_LOST}{kind}": title for kind, title in about.kinds.items()}
    found = {
        source: {titles[name]: value for name, value in about.scores[source].items() if name in titles}
        for source in networks
        if source in about.scores
    }
    kinds = [title for title in titles.values() if any(title in values for values in found.values())]
    return found, networks, kinds


def _images(run_id: str, about: DetectionImages, networks: Mapping[DetectionSource, str], item: str) -> None:
    networks = {source: title for source, title in networks.items() if source in about.counts}
    chosen, items = _controls(about, networks, item), escape(f"{item}s")
    cursor = paging.page_cursor("run.images", {**vars(chosen), "run": run_id})
    page = _fetched_page(run_id, chosen, cursor)
    st.html(scenes.kinds_legend(page.kinds, page.counts, networks))
    if not about.pictures:
        st.caption(f"This run kept no pictures of its test {items}, so that the boxes are on an empty canvas.")
    if not page.items:
        st.info(f"No test {escape(item)} is left by these filters.", icon=":material/filter_alt_off:")
        return
    for found in page.items:
        _draw(run_id, found, page, chosen.score, networks, item)
    paging.page_controls("run.images", page, _PAGE_SIZE, f"test {item}")
    kept = "" if about.pictures >= about.images else f" Pictures of {about.pictures:,} of them were kept."
    st.caption(
        f"The run was tested on {about.images:,} {items}.{kept} Kinds of errors are those of TIDE at IoU 0.5. Point at "
        "a box to read what it is."
    )


def _controls(about: DetectionImages, networks: Mapping[DetectionSource, str], item: str) -> _Filter:
    """Draw the filters, whose values are kept in the address."""
    titles: dict[str, DetectionKind] = {title: kind for kind, title in about.kinds.items()}
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        score = st.slider(
            "Lowest score",
            about.least_score,
            1.0,
            _SCORE,
            0.05,
            key="score",
            bind="query-params",
            width=220,
            help=f"Detections with a lower score are hidden, and objects that only they found are missed. Detections "
            f"below {about.least_score:.2f} were not kept.",
        )
        title = st.selectbox(
            "With",
            [_ALL, *titles],
            format_func=lambda text: text or "any result",
            key="result",
            bind="query-params",
            width=220,
            help=f"Only {escape(item)}s in which the network has a detection of this kind, or missed an object.",
        )
        by: DetectionSource = "student"
        if len(networks) > 1:
            by = st.segmented_control(
                "Of", list(networks), default="student", required=True, key="of", bind="query-params"
            )
        label = st.selectbox(
            "Class",
            [_ALL, *about.classes],
            format_func=lambda text: text or "any class",
            key="class",
            bind="query-params",
            width=200,
        )
        pictured = bool(about.pictures) and st.toggle("With a picture", value=True, key="pictured", bind="query-params")
    return _Filter(titles.get(title), by, label or None, round(float(score), 4), pictured)


def _draw(
    run_id: str,
    shown: DetectionImage,
    page: DetectionImages,
    score: float,
    networks: Mapping[DetectionSource, str],
    item: str,
) -> None:
    url = session.client().url
    image = session.fetch(f"image {run_id} {shown.item} {score}", lambda: _image(url, run_id, shown.item, score)).value
    picture = None
    if shown.picture:
        picture = session.fetch(f"picture {run_id} {shown.item}", lambda: _picture(url, run_id, shown.item)).value
    found = "; ".join(
        f"{html(name.lower())}: {html(scenes.counts_text(shown.counts[source], page.kinds))}"
        for source, name in networks.items()
    )
    title = html(shown.name or f"Test {item} {shown.item}")
    st.html(f'<p class="dkd-image"><b>{title}</b> · {found}</p>')
    st.html(scenes.scene(image, picture, networks, page.kinds))
