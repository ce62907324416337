"""The section "Over the test images" of the Compare page: the paired bootstrap, beside the interval over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from common.formatting import NOTHING, difference_text, difference_unit, p_text, value_text
from core.protocol.comparison_queries import ComparisonOptions
from core.protocol.comparisons import Comparison, PairedDifference
from core.protocol.over_images import ComparedOverImages, MethodOverImages
from core.protocol.public import Experiment
from dashboard import families, session, theme, wording
from dashboard.charts import chart_component
from dashboard.charts.over_images_figure import TwoIntervals, two_intervals_figure
from dashboard.forms.widgets import table
from dashboard.lists.row_text import no_break
from dashboard.markup import escape
from dashboard.views import compare_methods, comparison_results, run_predictions


def section(experiments: Sequence[Experiment], options: ComparisonOptions | None) -> None:
    """Draw the section, if experiments are compared.

    Args:
        experiments: The experiments.
        options: The options of the comparison; None if single runs are compared.
    """
    if not experiments or options is None:
        return
    item = escape(session.item(experiments[0].dataset))
    st.subheader(f"Over the test {item}s")
    shown = st.toggle(
        f"Show what other test {item}s would change",
        key="over-images",
        bind="query-params",
        help=f"A paired bootstrap over the test {item}s, for the networks as trained. It is another question than the "
        "test over seeds above. The files of all finished runs are read for it.",
    )
    if not shown:
        return
    with session.error_boundary():
        _draw(experiments, options)


def _draw(experiments: Sequence[Experiment], options: ComparisonOptions) -> None:
    found, problem = run_predictions.optional(lambda: _found(experiments, options.baseline))
    if found is None:
        st.info(escape(problem), icon=":material/image_search:")
        return
    methods = [method for method in found.methods if method.pooled]
    if not methods:
        st.info(
            "A comparison over the test images needs a finished run of a method and one of the baseline with the same "
            "seed.",
            icon=":material/image_search:",
        )
        return
    over_seeds = _over_seeds(experiments, options, found)
    unit = difference_unit(found.unit)
    _figure(experiments, found, methods, over_seeds, unit)
    table(_rows(found, methods, over_seeds, unit))
    sentences = "\n".join(f"- **{escape(method.label)}:** {escape(method.sentence)}" for method in methods)
    if len(methods) > families.MANY:
        with st.expander("The differences in sentences"):
            st.markdown(sentences)
    else:
        st.markdown(sentences)
    if any(len(method.pairs) > 1 for method in methods):
        with st.expander("Each seed alone", icon=":material/table_rows:"):
            table(_pair_rows(found, methods, unit))
    for note in found.notes:
        st.caption(escape(note))


def _found(experiments: Sequence[Experiment], baseline: str | None) -> ComparedOverImages:
    ids = [experiment.id for experiment in experiments]
    place = st.empty()

    def report(reply: ComparedOverImages) -> None:
        total = reply.evaluated + reply.pending
        place.progress(
            reply.evaluated / total if total else 0.0,
            f"{reply.evaluated:,} of {wording.counted(total, 'run')} evaluated on {reply.resamples:,} resamples",
        )

    with st.spinner("Runs are evaluated on resamples of the test images."):
        found = comparison_results.until_state_changes(
            f"over images {ids} {baseline}",
            experiments,
            lambda: session.client().comparisons.over_images(ids, baseline=baseline, on_progress=report),
        )
    place.empty()
    return found


def _over_seeds(
    experiments: Sequence[Experiment], options: ComparisonOptions, found: ComparedOverImages
) -> Mapping[str, PairedDifference]:
    """Return the paired differences over the seeds; none where they are of another epoch or metric."""
    result: Comparison | None
    result, _ = comparison_results.comparison(experiments, options)
    if result is None or result.epoch != "last" or result.metric != found.metric:
        return {}
    return {pair.label: pair for pair in result.paired}


def _figure(
    experiments: Sequence[Experiment],
    found: ComparedOverImages,
    methods: Sequence[MethodOverImages],
    over_seeds: Mapping[str, PairedDifference],
    unit: str,
) -> None:
    kinds = compare_methods.kinds_of({method.label: method.method for method in found.methods})
    styles = theme.styles([found.baseline, *(method.label for method in methods)], session.method_colours(), kinds)
    differences = []
    for method in methods:
        pair = over_seeds.get(method.label)
        seeds = (pair.mean_difference, pair.interval) if pair and pair.mean_difference is not None else None
        if method.pooled:
            images = (method.pooled.difference, method.pooled.interval)
            differences.append(TwoIntervals(method.label, images, seeds))
    chart_component.chart(
        two_intervals_figure(
            differences, f"Difference to {found.baseline}{f' ({unit})' if unit else ''}", styles, unit
        ),
        key=f"compare.over-images.{'.'.join(experiment.id for experiment in experiments)}",
        alt=f"Difference of each method to {found.baseline} with its intervals over images and over seeds",
        filename=wording.file_stem([experiment.name for experiment in experiments], "over-images"),
    )
    st.caption(
        "Over images: other test images, the same trained networks. Over seeds: other trainings, the same test images."
    )


def _rows(
    found: ComparedOverImages,
    methods: Sequence[MethodOverImages],
    over_seeds: Mapping[str, PairedDifference],
    unit: str,
) -> list[dict[str, str]]:
    points = f" ({unit})" if unit else ""
    rows = []
    for method in methods:
        pooled, pair = method.pooled, over_seeds.get(method.label)
        if pooled is None:
            continue
        excluding = sum(one.interval is not None and one.interval.excludes_zero for one in method.pairs)
        seeds = NOTHING if pair is None else difference_text(pair.mean_difference, pair.interval)
        rows.append(
            {
                "Method": method.label,
                "Pairs": str(len(method.pairs)),
                f"Over images: difference to {found.baseline}{points}": no_break(
                    difference_text(pooled.difference, pooled.interval)
                ),
                "Seeds whose own interval excludes zero": f"{excluding} of {len(method.pairs)}",
                f"Over seeds: difference{points}": no_break(seeds),
                "Over seeds: p (Holm)": p_text(pair.sign_flip_p_holm if pair else None),
            }
        )
    return rows


def _pair_rows(found: ComparedOverImages, methods: Sequence[MethodOverImages], unit: str) -> list[dict[str, str]]:
    value, points = (f" ({text})" if text else "" for text in (found.unit, unit))
    return [
        {
            "Method": method.label,
            "Seed": str(pair.seed),
            f"{found.title}{value}": value_text(pair.value, decimals=2),
            f"Of {found.baseline}{value}": value_text(pair.baseline, decimals=2),
            f"Difference over {found.images:,} images{points}": no_break(
                difference_text(pair.difference, pair.interval)
            ),
        }
        for method in methods
        for pair in method.pairs
    ]
