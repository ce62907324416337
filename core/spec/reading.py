"""From a person's text to a spec, with every problem named at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from core.spec.experiment import STORED, ExperimentSpec
from core.spec.labels import without_automatic_labels
from core.spec.problems import Problem, SpecError, problems_of


class _UniqueFields(yaml.SafeLoader):
    """YAML whose mappings name each field once; plain YAML keeps the last one and says nothing."""

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


def parse_experiment(data: Any) -> ExperimentSpec:
    """Validate a spec given as plain data. Raises SpecError with every problem and its path."""
    if not isinstance(data, dict):
        raise SpecError([Problem("", f"a spec is a mapping of fields, not {_article(data)}")])
    try:
        return ExperimentSpec.model_validate(data)
    except ValidationError as error:
        raise SpecError(problems_of(error)) from None


def stored_experiment(data: Any) -> ExperimentSpec:
    """A spec out of the database, also one with texts that would be refused by now. Raises ValidationError."""
    return ExperimentSpec.model_validate(data, context=STORED)


def load_text(text: str) -> Any:
    """YAML or JSON as plain data, not yet a spec. Raises SpecError, with line and column, where the text is neither."""
    try:
        return yaml.load(text, _UniqueFields)
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
        text = path.read_text(encoding="utf-8")
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
