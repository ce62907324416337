"""The seeds of the New experiment form: a list, or as many as are needed to decide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from dashboard.forms import schema_fields
from dashboard.forms.spec_draft import DEFAULT_SEEDS
from dashboard.forms.widgets import FieldErrors, draw_integers, draw_object

_LISTED, _UNTIL = "Listed", "Until decided"


def draw(seeds: Any, schema: Mapping[str, Any], key: str, field_errors: FieldErrors) -> Any:
    """Draw the choice between both forms and the fields of the chosen one, and return the seeds as a spec has them.

    Args:
        seeds: The draft's seeds.
        schema: JSON schema of an experiment spec.
        key: Prefix of the widgets' keys.
        field_errors: Receives the placeholders for errors.
    """
    given = dict(seeds) if isinstance(seeds, Mapping) else None
    form = st.segmented_control(
        "Number of seeds",
        [_LISTED, _UNTIL],
        default=_UNTIL if given else _LISTED,
        required=True,
        key=f"{key}.seeds.form",
        help="Until decided: seeds are added until each comparison with the first method is decided, or their maximum "
        "number is reached.",
    )
    if form == _LISTED:
        chosen: Any = draw_integers(
            "Seeds",
            list(DEFAULT_SEEDS) if given else list(seeds),
            path="seeds",
            key=f"{key}.seeds",
            field_errors=field_errors,
            hint="Each method is trained once per seed. Runs with the same seed are compared in pairs.",
        )
    else:
        until = schema["$defs"]["UntilDecided"]
        # Only the experiments of a sweep can race.
        hidden = ("until", "race")
        shown = {
            **until,
            "properties": {name: item for name, item in until["properties"].items() if name not in hidden},
        }
        values = schema_fields.with_defaults(given or {}, schema_fields.schema_defaults(shown, schema))
        fields = schema_fields.schema_to_fields(shown, schema)
        chosen = {"until": "decided"} | draw_object(fields, values, path="seeds", key=key, field_errors=field_errors)
    field_errors.add("seeds")
    return chosen
