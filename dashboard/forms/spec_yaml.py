"""A spec as YAML for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import yaml

from client import YamlDumper


def yaml_of(spec: Mapping[str, Any]) -> str:
    """Return a spec as YAML in the order of its fields, with lists of scalars on one line."""
    return yaml.dump(
        _inline_lists(deepcopy(dict(spec))), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )


def one_line(mapping: Mapping[str, Any]) -> str:
    """Return a mapping as YAML on one line, without braces: ``width: 8, depth: 2``."""
    text: str = yaml.dump(
        dict(mapping), Dumper=YamlDumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=math.inf
    )
    return text.strip().removeprefix("{").removesuffix("}")


class _InlineList(list[Any]):
    """A list that YAML writes on one line."""


class _Dumper(YamlDumper):
    pass


_Dumper.add_representer(
    _InlineList, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)


def _inline_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _inline_lists(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        only_scalars = all(not isinstance(item, dict | list | tuple) for item in value)
        return _InlineList(value) if only_scalars else [_inline_lists(item) for item in value]
    return value
