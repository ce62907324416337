"""The loss explorer, ``/loss?p=…&q=…``: DKD-Align's terms and gradients for two distributions. Needs no backend.

Every setting is in the address, under its widget's key, and left out there where it is what the page begins with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import streamlit as st

from common.formatting import NOTHING
from core.explain import DKDAlignParams, UniformBatches
from dashboard.charts import chart_component, loss_charts, loss_functions
from dashboard.charts.loss_functions import QUANTITIES, SHAPES, SWAPPED, Network, Quantity, Shape
from dashboard.markup import escape

_REDUCTIONS = ("sample", "batch", "log")
_WEIGHTS = ("ε", "share")
_START = DKDAlignParams(reduction="sample", epsilon=6.0)
_KEYS = (
    *("p", "q", "p_shape", "p_strength", "p_first", "p_own", "q_shape", "q_strength", "q_first", "q_own"),
    *("C", "T", "B", "ce", "alpha", "beta", "epsilon", "share", "weight", "reduction", "map", "solid"),
)


@dataclass(frozen=True)
class _Chosen:
    """What the page shows."""

    student: Network
    teacher: Network
    params: DKDAlignParams
    batch: int


def show() -> None:
    """Draw the page."""
    st.title("Loss explorer")
    st.markdown(
        "What DKD-Align, **w·CE + α·TCKD + β·NCKD − ε·A**, is for one sample: *A* is the distance between the "
        "gradients of TCKD and NCKD, and it is subtracted, so training makes it larger."
    )
    _scenarios()
    left, right = st.columns([2, 5], gap="large")
    with left:
        chosen = _controls()
    if chosen is None:
        return
    with right:
        _point(chosen)
    _claim(chosen)
    _along(chosen)
    _map(chosen)


def _scenarios() -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for name, (student, teacher) in zip("AB", SWAPPED, strict=True):
            st.button(
                f"{escape(name)}: student {student:g}, teacher {teacher:g}",
                key=f"loss.scenario.{name}",
                on_click=_set,
                args=({"p": student, "q": teacher},),
                help="The author's claim: the loss is nearly the same in A and in B.",
            )
        st.button("Start again", key="loss.reset", icon=":material/restart_alt:", on_click=_reset, type="tertiary")


def _set(values: dict[str, float]) -> None:
    for key, value in values.items():
        st.session_state[key] = value


def _reset() -> None:
    for key in _KEYS:
        st.session_state.pop(key, None)
        st.query_params.pop(key, None)


def _controls() -> _Chosen | None:
    """The settings; None where one of them cannot be used, which is then said at its place."""
    with st.container(border=True):
        classes = _whole("Classes, C", "C", 10, 3, 1000, "The target class and C − 1 others.")
        student = _network("Student", "p", "p̂", 0.6, "one", classes)
        teacher = _network("Teacher", "q", "q̂", 0.8, "even", classes)
    with st.container(border=True):
        params = _params()
        batch = _whole(
            "Batch size, B",
            "B",
            64,
            1,
            4096,
            "All samples of the batch are alike. Only the reduction batch divides A by B².",
        )
    if student is None or teacher is None:
        return None
    return _Chosen(student, teacher, params, batch)


def _whole(label: str, key: str, value: int, least: int, most: int, hint: str) -> int:
    return int(
        st.number_input(
            label, min_value=least, max_value=most, value=value, step=1, key=key, bind="query-params", help=hint
        )
    )


def _real(label: str, key: str, value: float, least: float, most: float, hint: str) -> float:
    return float(
        st.number_input(
            label,
            min_value=least,
            max_value=most,
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
        help="sample: of each sample's own gradients. batch: of the batch means, the literal formula: sample / B². "
        "log: the logarithm of sample.",
    )
    weight = st.segmented_control(
        "Weight of A by",
        _WEIGHTS,
        default="ε",
        required=True,
        key="weight",
        bind="query-params",
        help="Share: ε is chosen so that the term has this share of the summed gradient norms.",
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
            weighted = {"epsilon_share": float(share)}
        else:
            weighted = {"epsilon": _real("ε", "epsilon", 6.0, 0.0, 1e6, "Weight of A, which is subtracted.")}
        alpha = _real("α", "alpha", _START.alpha, 0.0, 1000.0, "Weight of TCKD: the target against the rest.")
    with right:
        temperature = _real("T", "T", _START.temperature, 0.1, 100.0, "Temperature; terms carry T².")
        beta = _real("β", "beta", _START.beta, 0.0, 1000.0, "Weight of NCKD: the other classes among themselves.")
    ce = _real("Weight of CE", "ce", _START.ce_weight, 0.0, 1000.0, "Cross-entropy with the label, at T = 1.")
    return DKDAlignParams(
        reduction=reduction or "sample", alpha=alpha, beta=beta, temperature=temperature, ce_weight=ce, **weighted
    )


def _network(title: str, key: str, hat: str, value: float, shape: Shape, classes: int) -> Network | None:
    st.markdown(f"**{escape(title)}**")
    target = st.slider(
        f"Probability of the target class, {escape(key)}ₜ", 0.01, 0.99, value, 0.01, key=key, bind="query-params"
    )
    options = list(SHAPES)
    chosen = st.selectbox(
        f"Over the other classes, {escape(hat)}",
        options,
        index=options.index(shape),
        format_func=SHAPES.__getitem__,
        key=f"{key}_shape",
        bind="query-params",
    )
    strength, first, own = 0.5, 1, ""
    if chosen == "own":
        own = st.text_input(
            "Weights",
            "5, 2, 1",
            key=f"{key}_own",
            bind="query-params",
            help="Need not add up to 1. The last stands for all that follow.",
        )
    elif chosen != "even":
        strength = st.slider("How much", 0.05, 0.99, 0.6, 0.01, key=f"{key}_strength", bind="query-params")
        first = _whole("Most on class", f"{key}_first", 1, 1, classes - 1, "Of the other classes, counted from 1.")
    try:
        return Network(target, loss_functions.others(chosen, classes - 1, strength=strength, first=first, own=own))
    except ValueError as error:
        st.error(f"{escape(title)}: {escape(error)}.", icon=":material/error:")
        return None


def _point(chosen: _Chosen) -> None:
    found = loss_functions.at(chosen.student, chosen.teacher, chosen.params, chosen.batch)
    share, cosine = float(found.share[0]), float(found.cosine[0])
    with st.container(horizontal=True, gap="medium"):
        st.metric("Loss", f"{_number(found.total[0])} nats", width="content")
        st.metric("Alignment term's share of the gradient", f"{_number(100 * share)} %", width="content")
        st.metric("Its cosine with TCKD + NCKD", _cosine(cosine), width="content")
        st.metric("Cosine of TCKD with NCKD", _cosine(float(found.similarity[0])), width="content")
    st.caption(_direction(share, cosine))
    st.table(_terms(found))
    classes = loss_functions.drawn_classes(chosen.student.others, chosen.teacher.others)
    chart_component.chart(
        loss_charts.gradients(found, classes),
        key="loss.gradients",
        alt="Gradient of each weighted term with respect to the logit of each class, and their sum",
        filename="loss-gradients",
    )
    left_out = len(chosen.student.others) - len(classes)
    more = f" The {left_out:,} classes of least probability are not drawn." if left_out else ""
    st.caption(
        f"For one of B = {chosen.batch:,} samples, all alike; weights included. "
        f"Descent moves a logit against its bar.{more}"
    )
    chart_component.chart(
        loss_charts.probabilities(chosen.student, chosen.teacher, classes),
        key="loss.probabilities",
        alt="Probabilities of student and teacher for the target class and the others",
        filename="loss-probabilities",
    )


def _terms(found: UniformBatches) -> list[dict[str, str]]:
    rows = []
    norms = {name: float(np.linalg.norm(gradient)) for name, gradient in found.gradients.items()}
    whole = sum(norms.values())
    units = {"align": ""}
    for name, value in found.values.items():
        weight = float(found.weights[name][0])
        rows.append(
            {
                "Term": {"align": "A, alignment"}.get(name, loss_charts.TERMS[name][0]),
                "Value": f"{_number(value[0])} {units.get(name, 'nats')}".strip(),
                "Weight": _number(weight),
                "Weighted": _number(weight * value[0]),
                "‖gradient‖": _number(norms[name]),
                "Share of the norms": f"{_number(100 * norms[name] / whole)} %" if whole else NOTHING,
            }
        )
    return rows


def _direction(share: float, cosine: float) -> str:
    if not np.isfinite(cosine):
        return "The alignment term has no direction here: its gradient, or that of TCKD and NCKD, is zero."
    if share < 1e-3:
        return f"The alignment term does next to nothing here: {_number(100 * share)} % of the summed gradient norms."
    if cosine < -0.1:
        return "The alignment term pulls against distillation here: it pushes the student away from the teacher."
    if cosine > 0.1:
        return "The alignment term pulls the same way as distillation here."
    return "The alignment term pulls across distillation here: neither with it nor against it."


def _claim(chosen: _Chosen) -> None:
    st.subheader("Scenarios A and B: is the loss nearly the same?")
    student, teacher = chosen.student.others, chosen.teacher.others
    found = loss_functions.swapped(student, teacher, chosen.params)
    st.markdown(loss_functions.claim_sentence(found, student, teacher))
    scale = chosen.params.temperature**2 / (len(student) + 1)
    rows = [
        {
            "": f"{escape(name)}: student {p:g}, teacher {q:g}",
            "TCKD (nats)": _number(found.tckd[index]),
            "s = Δ² + Σu²": _number(found.distance[index]),
            "A, sample (T²/C·s)": _number(scale * found.distance[index]),
        }
        for index, (name, (p, q)) in enumerate(zip("AB", SWAPPED, strict=True))
    ]
    difference = {
        "": "A − B",
        "TCKD (nats)": _number(found.tckd[0] - found.tckd[1]),
        "s = Δ² + Σu²": _number(found.distance[0] - found.distance[1]),
        "A, sample (T²/C·s)": _number(scale * (found.distance[0] - found.distance[1])),
    }
    st.table([*rows, difference])
    st.caption(
        f"For the chosen p̂ and q̂, C = {len(student) + 1:,}, T = {chosen.params.temperature:g}. "
        f"−4|Δ|·p̂·(p̂−q̂) = {_number(found.formula)}. NCKD is the same in A and B: it sees only p̂ and q̂."
    )


def _along(chosen: _Chosen) -> None:
    st.subheader("Along the student's probability")
    chart_component.chart(
        loss_charts.along(
            loss_functions.line(chosen.student, chosen.teacher, chosen.params, chosen.batch),
            chosen.student.target,
            chosen.teacher.target,
        ),
        key="loss.along",
        alt="Weighted terms and the loss over the student's probability of the target class",
        filename="loss-along",
    )
    if chosen.params.epsilon_share is not None:
        st.caption("With a share, ε is another one at every point: the line is what is reported, not a fixed function.")


def _map(chosen: _Chosen) -> None:
    st.subheader("Over both probabilities")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        quantity: Quantity = st.selectbox(
            "Show",
            list(QUANTITIES),
            format_func=lambda key: QUANTITIES[key][0],
            key="map",
            bind="query-params",
            width=340,
        )
        solid = st.toggle("Surface in three dimensions", key="solid", bind="query-params")
    found = loss_functions.surface(quantity, chosen.student.others, chosen.teacher.others, chosen.params, chosen.batch)
    chart_component.chart(
        loss_charts.surface_figure(found, quantity, chosen.student.target, chosen.teacher.target, solid=bool(solid)),
        key=f"loss.map.{quantity}.{bool(solid)}",
        alt=f"{QUANTITIES[quantity][0]} over the student's and the teacher's probability of the target class",
        filename=f"loss-{quantity}",
    )
    unit = QUANTITIES[quantity][1]
    st.caption(
        f"{QUANTITIES[quantity][0]}{f', in {unit}' if unit else ''}. "
        "Cross: what is chosen above; A and B: the two scenarios. The distributions over the other classes stay."
    )


def _number(value: float) -> str:
    """Four digits, a true minus."""
    text = f"{float(value):.4g}"
    return text.replace("-", "−")


def _cosine(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−") if np.isfinite(value) else NOTHING
