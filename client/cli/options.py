"""What several commands share: options, the spec from a file, and how JSON is written."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from client.cli.arguments import path_of
from client.cli.exit_codes import BAD_INPUT, CliExit
from client.client import Client
from common.terminal import printable_json
from core.specs import Problem, SpecError, load_bytes, load_file, load_text, parse_experiment, with_field
from core.specs.labels import without_automatic_labels
from core.specs.loading import MAX_BYTES

JsonFlag = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, as the API answers.")]
SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="A YAML or JSON file; - reads stdin.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change one field before the spec is validated, as training.epochs=5, seeds=[0,1] or "
        "methods.1.params.alpha=2. The value is YAML. May be given several times.",
    ),
]


def write_json(value: BaseModel) -> None:
    """An answer on stdout, indented."""
    typer.echo(printable_json(value.model_dump_json(indent=2)))


@contextmanager
def connected() -> Iterator[Client]:
    """The client that the environment and the home name."""
    with Client() as client:
        yield client


@contextmanager
def map_field_errors(**fields: str) -> Iterator[None]:
    """Says what is wrong with a field of a request in words of the command line: its option, and what it takes."""
    try:
        yield
    except SpecError as error:
        lines = [fields.get(item.path.partition(".")[0], str(item)) for item in error.problems]
        raise SpecError([Problem("", line) for line in dict.fromkeys(lines)]) from None


def read_spec(source: str, changes: Sequence[str]) -> dict[str, Any]:
    """The spec of a file, or of stdin for "-", with single fields changed, and found to be valid.

    As it was written: what it leaves out is the backend's to fill in, which may be of another version.
    Raises SpecError, each problem with the file's name in front.
    """
    return read_plain(source, changes, parse_experiment)


def read_plain(source: str, changes: Sequence[str], judge: Callable[[Any], object]) -> dict[str, Any]:
    """Plain data of a file, or of stdin, with single fields changed. ``judge`` raises SpecError where it is unfit."""
    name = "stdin" if source == "-" else source
    try:
        data = load_bytes(read_stdin()) if source == "-" else load_file(path_of(source))
        if changes:
            data = _with_labels_released(data)
        for change in changes:
            data = set_field(data, change)
        judge(data)
    except SpecError as error:
        # A file that cannot be read is named in the sentence already.
        named = [
            item if item.message.startswith(f"cannot read {path_of(source)}: ") else Problem("", f"{name}: {item}")
            for item in error.problems
        ]
        raise SpecError(named) from None
    fields: dict[str, Any] = data
    return fields


def _with_labels_released(data: Any) -> Any:
    """A spec, or the spec in a sweep, whose methods take their labels along when they are changed."""
    if isinstance(data, dict) and "experiment" in data:
        return {**data, "experiment": without_automatic_labels(data["experiment"])}
    return without_automatic_labels(data)


def parse_change(change: str) -> tuple[str, Any]:
    """``path=value`` as the path and the value read as YAML. Raises SpecError."""
    path, equals, text = change.partition("=")
    path = path.strip()
    if not equals or not all(path.split(".")):
        raise SpecError([Problem("", f"--set {change}: give it as path=value, as training.epochs=5")])
    try:
        return path, load_text(text)
    except SpecError as error:
        raise SpecError([Problem("", f"--set {change}: {problem.message}") for problem in error.problems]) from None


def set_field(data: Any, change: str) -> Any:
    """Plain data with one field changed. Mappings on the way are made, list items must be there; the input is kept.

    Args:
        change: ``path=value``, the path's parts parted by dots, the value YAML.

    Raises:
        SpecError: the change has no such form, or leads through something that has no fields.
    """
    path, value = parse_change(change)
    try:
        return with_field(data, path, value)
    except SpecError as error:
        raise SpecError([Problem("", f"--set {change}: {problem.message}") for problem in error.problems]) from None


def read_stdin() -> bytes:
    """What is given on stdin, as bytes: a spec is UTF-8, whatever the terminal's encoding. Raises SpecError."""
    if sys.stdin is None:
        raise SpecError([Problem("", "it is closed")])
    return sys.stdin.buffer.read(MAX_BYTES + 1)


def plugins() -> list[str]:
    """Modules named in DKD_PLUGINS, which add entries to the catalog."""
    return [name.strip() for name in os.environ.get("DKD_PLUGINS", "").split(",") if name.strip()]


def at_least_one(limit: int) -> int:
    """A count that an option gives. Raises Stop below 1."""
    if limit < 1:
        raise CliExit(f"--limit {limit}: at least 1", BAD_INPUT)
    return limit
