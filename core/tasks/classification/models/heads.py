"""Heads that a method puts in place of a network's own."""

from __future__ import annotations

from torch import nn

from core.distill.features.projector import ProjectedHead, Projector
from core.tasks.classification.models.network import Network, StagedNetwork
from core.weights.errors import WeightsError
from core.weights.metadata import HeadForm


def with_head_form(network: Network, form: HeadForm | None) -> Network:
    """Return a network with a new head of a form that a file of weights names; the network itself for its own head.

    Args:
        network: The network.
        form: The form of the head; None for the network's own.

    Raises:
        WeightsError: The network cannot have such a head.
    """
    if form is None:
        return network
    linear = nn.Linear(form.features, network.linear.out_features)
    try:
        return network.with_head(ProjectedHead(Projector(form)), linear)
    except ValueError as error:
        text = "the weights are of a student with SimKD's projector, which this network cannot have"
        raise WeightsError(f"{text}: {error}") from None


def head_form(network: nn.Module) -> HeadForm | None:
    """Return the form of a network's head; None for its own."""
    if isinstance(network, StagedNetwork) and isinstance(network.head, ProjectedHead):
        return network.head.form
    return None
