"""From a person's text to a spec, with every problem named at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from core.spec.experiment import STORED, ExperimentSpec
from core.spec.labels import without_automatic_labels
from core.spec.problems import Problem, SpecError, problems_of
from core.wire.bounds import DEFAULT_BOUNDS, SUBMITTED, BoundsError, check_data

_LONGEST = 4 * 2**20
_MOST_MERGED = 100
_MOST_FIELDS = 10_000

MOST_CHARACTERS = 1 << 20
"""Of a text that is read."""
_MOST_DIGITS = 1000
_MOST_NODES = 100_000
"""Values in a text, each counted as often as aliases repeat it: ten lines can stand for a billion values."""


class _UniqueFields(yaml.SafeLoader):
    """YAML whose mappings name each field once; plain YAML keeps the last one and says nothing.

    What aliases stand for is counted before anything is made of it.
    """

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
            # Numbers in base 60 (1:30:00) take time that grows with the square of their length.
            raise yaml.constructor.ConstructorError(problem="a number of too many digits", problem_mark=mark)
        if self._sizes.get(id(node), _MOST_NODES + 1) > _MOST_NODES:
            text = f"more than {_MOST_NODES:,} values, with those that aliases (*name) repeat; write fewer"
            raise yaml.constructor.ConstructorError(problem=text, problem_mark=mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"{key.value!r} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)

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
            if key.tag == "tag:yaml.org,2002:merge"
        )
        if merged <= _MOST_MERGED:
            super().flatten_mapping(node)
        if merged > _MOST_MERGED or len(node.value) > _MOST_FIELDS:
            raise yaml.constructor.ConstructorError(
                problem="merge keys make too many fields", problem_mark=node.start_mark
            )


def parse_experiment(data: Any) -> ExperimentSpec:
    """Validate a spec given as plain data. Raises SpecError with every problem and its path."""
    if not isinstance(data, dict):
        raise SpecError([Problem("", f"a spec is a mapping of fields, not {_article(data)}")])
    try:
        return ExperimentSpec.model_validate(data, context=SUBMITTED)
    except ValidationError as error:
        raise SpecError(problems_of(error)) from None


def stored_experiment(data: Any) -> ExperimentSpec:
    """A spec out of the database, also one with texts that would be refused by now. Raises ValidationError."""
    return ExperimentSpec.model_validate(data, context=STORED)


def load_text(text: str) -> Any:
    """YAML or JSON as plain data, not yet a spec. Raises SpecError, with line and column, where the text is neither."""
    if len(text) > MOST_CHARACTERS:
        raise SpecError([Problem("", f"a text of {len(text):,} characters; at most {MOST_CHARACTERS:,} are read")])
    try:
        if len(text) > _LONGEST:
            raise SpecError([Problem("", f"{len(text)} characters are too many; a spec has at most {_LONGEST}")])
        data = yaml.load(text, _UniqueFields)
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


def load_file(path: Path) -> Any:
    """A YAML or JSON file as plain data. Raises SpecError, also where the file cannot be read as text."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not UTF-8 text"
        raise SpecError([Problem("", f"cannot read {path}: {reason}")]) from None
    return load_text(text)


def parse_text(text: str) -> ExperimentSpec:
    """Validate a spec written as YAML or JSON. Raises SpecError, with line and column where the text is not YAML."""
    return parse_experiment(load_text(text))


def read_experiment(path: Path) -> ExperimentSpec:
    """Validate a spec file. Raises SpecError, also where the file cannot be read as text."""
    return parse_experiment(load_file(path))


def to_yaml(spec: ExperimentSpec) -> str:
    """The spec as YAML, complete but for the labels that follow from the methods, in the order of its fields."""
    plain = without_automatic_labels(spec.model_dump(mode="json"))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _article(value: Any) -> str:
    return {"NoneType": "an empty file", "str": "plain text", "list": "a list"}.get(
        type(value).__name__, f"a {type(value).__name__}"
    )
