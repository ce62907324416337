"""The fields of a method's parameters and terms, made from its entry in the catalog.

Each term has a weight, which is a parameter, or a share of the gradient; the two exclude each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from dashboard.forms import schema_fields
from dashboard.forms.schema_fields import FormField
from dashboard.forms.task_catalog import USUAL_SHARES
from dashboard.forms.widgets import FieldErrors, draw_field, draw_object, escape

_FIELD_WIDTH = 148  # pixels, as of other fields
_FIRST_SHARE = 0.1
_OFF = "off"

Entry = Mapping[str, Any]
"""A method as the catalog describes it."""


@dataclass(frozen=True)
class Term:
    """A term of a method's loss in the form.

    Attributes:
        name: Name of the term.
        title: The term in labels.
        weight: Field of the parameter that is its weight; None if it has none, or another term's is its weight too.
        share_param: Parameter that gives it a share of the terms of this method alone; empty if there is none.
        switch: Parameter that leaves the term out of the loss if it is ``off``; empty if there is none.
    """

    name: str
    title: str
    weight: FormField | None
    share_param: str
    switch: str

    @property
    def may_have_share(self) -> bool:
        """Whether its weight is not 0 by default, which would switch the term off."""
        return self.weight is None or self.weight.default != 0

    @property
    def weight_label(self) -> str:
        """Return the label of its weight: "CE weight", "CRD weight" or, of a parameter with a name, "TCKD: Alpha"."""
        label = self.weight.label if self.weight else ""
        if self.title.lower() in label.lower():
            return label
        return f"{self.title} weight" if label == "Weight" else f"{self.title}: {label}"

    def needs_one(self, params: Mapping[str, Any]) -> bool:
        """Whether its method asks for a weight or a share of this term, and the draft has no weight."""
        required = bool(self.share_param) and self.weight is not None and self.weight.default is None
        return required and self.weight is not None and params.get(self.weight.path) is None

    def is_off(self, params: Mapping[str, Any]) -> bool:
        return bool(self.switch) and params.get(self.switch, _OFF) == _OFF

    def share(self, params: Mapping[str, Any], shares: Mapping[str, float]) -> float | None:
        """Return its share in a draft; None if it has a weight."""
        given = shares.get(self.name, params.get(self.share_param))
        return None if given is None else float(given)


def terms_of(entry: Entry, fields: Sequence[FormField], *, added: bool = False) -> list[Term]:
    """Return the terms of a method, each weight with the first of its terms.

    Args:
        entry: The method.
        fields: Fields of its parameters.
        added: Whether its terms are added to those of another method, whose cross-entropy counts.
    """
    by_path = {item.path: item for item in fields}
    weights, used = entry.get("weight_params", {}), set[str]()
    terms = []
    for name in entry.get("terms", ()):
        if added and name not in entry.get("own_terms", ()):
            continue
        weight = by_path.get(weights.get(name, ""))
        if weight and weight.path in used:
            weight = None
        used |= {weight.path} if weight else set()
        title = entry["title"] if name == entry["name"] else _title(name)
        share_param, switch = (entry.get(field, {}).get(name, "") for field in ("share_params", "switches"))
        terms.append(Term(name, title, weight, share_param, switch))
    return terms


def _title(term: str) -> str:
    """Return the name of a term for people, abbreviations in capitals: "Inter", "Class level", "MCD"."""
    words = (word if set(word) & set("aeiouy") else word.upper() for word in term.split("_"))
    return schema_fields.humanise("_".join(words))


def draw(
    entry: Entry,
    value: Mapping[str, Any],
    *,
    path: str,
    key: str,
    field_errors: FieldErrors,
    taps: Mapping[str, Sequence[str]],
    combined: bool = False,
    added: bool = False,
) -> dict[str, Any]:
    """Draw the parameters and terms of a method; return its name, parameters and shares.

    Args:
        entry: The method.
        value: The draft of a method, whose values are used if it names this one.
        path: Path of the method in the spec.
        key: Prefix of the widgets' keys.
        field_errors: Receives the placeholders for errors.
        taps: Taps of the chosen networks, by "student" and "teacher".
        combined: Whether the method is a part of a combination, in which shares are of the terms of all its methods.
        added: Whether its terms are added to those of another method.
    """
    same = value["name"] == entry["name"]
    fields = schema_fields.schema_to_fields(entry["params"])
    defaults = schema_fields.schema_defaults(entry["params"])
    params = schema_fields.with_defaults(value["params"] if same else {}, defaults)
    chosen_now = not same or not (value["params"] or "shares" in value)
    shares = dict(entry.get(USUAL_SHARES, {})) if chosen_now else dict(value.get("shares") or {})
    terms = terms_of(entry, fields, added=added)
    # This includes the weight of cross-entropy, which an added method does not have.
    of_terms = {*entry.get("weight_params", {}).values(), *entry.get("share_params", {}).values()}
    others = [item for item in fields if item.path not in of_terms]
    object_values = {name: param for name, param in params.items() if name not in of_terms}
    name = entry["name"]
    drawn = draw_object(
        others, object_values, path=f"{path}.params", key=f"{key}.{name}", field_errors=field_errors, taps=taps
    )
    field_errors.add(f"{path}.params")
    shown = [term for term in terms if not term.is_off(drawn)]
    chosen = _draw_terms(shown, params, shares, f"{key}.{name}", path, field_errors, combined=combined or added)
    if shown:
        field_errors.add(f"{path}.shares")
    return {"name": name, "params": drawn | chosen.params, "shares": chosen.shares}


@dataclass(frozen=True)
class _Chosen:
    """Weights and shares of the terms: parameters that are set, and shares by term."""

    params: dict[str, Any]
    shares: dict[str, float]


def _draw_terms(
    terms: Sequence[Term],
    params: Mapping[str, Any],
    shares: Mapping[str, float],
    key: str,
    path: str,
    field_errors: FieldErrors,
    *,
    combined: bool,
) -> _Chosen:
    chosen = _Chosen({}, {})
    if not terms:
        return chosen
    st.caption("Terms of the loss, each with a weight or a share of the gradient.")
    with st.container(horizontal=True):
        for term in terms:
            if term.weight is None and len(terms) == 1 and not combined:
                continue  # the only term, without a weight: there is nothing to choose
            with st.container(width=_FIELD_WIDTH):
                _draw_term(
                    term, params, shares, chosen, key, path, field_errors, combined=combined, alone=len(terms) == 1
                )
    return chosen


def _draw_term(
    term: Term,
    params: Mapping[str, Any],
    shares: Mapping[str, float],
    chosen: _Chosen,
    key: str,
    path: str,
    field_errors: FieldErrors,
    *,
    combined: bool,
    alone: bool,
) -> None:
    """Draw a term's weight or share, and the switch between the two, below each other."""
    share = term.share(params, shares)
    place = st.container()
    # A method that has just been chosen shall not begin with an error.
    by_share = share is not None or term.needs_one(params)
    # Shares refer to the weights of other terms, so the only term of a loss cannot have one.
    if by_share or (term.may_have_share and (combined or not alone)):
        by_share = st.toggle(
            "By share",
            value=by_share,
            key=f"{key}.{path}.share.{term.name}",
            help=escape(
                f"Instead of a weight, {term.title} gets a share of the summed gradient norms at every step. Its "
                "weight then follows from the other terms."
            ),
        )
    with place:
        if by_share:
            # A method's own parameter gives a share of its own terms, which are not all in a combination.
            in_params = bool(term.share_param) and not combined and term.name not in shares
            where = f"params.{term.share_param}" if in_params else f"shares.{term.name}"
            hint = "Share of the summed gradient norms, greater than 0 and less than 1."
            field = FormField(where, f"{term.title} share", "number", _FIRST_SHARE, step=0.05, help=hint)
            entered = draw_field(field, _FIRST_SHARE if share is None else share, f"{path}.{where}", key, field_errors)
            if in_params:
                chosen.params[term.share_param] = entered
            else:
                chosen.shares[term.name] = entered
                if term.weight and term.weight.default is None and term.share_param:
                    # A method with such a parameter needs one of the two; the share replaces this weight.
                    chosen.params[term.weight.path] = params.get(term.weight.path) or 1.0
        elif term.weight:
            name = term.weight.path
            field = replace(term.weight, label=term.weight_label)
            chosen.params[name] = draw_field(field, params.get(name), f"{path}.params.{name}", key, field_errors)
        else:
            label = escape(f"{term.title} weight")
            st.text_input(label, value="fixed", disabled=True, key=f"{key}.{path}.fixed.{term.name}")
