"""The choice of settings on held-out images, in the New experiment form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from dashboard.forms import schema_fields
from dashboard.forms.widgets import FieldErrors, draw_object
from dashboard.markup import escape

_FIXED = ("on", "methods")


def draw(
    tune: Mapping[str, Any] | None, schema: Mapping[str, Any], key: str, field_errors: FieldErrors, *, item: str
) -> dict[str, Any] | None:
    """Draw the switch and, if it is on, the fields, and return ``tune`` as a spec has it; None if it is off.

    Args:
        tune: The draft's choice.
        schema: JSON schema of an experiment spec.
        key: Prefix of the widgets' keys.
        field_errors: Receives the placeholders for errors.
        item: What an item of the data set is called.
    """
    described = schema["$defs"].get("Tune")
    if described is None:  # an older backend
        return None
    noun = escape(item)
    chosen = st.toggle(
        "Choose the settings of each method first",
        value=bool(tune),
        key=f"{key}.tune",
        help=f"Every method gets the same number of trials on {noun}s held out of the training {noun}s. The best "
        "settings are frozen before the first test evaluation, and the students are trained with them.",
    )
    field_errors.add("tune")
    if not chosen:
        return None
    shown = {
        **described,
        "properties": {name: item for name, item in described["properties"].items() if name not in _FIXED},
    }
    values = schema_fields.with_defaults(dict(tune or {}), schema_fields.schema_defaults(shown, schema))
    fields = schema_fields.schema_to_fields(shown, schema)
    return draw_object(fields, values, path="tune", key=key, field_errors=field_errors)
