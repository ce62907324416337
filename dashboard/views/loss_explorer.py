"""The loss explorer, ``/loss?p=…&q=…``: terms and gradients of DKD-Align for two distributions, without a backend.

The address contains every setting that differs from its default, under the key of its widget.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from common.formatting import NOTHING
from core.explain import DKDAlignParams, UniformBatches
from dashboard import addresses
from dashboard.charts import chart_component, loss_charts, loss_functions
from dashboard.charts.loss_functions import QUANTITIES, SCENARIOS, SHAPES, DistributionShape, Prediction, Quantity
from dashboard.markup import escape

_REDUCTIONS = ("sample", "batch", "log")
_WEIGHTS = ("ε", "share")
_NEARLY_ONE = 0.9999
"""A probability from here on is shown as its distance to 1."""
_DEFAULTS = DKDAlignParams(reduction="sample", epsilon=6.0)
_FORMER_SHAPES: dict[str, DistributionShape] = {"each less than the last": "falling", "weights of your own": "custom"}
_KEYS = (
    *("p", "q", "p_shape", "p_strength", "p_first", "p_own", "q_shape", "q_strength", "q_first", "q_own"),
    *("C", "T", "B", "ce", "alpha", "beta", "epsilon", "share", "weight", "reduction", "map", "solid"),
)


@dataclass(frozen=True)
class _Settings:
    """Settings of the page."""

    student: Prediction
    teacher: Prediction
    params: DKDAlignParams
    batch: int


def show() -> None:
    """Draw the page."""
    st.title("Loss explorer")
    st.markdown(
        "The loss of DKD-Align, **w·CE + α·TCKD + β·NCKD − ε·A**, for one sample. *A* is the distance between the "
        "gradients of TCKD and NCKD. It is subtracted, so training increases it. All probabilities of this page are "
        "softened: they are those at the temperature T, as in TCKD, NCKD and *A*."
    )
    _scenarios()
    left, right = st.columns([2, 5], gap="large")
    with left:
        settings = _controls()
    if settings is None:
        return
    with right:
        _current_values_section(settings)
    _scenario_section(settings)
    _loss_curve_section(settings)
    _loss_surface_section(settings)


def _scenarios() -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for name, (student, teacher) in zip("12", SCENARIOS, strict=True):
            st.button(
                f"Scenario {escape(name)}: student {student:g}, teacher {teacher:g}",
                key=f"loss.scenario.{name}",
                on_click=_set_inputs,
                args=({"p": student, "q": teacher},),
                help="Decoupled Gradient Knowledge Distillation (2025) claims that the loss is nearly the same in both "
                "scenarios.",
            )
        st.button("Reset", key="loss.reset", icon=":material/restart_alt:", on_click=_reset_inputs, type="tertiary")


def _set_inputs(values: dict[str, float]) -> None:
    for key, value in values.items():
        st.session_state[key] = value


def _reset_inputs() -> None:
    for key in _KEYS:
        st.session_state.pop(key, None)
        st.query_params.pop(key, None)


def _controls() -> _Settings | None:
    """Draw the settings; return None if one of them is invalid, with an error at its field."""
    with st.container(border=True):
        classes = _integer_input("Classes, C", "C", 10, 3, 1000, "The target class and C − 1 other classes.")
        student, student_note = _network("Student", "p", "p̂", 0.6, "one", classes)
        teacher, teacher_note = _network("Teacher", "q", "q̂", 0.8, "even", classes)
    with st.container(border=True):
        params = _params()
        batch = _integer_input(
            "Batch size, B",
            "B",
            64,
            1,
            4096,
            "All samples of the batch are identical. Only the reduction “batch” divides A by B².",
        )
    if student is None or teacher is None:
        return None
    for network, note in ((student, student_note), (teacher, teacher_note)):
        note.caption(_plain_probability(network, params.temperature))
    return _Settings(student, teacher, params, batch)


def _integer_input(label: str, key: str, value: int, minimum: int, maximum: int, hint: str) -> int:
    return int(
        st.number_input(
            label, min_value=minimum, max_value=maximum, value=value, step=1, key=key, bind="query-params", help=hint
        )
    )


def _number_input(label: str, key: str, value: float, minimum: float, maximum: float, hint: str) -> float:
    return float(
        st.number_input(
            label,
            min_value=minimum,
            max_value=maximum,
            value=value,
            step=0.5,
            format="%g",
            key=key,
            bind="query-params",
            help=hint,
        )
    )


def _params() -> DKDAlignParams:
    st.markdown("**Loss**")
    reduction = st.segmented_control(
        "Reduction of A",
        _REDUCTIONS,
        default="sample",
        required=True,
        key="reduction",
        bind="query-params",
        help="sample: distance between the gradients of each sample. batch: distance between the gradients of the "
        "batch means, the literal formula (sample / B²). log: logarithm of sample.",
    )
    weight = st.segmented_control(
        "Set the weight of A by",
        _WEIGHTS,
        default="ε",
        required=True,
        key="weight",
        bind="query-params",
        help="share: ε is set such that the term has this share of the summed gradient norms.",
    )
    left, right = st.columns(2)
    with left:
        if weight == "share":
            share = st.number_input(
                "Share of the gradient",
                min_value=0.01,
                max_value=0.99,
                value=0.1,
                step=0.05,
                key="share",
                bind="query-params",
            )
            weight_options = {"epsilon_share": float(share)}
        else:
            weight_options = {
                "epsilon": _number_input("ε", "epsilon", 6.0, 0.0, 1e6, "Weight of A, which is subtracted.")
            }
        alpha = _number_input(
            "α", "alpha", _DEFAULTS.alpha, 0.0, 1000.0, "Weight of TCKD: target class versus all others."
        )
    with right:
        temperature = _number_input(
            "T", "T", _DEFAULTS.temperature, 0.1, 100.0, "Temperature; the terms include the factor T²."
        )
        beta = _number_input(
            "β", "beta", _DEFAULTS.beta, 0.0, 1000.0, "Weight of NCKD: distribution over the other classes."
        )
    ce = _number_input(
        "Weight of CE", "ce", _DEFAULTS.ce_weight, 0.0, 1000.0, "Cross-entropy with the label, at T = 1."
    )
    return DKDAlignParams(
        reduction=reduction or "sample", alpha=alpha, beta=beta, temperature=temperature, ce_weight=ce, **weight_options
    )


def _plain_probability(network: Prediction, temperature: float) -> str:
    """Return what a softened probability of the target class is without softening."""
    plain = network.plain_target(temperature)
    shown = _number_text(plain) if plain < _NEARLY_ONE else f"1 − {1 - plain:.1e}".replace("-", "−")
    return f"Softened by T = {temperature:g}. At T = 1 the same logits give {shown}."


def _network(
    title: str, key: str, hat: str, value: float, shape: DistributionShape, classes: int
) -> tuple[Prediction | None, DeltaGenerator]:
    """Draw a network's probabilities; return them, None if they are invalid, and the place for a note about them."""
    st.markdown(f"**{escape(title)}**")
    target = st.slider(
        f"Softened probability of the target class, {escape(key)}ₜ",
        0.01,
        0.99,
        value,
        0.01,
        key=key,
        bind="query-params",
    )
    note = st.empty()
    addresses.accept_former_labels(f"{key}_shape", _FORMER_SHAPES)
    options = list(SHAPES)
    selected = st.selectbox(
        f"Distribution over the other classes, {escape(hat)}",
        options,
        index=options.index(shape),
        format_func=SHAPES.__getitem__,
        key=f"{key}_shape",
        bind="query-params",
    )
    strength, first, custom = 0.5, 1, ""
    if selected == "custom":
        custom = st.text_input(
            "Weights",
            "5, 2, 1",
            key=f"{key}_own",
            bind="query-params",
            help="The weights need not add up to 1. The last weight is repeated for the remaining classes.",
        )
    elif selected != "even":
        strength = st.slider("Strength", 0.05, 0.99, 0.6, 0.01, key=f"{key}_strength", bind="query-params")
        first = _integer_input(
            "Most probable class", f"{key}_first", 1, 1, classes - 1, "Number of the non-target class, from 1."
        )
    try:
        others = loss_functions.class_distribution(
            selected, classes - 1, strength=strength, first=first, custom_weights=custom
        )
    except ValueError as error:
        st.error(f"{escape(title)}: {escape(error)}.", icon=":material/error:")
        return None, note
    return Prediction(target, others), note


def _current_values_section(settings: _Settings) -> None:
    result = loss_functions.evaluate(settings.student, settings.teacher, settings.params, settings.batch)
    share, cosine = float(result.share[0]), float(result.cosine[0])
    with st.container(horizontal=True, gap="medium"):
        st.metric("Loss", f"{_number_text(result.total[0])} nats", width="content")
        st.metric("Alignment term's share of the gradient", f"{_number_text(100 * share)} %", width="content")
        st.metric("Cosine of A with TCKD + NCKD", _cosine_text(cosine), width="content")
        st.metric("Cosine of TCKD with NCKD", _cosine_text(float(result.similarity[0])), width="content")
    st.caption(_direction(share, cosine))
    st.table(_terms(result))
    classes = loss_functions.most_probable_classes(settings.student.others, settings.teacher.others)
    chart_component.chart(
        loss_charts.gradient_figure(result, classes),
        key="loss.gradients",
        alt="Gradient of each weighted term with respect to the logit of each class, and their sum",
        filename="loss-gradients",
    )
    hidden = len(settings.student.others) - len(classes)
    more = f" The {hidden:,} least probable classes are not shown." if hidden else ""
    st.caption(
        f"Weighted gradients for one of B = {settings.batch:,} identical samples. "
        f"Gradient descent moves each logit in the opposite direction of its bar.{more}"
    )
    chart_component.chart(
        loss_charts.probability_figure(settings.student, settings.teacher, classes),
        key="loss.probabilities",
        alt="Probabilities of student and teacher for the target class and the other classes",
        filename="loss-probabilities",
    )


def _terms(result: UniformBatches) -> list[dict[str, str]]:
    rows = []
    norms = {name: float(np.linalg.norm(gradient)) for name, gradient in result.gradients.items()}
    norm_sum = sum(norms.values())
    units = {"align": ""}
    for name, value in result.values.items():
        weight = float(result.weights[name][0])
        rows.append(
            {
                "Term": {"align": "A, alignment"}.get(name, loss_charts.TERMS[name][0]),
                "Value": f"{_number_text(value[0])} {units.get(name, 'nats')}".strip(),
                "Weight": _number_text(weight),
                "Weighted": _number_text(weight * value[0]),
                "‖gradient‖": _number_text(norms[name]),
                "Share of the norms": f"{_number_text(100 * norms[name] / norm_sum)} %" if norm_sum else NOTHING,
            }
        )
    return rows


def _direction(share: float, cosine: float) -> str:
    if not np.isfinite(cosine):
        return "The direction of the alignment term is undefined here: its gradient or that of TCKD + NCKD is zero."
    if share < 1e-3:
        return f"The alignment term is negligible here: {_number_text(100 * share)} % of the summed gradient norms."
    if cosine < -0.1:
        return "The alignment term opposes distillation here: it moves the student away from the teacher."
    if cosine > 0.1:
        return "The alignment term supports distillation here: both move the student in a similar direction."
    return "The alignment term is nearly orthogonal to distillation here."


def _scenario_section(settings: _Settings) -> None:
    st.subheader("Is the loss nearly the same in both scenarios?")
    student, teacher = settings.student.others, settings.teacher.others
    result = loss_functions.compare_scenarios(student, teacher, settings.params)
    st.markdown(loss_functions.scenario_sentence(result, student, teacher))
    scale = settings.params.temperature**2 / (len(student) + 1)
    rows = [
        {
            "": f"Scenario {escape(name)}: student {p:g}, teacher {q:g}",
            "TCKD (nats)": _number_text(result.tckd[index]),
            "s = Δ² + Σu²": _number_text(result.distance[index]),
            "A, sample (T²/C·s)": _number_text(scale * result.distance[index]),
        }
        for index, (name, (p, q)) in enumerate(zip("12", SCENARIOS, strict=True))
    ]
    difference = {
        "": "Scenario 1 − scenario 2",
        "TCKD (nats)": _number_text(result.tckd[0] - result.tckd[1]),
        "s = Δ² + Σu²": _number_text(result.distance[0] - result.distance[1]),
        "A, sample (T²/C·s)": _number_text(scale * (result.distance[0] - result.distance[1])),
    }
    st.table([*rows, difference])
    st.caption(
        f"For the selected p̂ and q̂, C = {len(student) + 1:,}, T = {settings.params.temperature:g}. "
        f"−4|Δ|·p̂·(p̂−q̂) = {_number_text(result.formula)}. NCKD is the same in both scenarios, because it depends only "
        "on p̂ and q̂."
    )


def _loss_curve_section(settings: _Settings) -> None:
    st.subheader("Loss over the student's softened target probability")
    chart_component.chart(
        loss_charts.loss_curve_figure(
            loss_functions.loss_curve(settings.student, settings.teacher, settings.params, settings.batch),
            settings.student.target,
            settings.teacher.target,
        ),
        key="loss.along",
        alt="Weighted terms and the loss over the student's softened probability of the target class",
        filename="loss-along",
    )
    if settings.params.epsilon_share is not None:
        st.caption("With a fixed share, ε differs at every point: the curve shows reported values, not one function.")


def _loss_surface_section(settings: _Settings) -> None:
    st.subheader("Loss over both softened target probabilities")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        quantity: Quantity = st.selectbox(
            "Quantity",
            list(QUANTITIES),
            format_func=lambda key: QUANTITIES[key][0],
            key="map",
            bind="query-params",
            width=340,
        )
        solid = st.toggle("3D surface", key="solid", bind="query-params")
    result = loss_functions.loss_surface(
        quantity, settings.student.others, settings.teacher.others, settings.params, settings.batch
    )
    chart_component.chart(
        loss_charts.surface_figure(
            result, quantity, settings.student.target, settings.teacher.target, solid=bool(solid)
        ),
        key=f"loss.map.{quantity}.{bool(solid)}",
        alt=f"{QUANTITIES[quantity][0]} over the student's and the teacher's softened probability of the target class",
        filename=f"loss-{quantity}",
    )
    unit = QUANTITIES[quantity][1]
    st.caption(
        f"{QUANTITIES[quantity][0]}{f', in {unit}' if unit else ''}. "
        "Cross: the settings above. 1 and 2: the two scenarios. The distributions over the other classes are fixed."
    )


def _number_text(value: float) -> str:
    """Return a number with four significant digits and a typographic minus."""
    text = f"{float(value):.4g}"
    return text.replace("-", "−")


def _cosine_text(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−") if np.isfinite(value) else NOTHING
