"""YAML as specs are written: YAML 1.2's core schema, no repeated fields, bounds on aliases and merge keys."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

from common.input_bounds import DEFAULT_BOUNDS

_MAX_MERGED = 100
_MAX_FIELDS = 10_000
_MAX_DIGITS = 1000
_MAX_NODES = 100_000
"""Values in a text, each counted as often as aliases repeat it: ten lines can stand for a billion values."""

# YAML 1.2's core schema (yaml.org/spec/1.2.2, section 10.3.2). PyYAML reads YAML 1.1, in which 010 is 8, 1:30 is 90,
# 1e-3 is text, and yes, no, on and off are booleans whatever the field.
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
    (_MERGE, re.compile("<<"), "<"),  # from YAML 1.1, and in use
)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Return the types that a scalar without a tag may have, by its first character."""
    by_first: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, first_characters in _SCHEMA:
        for first in first_characters:
            # PyYAML matches at the beginning only.
            by_first.setdefault(first, []).append((tag, re.compile(f"(?:{pattern.pattern})\\Z")))
    return by_first


class SpecLoader(yaml.SafeLoader):
    """Loader of YAML 1.2 that refuses a mapping with two equal fields; plain YAML keeps the last one silently.

    The number of values that aliases stand for is checked before any object is made.
    """

    yaml_implicit_resolvers = _resolvers()
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        f"{_TAG}{kind}": yaml.SafeLoader.yaml_constructors[f"{_TAG}{kind}"] for kind in ("null", "str", "seq", "map")
    } | {None: yaml.SafeLoader.construct_undefined}

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node and refuse one that stands for too many values."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if node is None:
            return None
        if not alias:
            pairs = node.value if isinstance(node, yaml.CollectionNode) else ()
            children = [child for item in pairs for child in (item if isinstance(item, tuple) else (item,))]
            # A node that is not complete yet contains an alias of itself.
            self._sizes[id(node)] = 1 + sum(self._sizes.get(id(child), _MAX_NODES) for child in children)
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":int") and len(node.value) > _MAX_DIGITS:
            # The time to convert it grows with the square of its length.
            raise yaml.constructor.ConstructorError(problem="a number of too many digits", problem_mark=mark)
        if self._sizes.get(id(node), _MAX_NODES + 1) > _MAX_NODES:
            text = f"more than {_MAX_NODES:,} values, with those that aliases (*name) repeat; write fewer"
            raise yaml.constructor.ConstructorError(problem=text, problem_mark=mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping and refuse a field that is given twice."""
        # Not when the mapping is constructed: by then the fields that `<<` merges look like the mapping's own.
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
        """Refuse deep nesting: each level makes the scanner slower for all that follows."""
        if self.flow_level >= DEFAULT_BOUNDS.depth:
            raise yaml.scanner.ScannerError(problem="nested too deeply", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(TokenClass)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Apply merge keys (``<<``), which copy fields, within bounds: ten of ten of ten would fill the memory."""
        merged = sum(
            len(value.value) if isinstance(value, yaml.SequenceNode) else 1
            for key, value in node.value
            if key.tag == _MERGE
        )
        if merged <= _MAX_MERGED:
            super().flatten_mapping(node)
        if merged > _MAX_MERGED or len(node.value) > _MAX_FIELDS:
            raise yaml.constructor.ConstructorError(
                problem="merge keys make too many fields", problem_mark=node.start_mark
            )


def _scalar(loader: SpecLoader, node: yaml.ScalarNode, pattern: re.Pattern[str], kind: str) -> str:
    """Return a scalar's text. It may not match its type if it has an explicit tag, as ``!!int 1_000``."""
    text = str(loader.construct_scalar(node))
    if not pattern.fullmatch(text):
        raise yaml.constructor.ConstructorError(problem=f"{text!r} is no {kind}", problem_mark=node.start_mark)
    return text


def _bool(loader: SpecLoader, node: yaml.ScalarNode) -> bool:
    return _scalar(loader, node, _BOOL, "truth value").lower() == "true"


def _int(loader: SpecLoader, node: yaml.ScalarNode) -> int:
    text = _scalar(loader, node, _INT, "whole number")
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _float(loader: SpecLoader, node: yaml.ScalarNode) -> float:
    text = _scalar(loader, node, _FLOAT, "number").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


SpecLoader.add_constructor(f"{_TAG}bool", _bool)
SpecLoader.add_constructor(f"{_TAG}int", _int)
SpecLoader.add_constructor(f"{_TAG}float", _float)


class YamlDumper(yaml.SafeDumper):
    """Dumper whose output YAML 1.1 and YAML 1.2 readers read alike: text that either takes for a number is quoted."""


for _first, _types in _resolvers().items():
    for _tag, _pattern in _types:
        YamlDumper.add_implicit_resolver(_tag, _pattern, [_first])
