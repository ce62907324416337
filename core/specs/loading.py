"""Reads specs from text, files and stored data, and reports every problem at once."""

from __future__ import annotations

import codecs
import errno
import os
import select
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from common.input_bounds import SUBMITTED, BoundsError, check_data
from core.specs.experiment import STORED, ExperimentSpec
from core.specs.labels import without_automatic_labels
from core.specs.problems import Problem, SpecError, problems_of
from core.specs.yaml_loader import SpecLoader, YamlDumper

MAX_CHARACTERS = 1 << 20
"""Length of a text that is read."""
MAX_BYTES = 4 * MAX_CHARACTERS
"""Length of such a text in UTF-8."""
_INSPECTED = 4096
"""Bytes of a file that are searched for signs of a binary format."""
_PIPE_SECONDS = 10.0

# The longer marks first: that of UTF-32 begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def parse_experiment(data: Any) -> ExperimentSpec:
    """Validate a spec that is given as plain data.

    Raises:
        SpecError: The spec is not valid; the error lists every problem with its path.
    """
    if not isinstance(data, dict):
        raise SpecError([Problem("", f"a spec is a mapping of fields, not {_with_article(data)}")])
    try:
        return ExperimentSpec.model_validate(data, context=SUBMITTED)
    except ValidationError as error:
        raise SpecError(problems_of(error)) from None


def parse_stored_experiment(data: Any) -> ExperimentSpec:
    """Validate a spec from the database. Texts that a newer version would refuse are accepted.

    Raises:
        ValidationError: The spec is not valid.
    """
    return ExperimentSpec.model_validate(data, context=STORED)


def load_text(text: str) -> Any:
    """Parse YAML or JSON into plain data, which is not yet a spec.

    Raises:
        SpecError: The text is neither; the error gives line and column.
    """
    if len(text) > MAX_CHARACTERS:
        raise SpecError([Problem("", f"a text of {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")])
    try:
        data = yaml.load(text, SpecLoader)
        check_data(data)  # an alias counts as all the values that it repeats
        return data
    except BoundsError as error:
        raise SpecError([Problem(error.path, error.message)]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SpecError([Problem("", f"not YAML{position}: {error.problem or error.context}")]) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2025-13-45
        raise SpecError([Problem("", f"not YAML: {str(error).splitlines()[0]}")]) from None
    except RecursionError:
        raise SpecError([Problem("", "not YAML: nested too deeply")]) from None


def load_bytes(content: bytes) -> Any:
    """Parse YAML or JSON in UTF-8 into plain data.

    Raises:
        SpecError: The content is not UTF-8 (the error names the encoding that it seems to have), or not YAML.
    """
    return load_text(decode_utf8(content))


def load_file(path: Path) -> Any:
    """Parse a YAML or JSON file into plain data.

    Raises:
        SpecError: The file cannot be read, or its content is neither.
    """
    try:
        text = decode_utf8(_read(path))
    except OSError as error:
        raise SpecError([Problem("", f"cannot read {path}: {error.strerror or error}")]) from None
    except ValueError as error:  # also a path with NUL in it
        problems = error.problems if isinstance(error, SpecError) else [Problem("", str(error))]
        raise SpecError([Problem("", f"cannot read {path}: {problem}") for problem in problems]) from None
    return load_text(text)


def _read(path: Path) -> bytes:
    """Read a file, up to one byte more than a spec may have. Raises OSError."""
    if not path.is_fifo():
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    # A pipe, as `<(command)` gives. Opened in the ordinary way, a pipe without a writer would block forever.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not select.select([file], [], [], _PIPE_SECONDS)[0]:
            raise OSError(errno.ETIMEDOUT, "nothing is written to this pipe")
        os.set_blocking(file.fileno(), True)
        return file.read(MAX_BYTES + 1)


def decode_utf8(content: bytes) -> str:
    """Decode UTF-8.

    Raises:
        SpecError: The content is not UTF-8, or longer than a spec may be.
    """
    if len(content) > MAX_BYTES:
        raise SpecError([Problem("", f"longer than {MAX_BYTES:,} bytes")])
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            raise SpecError([Problem("", f"it is written in {encoding}; save it as UTF-8")])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        binary = any(byte < 32 and byte not in b"\t\n\r\f" for byte in content[:_INSPECTED])
        advice = "it is a binary file" if binary else "it may be ISO-8859-1 or Windows-1252; save it as UTF-8"
        text = f"not UTF-8 text, by byte 0x{content[error.start]:02x} in line {line}; {advice}"
        raise SpecError([Problem("", text)]) from None
    if "\0" in text[:_INSPECTED]:
        wide = content[:4].count(0) in (2, 3)  # ASCII letters in UTF-16 or UTF-32 without a byte order mark
        advice = "it is written in UTF-16 or UTF-32; save it as UTF-8" if wide else "it is a binary file"
        raise SpecError([Problem("", advice)])
    return text


def parse_text(text: str) -> ExperimentSpec:
    """Validate a spec that is written as YAML or JSON.

    Raises:
        SpecError: The text is not YAML (the error gives line and column), or the spec is not valid.
    """
    return parse_experiment(load_text(text))


def read_experiment(path: Path) -> ExperimentSpec:
    """Validate a spec file.

    Raises:
        SpecError: The file cannot be read, or the spec is not valid.
    """
    return parse_experiment(load_file(path))


def to_yaml(spec: ExperimentSpec) -> str:
    """Return the complete spec as YAML, in the order of its fields, without the labels that follow from the methods."""
    return dump_text(without_automatic_labels(spec.model_dump(mode="json")))


def dump_text(data: Any, *, width: int = 80) -> str:
    """Return plain data as YAML that ``load_text`` reads back."""
    return yaml.dump(data, Dumper=YamlDumper, sort_keys=False, allow_unicode=True, width=width)


def _with_article(value: Any) -> str:
    return {"NoneType": "an empty file", "str": "plain text", "list": "a list"}.get(
        type(value).__name__, f"a {type(value).__name__}"
    )
