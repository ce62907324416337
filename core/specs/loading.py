"""From a person's text to a spec, with every problem named at once."""

from __future__ import annotations

import codecs
import errno
import os
import re
import select
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import ValidationError

from common.input_bounds import DEFAULT_BOUNDS, SUBMITTED, BoundsError, check_data
from core.specs.experiment import STORED, ExperimentSpec
from core.specs.labels import without_automatic_labels
from core.specs.problems import Problem, SpecError, problems_of

_MOST_MERGED = 100
_MOST_FIELDS = 10_000

MOST_CHARACTERS = 1 << 20
"""Of a text that is read."""
MAX_BYTES = 4 * MOST_CHARACTERS
"""Of such a text in UTF-8."""
_MOST_DIGITS = 1000
_MOST_NODES = 100_000
"""Values in a text, each counted as often as aliases repeat it: ten lines can stand for a billion values."""

_LOOKED_AT = 4096
_PIPE_SECONDS = 10.0

# The longer ones first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)

# YAML 1.2's core schema (yaml.org/spec/1.2.2, section 10.3.2). PyYAML reads YAML 1.1, where 010 is 8, 1:30 is 90, 1e-3
# is text, and yes, no, on and off are truth values whatever the field.
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_NULL = re.compile(r"~|null|Null|NULL|")
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_SCHEMA = (
    (f"{_TAG}bool", _BOOL, "tTfF"),
    (f"{_TAG}int", _INT, "-+0123456789"),
    (f"{_TAG}float", _FLOAT, "-+.0123456789"),
    (f"{_TAG}null", _NULL, ("~", "n", "N", "")),
    (_MERGE, re.compile("<<"), "<"),  # of YAML 1.1, and in use
)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    found: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, firsts in _SCHEMA:
        for first in firsts:
            # PyYAML asks for a match at the beginning only.
            found.setdefault(first, []).append((tag, re.compile(f"(?:{pattern.pattern})\\Z")))
    return found


class _Loader(yaml.SafeLoader):
    """YAML 1.2 whose mappings name each field once; plain YAML keeps the last one and says nothing.

    What aliases stand for is counted before anything is made of it.
    """

    yaml_implicit_resolvers = _resolvers()
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        f"{_TAG}{kind}": yaml.SafeLoader.yaml_constructors[f"{_TAG}{kind}"] for kind in ("null", "str", "seq", "map")
    } | {None: yaml.SafeLoader.construct_undefined}

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if node is None:
            return None
        if not alias:
            pairs = node.value if isinstance(node, yaml.CollectionNode) else ()
            children = [child for item in pairs for child in (item if isinstance(item, tuple) else (item,))]
            # A node that is not complete yet contains an alias of itself.
            self._sizes[id(node)] = 1 + sum(self._sizes.get(id(child), _MOST_NODES) for child in children)
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":int") and len(node.value) > _MOST_DIGITS:
            # Their time grows with the square of their length.
            raise yaml.constructor.ConstructorError(problem="a number of too many digits", problem_mark=mark)
        if self._sizes.get(id(node), _MOST_NODES + 1) > _MOST_NODES:
            text = f"more than {_MOST_NODES:,} values, with those that aliases (*name) repeat; write fewer"
            raise yaml.constructor.ConstructorError(problem=text, problem_mark=mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here and not where the mapping is made: by then what `<<` merges into it looks like its own.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"{key.value!r} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return node

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # noqa: N803 (PyYAML's name)
        """Each level makes the scanner slower for all that follows."""
        if self.flow_level >= DEFAULT_BOUNDS.depth:
            raise yaml.scanner.ScannerError(problem="nested too deeply", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(TokenClass)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge keys (``<<``) copy what they name; ten of ten of ten would fill the memory."""
        merged = sum(
            len(value.value) if isinstance(value, yaml.SequenceNode) else 1
            for key, value in node.value
            if key.tag == _MERGE
        )
        if merged <= _MOST_MERGED:
            super().flatten_mapping(node)
        if merged > _MOST_MERGED or len(node.value) > _MOST_FIELDS:
            raise yaml.constructor.ConstructorError(
                problem="merge keys make too many fields", problem_mark=node.start_mark
            )


def _scalar(loader: _Loader, node: yaml.ScalarNode, pattern: re.Pattern[str], kind: str) -> str:
    text = str(loader.construct_scalar(node))
    if not pattern.fullmatch(text):  # under a tag of its own, as !!int 1_000
        raise yaml.constructor.ConstructorError(problem=f"{text!r} is no {kind}", problem_mark=node.start_mark)
    return text


def _bool(loader: _Loader, node: yaml.ScalarNode) -> bool:
    return _scalar(loader, node, _BOOL, "truth value").lower() == "true"


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = _scalar(loader, node, _INT, "whole number")
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = _scalar(loader, node, _FLOAT, "number").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor(f"{_TAG}bool", _bool)
_Loader.add_constructor(f"{_TAG}int", _int)
_Loader.add_constructor(f"{_TAG}float", _float)


class YamlDumper(yaml.SafeDumper):
    """Writes what a reader of YAML 1.1 and one of 1.2 read alike: what either takes for another type is quoted."""


for _first, _found in _resolvers().items():
    for _tag, _pattern in _found:
        YamlDumper.add_implicit_resolver(_tag, _pattern, [_first])


def parse_experiment(data: Any) -> ExperimentSpec:
    """Validate a spec given as plain data. Raises SpecError with every problem and its path."""
    if not isinstance(data, dict):
        raise SpecError([Problem("", f"a spec is a mapping of fields, not {_article(data)}")])
    try:
        return ExperimentSpec.model_validate(data, context=SUBMITTED)
    except ValidationError as error:
        raise SpecError(problems_of(error)) from None


def parse_stored_experiment(data: Any) -> ExperimentSpec:
    """A spec out of the database, also one with texts that would be refused by now. Raises ValidationError."""
    return ExperimentSpec.model_validate(data, context=STORED)


def load_text(text: str) -> Any:
    """YAML or JSON as plain data, not yet a spec. Raises SpecError, with line and column, where the text is neither."""
    if len(text) > MOST_CHARACTERS:
        raise SpecError([Problem("", f"a text of {len(text):,} characters; at most {MOST_CHARACTERS:,} are read")])
    try:
        data = yaml.load(text, _Loader)
        check_data(data)  # an alias stands for all that it repeats
        return data
    except BoundsError as error:
        raise SpecError([Problem(error.path, error.message)]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SpecError([Problem("", f"not YAML{where}: {error.problem or error.context}")]) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2025-13-45
        raise SpecError([Problem("", f"not YAML: {str(error).splitlines()[0]}")]) from None
    except RecursionError:
        raise SpecError([Problem("", "not YAML: nested too deeply")]) from None


def load_bytes(content: bytes) -> Any:
    """YAML or JSON in UTF-8 as plain data. Raises SpecError, with the encoding where it is another."""
    return load_text(decode_utf8(content))


def load_file(path: Path) -> Any:
    """A YAML or JSON file as plain data. Raises SpecError, also where the file cannot be read as text."""
    try:
        text = decode_utf8(_content(path))
    except OSError as error:
        raise SpecError([Problem("", f"cannot read {path}: {error.strerror or error}")]) from None
    except ValueError as error:  # also a path with NUL in it
        problems = error.problems if isinstance(error, SpecError) else [Problem("", str(error))]
        raise SpecError([Problem("", f"cannot read {path}: {problem}") for problem in problems]) from None
    return load_text(text)


def _content(path: Path) -> bytes:
    """At most a byte more than a spec may have. Raises OSError."""
    if not path.is_fifo():
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    # As `<(command)` gives it. Opened in the ordinary way, one that nobody writes to would be waited for without end.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not select.select([file], [], [], _PIPE_SECONDS)[0]:
            raise OSError(errno.ETIMEDOUT, "nothing is written to this pipe")
        os.set_blocking(file.fileno(), True)
        return file.read(MAX_BYTES + 1)


def decode_utf8(content: bytes) -> str:
    """UTF-8 as text. Raises SpecError where it is not UTF-8, or too long to be a spec."""
    if len(content) > MAX_BYTES:
        raise SpecError([Problem("", f"longer than {MAX_BYTES:,} bytes")])
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            raise SpecError([Problem("", f"it is written in {encoding}; save it as UTF-8")])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        binary = any(byte < 32 and byte not in b"\t\n\r\f" for byte in content[:_LOOKED_AT])
        kind = "it is a binary file" if binary else "it may be ISO-8859-1 or Windows-1252; save it as UTF-8"
        text = f"not UTF-8 text, by byte 0x{content[error.start]:02x} in line {line}; {kind}"
        raise SpecError([Problem("", text)]) from None
    if "\0" in text[:_LOOKED_AT]:
        wide = content[:4].count(0) in (2, 3)  # letters, with their zeros, of UTF-16 or UTF-32 without a mark
        kind = "it is written in UTF-16 or UTF-32; save it as UTF-8" if wide else "it is a binary file"
        raise SpecError([Problem("", kind)])
    return text


def parse_text(text: str) -> ExperimentSpec:
    """Validate a spec written as YAML or JSON. Raises SpecError, with line and column where the text is not YAML."""
    return parse_experiment(load_text(text))


def read_experiment(path: Path) -> ExperimentSpec:
    """Validate a spec file. Raises SpecError, also where the file cannot be read as text."""
    return parse_experiment(load_file(path))


def to_yaml(spec: ExperimentSpec) -> str:
    """The spec as YAML, complete but for the labels that follow from the methods, in the order of its fields."""
    return dump_text(without_automatic_labels(spec.model_dump(mode="json")))


def dump_text(data: Any, *, width: int = 80) -> str:
    """Plain data as YAML that ``load_text`` reads back."""
    return yaml.dump(data, Dumper=YamlDumper, sort_keys=False, allow_unicode=True, width=width)


def _article(value: Any) -> str:
    return {"NoneType": "an empty file", "str": "plain text", "list": "a list"}.get(
        type(value).__name__, f"a {type(value).__name__}"
    )
