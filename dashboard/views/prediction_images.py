"""Test images, or what the task calls them, on which a run and its reference differ, as a gallery with filters."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import streamlit as st

from common.formatting import value_text
from core.protocol.predictions import Predicted, PredictedImage, PredictedImages, PredictionKind, Side
from dashboard import session
from dashboard.lists import paging
from dashboard.markup import escape, html

_PAGE_SIZE = 24
_SECONDS = 600
_ANY = ""


@dataclass(frozen=True)
class Pair:
    """A run and what it is compared with.

    Attributes:
        run_id: The run.
        against: ``teacher`` or the id of a run; None without a reference.
        names: Names of the run and of its reference.
        classes: Names of the classes.
        item: What an item of the data is called, such as an image.
    """

    run_id: str
    against: str | None
    names: Mapping[Side, str]
    classes: Sequence[str]
    item: str


@dataclass(frozen=True)
class _Filter:
    """What the controls select."""

    kind: PredictionKind | None
    label: str | None
    predicted: str | None
    margin: float
    pictured: bool


def gallery(pair: Pair) -> None:
    """Draw the filters and a page of images."""
    chosen, item = _controls(pair), escape(pair.item)
    cursor = paging.page_cursor("predicted", {**vars(chosen), "run": pair.run_id, "against": pair.against})
    url = session.client().url
    page = session.fetch(
        f"predicted {pair.run_id} {pair.against} {chosen} {cursor}",
        lambda: _page(url, pair.run_id, pair.against, chosen, cursor),
    ).value
    if not page.items:
        st.info(f"No test {item} is left by these filters.", icon=":material/filter_alt_off:")
        return
    cards = ""
    for predicted in page.items:
        cards += _card(predicted, pair)
    st.html(f'<div class="dkd-thumbs">{cards}</div>')
    paging.page_controls("predicted", page, _PAGE_SIZE, f"test {pair.item}")
    order = (
        "The largest margin comes first. The margin is the difference between the probabilities that the two give to "
        f"the {item}'s class."
        if pair.against
        else f"The {item} to whose class the network gives the smallest probability comes first."
    )
    st.caption(
        f"{page.total or 0:,} of {page.images:,} test {item}s. {order} Small pictures were made once, at the end of "
        f"the training, of at most 512 {item}s for a run: those on which it and its teacher differ, and some that it "
        "gets wrong."
    )


def _controls(pair: Pair) -> _Filter:
    """Draw the filters, whose values are kept in the address."""
    run, reference = pair.names["run"], pair.names.get("reference", "")
    kinds: dict[str, PredictionKind | None] = {f"{run} is wrong": "run_wrong"}
    if pair.against:
        kinds = {
            "they predict different classes": "differ",
            f"only {reference} is right": "reference_right",
            f"only {run} is right": "run_right",
            "both are wrong": "both_wrong",
            "both are right": "both_right",
        }
    kinds[f"all {pair.item}s"] = None
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        title = st.selectbox(
            f"{escape(pair.item[:1].upper() + pair.item[1:])}s on which",
            list(kinds),
            key="images",
            bind="query-params",
            width=280,
        )
        label = st.selectbox(
            "Class",
            [_ANY, *pair.classes],
            format_func=lambda text: text or "any class",
            key="of_class",
            bind="query-params",
            width=180,
        )
        predicted = st.selectbox(
            "Predicted by one of them" if pair.against else "Predicted",
            [_ANY, *pair.classes],
            format_func=lambda text: text or "any class",
            key="predicted",
            bind="query-params",
            width=200,
        )
        margin = 0.0
        if pair.against:
            margin = st.slider(
                "Smallest margin",
                0.0,
                1.0,
                0.0,
                0.05,
                key="least-margin",
                bind="query-params",
                width=180,
                help=f"Only {escape(pair.item)}s to whose class the two give probabilities that differ at least this "
                "much.",
            )
        pictured = st.toggle("With a picture", key="with_picture", bind="query-params")
    return _Filter(kinds.get(title), label or None, predicted or None, round(float(margin), 4), pictured)


@st.cache_data(ttl=_SECONDS, max_entries=100, show_spinner=False)
def _page(url: str, run_id: str, against: str | None, chosen: _Filter, cursor: str | None) -> PredictedImages:
    return session.client().runs.predicted_images(
        run_id,
        against=against,
        kind=chosen.kind,
        label=chosen.label,
        predicted=chosen.predicted,
        margin=chosen.margin,
        pictured=chosen.pictured,
        cursor=cursor,
        limit=_PAGE_SIZE,
    )


@st.cache_data(ttl=_SECONDS, max_entries=2_000, show_spinner=False)
def _picture(url: str, run_id: str, item: int) -> bytes:
    return session.client().runs.picture(run_id, item)


def _card(image: PredictedImage, pair: Pair) -> str:
    """Return one image with what the networks predict."""
    owner = image.picture
    if owner is None:
        picture = '<span class="dkd-nothumb">no picture kept</span>'
    else:
        url = session.client().url
        content = session.fetch(f"picture {owner} {image.item}", lambda: _picture(url, owner, image.item)).value
        encoded = base64.b64encode(content).decode()
        picture = f'<img alt="Test {html(pair.item)} {image.item:,}" src="data:image/jpeg;base64,{html(encoded)}">'
    lines = ""
    for side, found in image.networks.items():
        lines += _line(pair.names[side], found)
    return (
        f"<figure>{picture}<figcaption><b>{html(image.label)}</b> · {html(pair.item)} {image.item:,}"
        f"<ul>{lines}</ul></figcaption></figure>"
    )


def _line(name: str, found: Predicted) -> str:
    """Return what one network predicts, with a sign that needs no colour."""
    sign = "✓" if found.right else "✕"
    word = "right" if found.right else "wrong"
    own = "" if found.right else f", gives its class {value_text(found.probability, '', 2)}"
    confidence = "" if found.confidence is None else f" {value_text(found.confidence, '', 2)}"
    return (
        f'<li class="dkd-{word}"><span aria-label="{word}">{sign}</span> {html(name)}: '
        f"{html(found.label)}{html(confidence)}{html(own)}</li>"
    )
