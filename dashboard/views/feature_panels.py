"""Pictures of penultimate features side by side, with a slider over epochs; for the Run and the Compare page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import streamlit as st

from core.protocol.features import FeatureMap, FeatureNetwork, FeaturesOverTime, Projection, RunFeatures
from dashboard import session, theme
from dashboard.charts import chart_component, feature_figures
from dashboard.forms.widgets import table
from dashboard.lists import feature_rows
from dashboard.markup import escape, html
from dashboard.views.run_predictions import optional
from dashboard.wording import file_stem

_SECONDS = 600
_PER_ROW = 4


@dataclass(frozen=True)
class Panel:
    """The features of one network.

    Attributes:
        name: Name of the network.
        run_id: The run that kept them.
        network: Which network of the run.
        kept: What it kept.
        style: Style of its curves.
        moves: Whether the slider over epochs is about it; a teacher is shown as it taught.
    """

    name: str
    run_id: str
    network: FeatureNetwork
    kept: FeaturesOverTime
    style: theme.Style
    moves: bool = True

    @property
    def trained_here(self) -> bool:
        """Whether its features change over the epochs of the slider."""
        return self.moves and self.kept.epochs != [0]

    def epoch_at(self, epoch: int) -> int:
        """Return the epoch that is shown: the last one that is not later, or the first."""
        if not self.trained_here:
            return self.kept.epochs[-1]
        return max((own for own in self.kept.epochs if own <= epoch), default=self.kept.epochs[0])


@st.cache_data(ttl=_SECONDS, max_entries=200, show_spinner=False)
def summary_of(url: str, run_id: str) -> RunFeatures:
    """Return what a finished run kept."""
    return session.client().runs.features(run_id)


@st.cache_data(ttl=_SECONDS, max_entries=500, show_spinner=False)
def _map_of(url: str, run_id: str, network: FeatureNetwork, projection: Projection, epoch: int) -> FeatureMap:
    return session.client().runs.feature_map(run_id, network=network, projection=projection, epoch=epoch)


def draw(panels: Sequence[Panel], found: RunFeatures, item: str, *, key: str) -> None:
    """Draw pictures, angles and measures with their controls.

    Args:
        panels: The networks, the teacher first.
        found: What one of the runs kept, for the classes.
        item: What an item of the data is called, such as an image.
        key: Begins the keys of the charts.
    """
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        projection = _projection(found)
        epoch = _epoch(panels)
        shown = st.multiselect(
            "Classes",
            found.classes,
            key="feature-classes",
            bind="query-params",
            placeholder="all classes",
            width=320,
            help=f"The {escape(item)}s of other classes become grey.",
        )
    if projection in found.unavailable:
        st.info(escape(f"{found.unavailable[projection]}."), icon=":material/download:")
        return
    _legend(found.classes, shown)
    with st.spinner("Points are computed once for each network and epoch …", show_time=True):
        maps = _maps(panels, projection, epoch)
    _pictures(panels, maps, epoch, shown or found.classes, key, item)
    st.caption(escape(feature_rows.MEANINGS[projection]))
    st.caption(
        escape(feature_rows.images_text([panel.kept for panel in panels], len(found.classes), found.all_classes, item))
        + " A picture does not show which method is better: test that over the seeds."
    )
    _measures(panels, epoch, key, item)
    _angles(panels, maps, key)


def _projection(found: RunFeatures) -> Projection:
    chosen: Projection = st.segmented_control(
        "Projection",
        list(feature_rows.PROJECTIONS),
        default="pca",
        required=True,
        format_func=feature_rows.PROJECTIONS.__getitem__,
        key="projection",
        bind="query-params",
        help="How a feature vector becomes a point. PCA keeps distances as well as a plane can. t-SNE and UMAP keep "
        "neighbours together.",
    )
    return chosen


def _epoch(panels: Sequence[Panel]) -> int:
    """Draw the slider; return the chosen epoch, or the only one there is."""
    epochs = sorted({epoch for panel in panels if panel.trained_here for epoch in panel.kept.epochs})
    if len(epochs) < 2:
        return epochs[0] if epochs else 0
    chosen: int = st.select_slider(
        "Epoch",
        epochs,
        value=epochs[-1],
        key="feature-epoch",
        bind="query-params",
        width=360,
        help="Epochs after which features were kept. The teacher is shown as it taught.",
    )
    return chosen


def _maps(panels: Sequence[Panel], projection: Projection, epoch: int) -> list[FeatureMap | str]:
    """Return the points of each network, or why there are none."""
    url = session.client().url
    maps: list[FeatureMap | str] = []
    for panel in panels:
        request = partial(_map_of, url, panel.run_id, panel.network, projection, panel.epoch_at(epoch))
        found, problem = optional(request)
        maps.append(problem if found is None else found)
    return maps


def _legend(classes: Sequence[str], shown: Sequence[str]) -> None:
    glyphs = feature_figures.glyphs()
    entries = ""
    for number, name in enumerate(classes):
        style = feature_figures.class_style(number)
        colour = style.colour if not shown or name in shown else theme.GREY
        entries += f'<li><span style="color: {html(colour)}">{html(glyphs[style.symbol])}</span> {html(name)}</li>'
    st.html(f'<ul class="dkd-kinds" aria-label="Classes">{entries}</ul>')


def _pictures(
    panels: Sequence[Panel], maps: Sequence[FeatureMap | str], epoch: int, shown: Sequence[str], key: str, item: str
) -> None:
    pairs = list(enumerate(zip(panels, maps, strict=True)))
    width = min(_PER_ROW, max(2, len(panels)))
    for first in range(0, len(pairs), width):
        columns = st.columns(width, gap="medium")
        for column, (number, (panel, found)) in zip(columns, pairs[first : first + width], strict=False):
            with column:
                st.markdown(f"**{escape(panel.name)}**, {_when(panel, epoch)}")
                if isinstance(found, str):
                    st.caption(escape(found))
                    continue
                chart_component.chart(
                    feature_figures.points_figure(found, shown, item, small=width > 2),
                    key=f"{key}.points.{number}",
                    alt=f"Penultimate features of {panel.name} as points",
                    filename=file_stem([panel.name], f"features {found.projection} epoch {found.epoch}"),
                )
                if found.explained is not None:
                    st.caption(f"These axes hold {100 * found.explained:.0f} % of the variance at this epoch.")


def _when(panel: Panel, epoch: int) -> str:
    if not panel.trained_here:
        own = panel.kept.epochs[-1]
        as_it_was = "as it taught" if panel.network == "teacher" else "as it was evaluated"
        return f"after its epoch {own:,}" if own else as_it_was
    return f"after epoch {panel.epoch_at(epoch):,}"


def _measures(panels: Sequence[Panel], epoch: int, key: str, item: str) -> None:
    st.markdown(
        f"**Neural collapse on test {escape(item)}s**",
        help="NC1–NC4 of Papyan, Han and Donoho 2020 (Prevalence of neural collapse during the terminal phase of deep "
        "learning training). They measured training images. A run measures those of its training data too, under More "
        f"measurements. On test {escape(item)}s, NC1 does not reach 0 even if the training data collapse.",
    )
    table(feature_rows.measure_rows({panel.name: (panel.kept, panel.epoch_at(epoch)) for panel in panels}))
    if not any(panel.trained_here and len(panel.kept.epochs) > 1 for panel in panels):
        return
    classes = max(panel.kept.measured_classes for panel in panels)
    with st.expander("Over the epochs", expanded=True, icon=":material/show_chart:"):
        columns = st.columns(2, gap="large")
        for number, (name, measure) in enumerate(feature_rows.MEASURES.items()):
            with columns[number % 2]:
                st.markdown(f"**{escape(measure.title)}**", help=escape(measure.meaning))
                chart_component.chart(
                    feature_figures.measure_figure(
                        [_line(panel, name) for panel in panels],
                        measure.axis,
                        measure.unit,
                        logarithmic=measure.logarithmic,
                        ideal=feature_rows.largest_equal_angle(classes) if name == "angle_mean" else None,
                    ),
                    key=f"{key}.{name}",
                    alt=f"{measure.title} of each network over the epochs",
                    filename=f"{name}-over-epochs",
                )


def _line(panel: Panel, name: str) -> feature_figures.Line:
    values = panel.kept.measures.get(name, [])
    if not panel.trained_here:
        return feature_figures.Line(panel.name, (), values[-1:] or [None], panel.style)
    return feature_figures.Line(panel.name, panel.kept.epochs, values, panel.style)


def _angles(panels: Sequence[Panel], maps: Sequence[FeatureMap | str], key: str) -> None:
    # A toggle, because the browser would load 4 MB to draw maps that nobody looks at.
    if st.toggle("Angles of each two class means", key="feature-angles", bind="query-params"):
        st.caption(
            "Seen from the mean of all class means. Two classes with a small angle look alike to the network; in full "
            "collapse all angles are equal."
        )
        found: Mapping[int, FeatureMap] = {number: one for number, one in enumerate(maps) if not isinstance(one, str)}
        columns = st.columns(min(2, max(len(found), 1)), gap="large")
        for place, (number, one) in enumerate(found.items()):
            with columns[place % 2]:
                st.markdown(escape(panels[number].name))
                chart_component.chart(
                    feature_figures.angles_figure(one),
                    key=f"{key}.angles.{number}",
                    alt=f"Angles between the class means of {panels[number].name}",
                    filename=file_stem([panels[number].name], "angles of class means"),
                )
