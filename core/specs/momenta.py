"""The momentum of each term, for methods that have several, and the checks of a training with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from core.catalog.methods import Momenta
from core.specs.components import MethodRef
from core.specs.problems import ProblemParts
from core.specs.training import Optimizer, Training


def momenta_of(method: MethodRef, optimizer: Optimizer) -> Momenta | None:
    """Return the momenta of a method's terms; None if all of them have that of the optimiser.

    Args:
        method: The method, with those that are added to it.
        optimizer: The optimiser of the spec.
    """
    for member in method.members:
        if member.entry.momenta:
            momenta = member.entry.momenta(member.parsed_params, optimizer.momentum)
            return momenta if any(value != optimizer.momentum for value in momenta.values) else None
    return None


def momentum_problems(method: MethodRef, training: Training) -> Iterator[ProblemParts]:
    """Yield what is wrong with the momenta of a method in a training."""
    members = method.members
    owners = [number for number, member in enumerate(members) if member.entry.momenta]
    if not owners:
        return
    owner, *others = owners
    for number in others:
        text = f"{members[owner].name} gives every term its momentum already; remove one of the two"
        yield ("with", number - 1), text, members[number].name
    for number, member in enumerate(members):
        if member.entry.has_first_stage(member.params):
            text = f"{members[owner].name} needs all terms in every step, and {member.name} has a first stage of one"
            yield ("with", number - 1) if number else (), text, member.name
    entry, params = members[owner].entry, members[owner].parsed_params
    place: tuple[int | str, ...] = ("with", owner - 1) if owner else ()
    base = training.optimizer.momentum
    momenta = entry.momenta(params, base) if entry.momenta else None
    for name, value in momenta.of_terms.items() if momenta else ():
        field = momenta.params.get(name, "") if momenta else ""
        path = (*place, "params", *((field,) if field else ()))
        if not 0 <= value < 1:
            text = f"gives {name} a momentum of {value:g} beside the optimiser's {base:g}; it is at least 0 and below 1"
            yield path, text, getattr(params, field, None)
        elif training.optimizer.nesterov and value == 0:
            yield path, f"gives {name} no momentum, and Nesterov's needs one above 0", getattr(params, field, None)


def optimizer_problems(methods: Sequence[MethodRef], training: Training) -> Iterator[ProblemParts]:
    """Yield why the optimiser cannot give each term of a method a momentum of its own, with a path in the training."""
    optimizer = training.optimizer
    for method in methods:
        for member in method.members:
            if member.entry.momenta and not optimizer.entry.sgd_momentum:
                text = f"{member.name} gives each term a momentum of its own, which only gradient descent (sgd) has"
                yield ("optimizer", "name"), text, optimizer.name
                return
