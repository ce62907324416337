"""DML: two students that teach each other, without a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from core.catalog.methods.entry import METHODS, MethodContext, MethodEntry, SpecWarning
from core.catalog.methods.shared import CE_TERM
from core.catalog.metric import LOSS_PANEL, Metric
from core.catalog.models import MODELS
from core.catalog.registry import Params, UnknownNameError

PEER_TOP1 = Metric("test/peer_top1", "Test accuracy of the method's own network", "%", "higher")
_PEER_VALIDATION = Metric("val/peer_top1", "Validation accuracy of the method's own network", "%", "higher")


def _list_params(schema: dict[str, Any]) -> None:
    """Add the parameters of the models that have any, for the form."""
    entries = {entry.name: entry.params.model_json_schema() for entry in MODELS if entry.params.model_fields}
    schema["x-params-of"] = {"field": "peer", "entries": entries}


class DMLParams(Params):
    """Parameters of DML."""

    weight: float = Field(1.0, ge=0, description="Weight of T²·KL(other network ‖ this network), in both networks.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels, in both networks.")
    temperature: float = Field(1.0, gt=0, le=100, description="T, the temperature of both softened distributions.")
    peer: str = Field("", description="Model of the other network; empty for the student's.")
    peer_params: dict[str, Any] = Field(
        default_factory=dict,
        validate_default=True,
        description="Parameters of that model.",
        json_schema_extra=_list_params,
    )

    @field_validator("peer")
    @classmethod
    def _in_catalog(cls, peer: str) -> str:
        if peer:
            try:
                MODELS[peer]
            except UnknownNameError as error:
                raise ValueError(str(error)) from None
        return peer

    @field_validator("peer_params")
    @classmethod
    def _complete(cls, params: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "peer" not in info.data:  # the name has been refused
            return params
        if info.data["peer"]:
            return MODELS[info.data["peer"]].params.model_validate(params, context=info.context).model_dump(mode="json")
        if params:
            raise ValueError("without peer, the other network is the student's model with the student's parameters")
        return params


def _problems(params: DMLParams, context: MethodContext) -> Iterator[SpecWarning]:
    if params.peer and context.facts:
        text = MODELS[params.peer].refusal(context.facts.image_size, context.facts.channels)
        if text:
            yield SpecWarning("params.peer", text)


METHODS.add(
    MethodEntry(
        name="dml",
        title="DML",
        family="several_networks",
        aliases=("deep_mutual_learning", "mutual"),
        summary="Two students are trained at once, each with the other's distribution as a target.",
        target="core.distill.logits.dml:DML",
        params=DMLParams,
        needs_teacher=False,
        source="Zhang, Xiang, Hospedales and Lu 2018, arXiv 1706.00384",
        weight_params={"ce": "ce_weight", "kl": "weight"},
        metrics=(
            CE_TERM,
            Metric("train/kl", "KL(other network ‖ student), unweighted", "nats", "lower", panel=LOSS_PANEL),
            Metric("train/peer_ce", "Cross-entropy of the method's own network", "nats", "lower", drawn=False),
            Metric("train/peer_kl", "KL(student ‖ other network), unweighted", "nats", "lower", drawn=False),
            PEER_TOP1,
            _PEER_VALIDATION,
        ),
        problems=_problems,
        cost="A second network is trained beside the student: twice the time and memory if both are of one model. No "
        "teacher.",
    )
)
