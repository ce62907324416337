"""Functions that several commands share: options, reading specs from files, and JSON output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel

from client.cli.arguments import path_of
from client.cli.exit_codes import BAD_INPUT, CliExit
from common.terminal import printable_json
from core.specs import Problem, SpecError, load_bytes, load_file, load_text, parse_experiment, with_field
from core.specs.labels import without_automatic_labels
from core.specs.loading import MAX_BYTES

FormatName = TypeVar("FormatName", bound=str)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, in the form of the API.")]
SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="A YAML or JSON file, or - for stdin.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change one field before the spec is validated, such as training.epochs=5, seeds=[0,1] or "
        "methods.1.params.alpha=2. The value is YAML. Can be repeated.",
    ),
]

ProjectOption = Annotated[
    str | None,
    typer.Option(
        "--project",
        "-p",
        envvar="DKD_PROJECT",
        show_envvar=True,
        help="Name of the project. By default the default project, or the only one in which the token may submit.",
    ),
]
ProjectFilter = Annotated[
    str | None,
    typer.Option("--project", "-p", envvar="DKD_PROJECT", show_envvar=True, help="Only of this project."),
]


def write_json(value: BaseModel) -> None:
    """Print a model as indented JSON."""
    typer.echo(printable_json(value.model_dump_json(indent=2)))


@contextmanager
def map_field_errors(**messages: str) -> Iterator[None]:
    """Replace the problems of a request's fields by messages that name the command's options.

    Args:
        messages: The message by the name of the field.

    Raises:
        SpecError: The body raised a SpecError; this one has the replaced messages.
    """
    try:
        yield
    except SpecError as error:
        lines = [messages.get(item.path.partition(".")[0], str(item)) for item in error.problems]
        raise SpecError([Problem("", line) for line in dict.fromkeys(lines)]) from None


def read_spec(source: str, changes: Sequence[str]) -> dict[str, Any]:
    """Read and validate a spec, with single fields changed.

    Args:
        source: Path of the file, or "-" for stdin.
        changes: ``path=value`` for each changed field.

    Returns:
        The spec as it was written, without defaults: the backend, whose version may differ, adds them.

    Raises:
        SpecError: The spec is invalid; each problem is prefixed with the file's name.
    """
    return read_document(source, changes, parse_experiment)


def read_document(source: str, changes: Sequence[str], validate: Callable[[Any], object]) -> dict[str, Any]:
    """Read the plain data of a file or of stdin, with single fields changed.

    Args:
        source: Path of the file, or "-" for stdin.
        changes: ``path=value`` for each changed field.
        validate: Function that checks the data. It has to raise SpecError for invalid data.

    Raises:
        SpecError: The data cannot be read or is invalid; each problem is prefixed with the file's name.
    """
    name = "stdin" if source == "-" else source
    try:
        data = load_bytes(read_stdin()) if source == "-" else load_file(path_of(source))
        if changes:
            data = _without_automatic_labels(data)
        for change in changes:
            data = set_field(data, change)
        validate(data)
    except SpecError as error:
        # The message for a file that cannot be read names the file already.
        problems = [
            item if item.message.startswith(f"cannot read {path_of(source)}: ") else Problem("", f"{name}: {item}")
            for item in error.problems
        ]
        raise SpecError(problems) from None
    fields: dict[str, Any] = data
    return fields


def _without_automatic_labels(data: Any) -> Any:
    """Remove automatic labels from a spec, or from the spec in a sweep, so that changed methods get new ones."""
    if isinstance(data, dict) and "experiment" in data:
        return {**data, "experiment": without_automatic_labels(data["experiment"])}
    return without_automatic_labels(data)


def parse_change(change: str) -> tuple[str, Any]:
    """Split ``path=value`` into the path and the value parsed as YAML.

    Raises:
        SpecError: The change has another form, or its value is not YAML.
    """
    path, equals, text = change.partition("=")
    path = path.strip()
    if not equals or not all(path.split(".")):
        raise SpecError([Problem("", f"--set {change}: expected path=value, such as training.epochs=5")])
    try:
        return path, load_text(text)
    except SpecError as error:
        raise SpecError([Problem("", f"--set {change}: {problem.message}") for problem in error.problems]) from None


def set_field(data: Any, change: str) -> Any:
    """Return plain data with one field changed; the input is not modified.

    Args:
        data: The data. Missing mappings on the path are created; list items must exist.
        change: ``path=value``, the parts of the path separated by dots, the value YAML.

    Raises:
        SpecError: The change has another form, or its path leads through a value that has no fields.
    """
    path, value = parse_change(change)
    try:
        return with_field(data, path, value)
    except SpecError as error:
        raise SpecError([Problem("", f"--set {change}: {problem.message}") for problem in error.problems]) from None


def read_stdin() -> bytes:
    """Read stdin as bytes: a spec is UTF-8, whatever the terminal's encoding is.

    Raises:
        SpecError: Stdin is closed.
    """
    if sys.stdin is None:
        raise SpecError([Problem("", "it is closed")])
    return sys.stdin.buffer.read(MAX_BYTES + 1)


def plugin_names() -> list[str]:
    """Return the modules listed in DKD_PLUGINS, which add entries to the catalog."""
    return [name.strip() for name in os.environ.get("DKD_PLUGINS", "").split(",") if name.strip()]


def positive_limit(limit: int) -> int:
    """Return the value of ``--limit``.

    Raises:
        CliExit: The limit is below 1.
    """
    if limit < 1:
        raise CliExit(f"--limit {limit}: must be at least 1", BAD_INPUT)
    return limit


def parse_format(format: str, known: Sequence[FormatName], *, as_json: bool) -> FormatName:
    """Return the output format that --format and --json select.

    Args:
        format: Value of --format.
        known: The formats of the command; the first one is the default, for people, and ``json`` is another one.
        as_json: Whether --json is given.

    Raises:
        CliExit: The format is unknown, or contradicts --json.
    """
    if as_json and format not in (known[0], "json"):
        raise CliExit(f"--json and --format {format} contradict each other", BAD_INPUT)
    wanted = "json" if as_json else format
    for name in known:
        if name == wanted:
            return name
    raise CliExit(f"--format {format}: must be one of {', '.join(known)}", BAD_INPUT)
