"""Write docs/methods.md, the reference of all methods: ``python -m docs.build_methods``.

The page is made from the catalog's entries, the docstrings of the losses, and the measurements in benchmarks/results.
A test compares the committed page with what this program returns.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic_core import PydanticUndefined

from core.catalog import METHODS, MethodEntry
from core.catalog.methods.entry import FAMILIES, Family

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "methods.md"
RESULTS = ROOT / "benchmarks" / "results"
FAMILY_TITLES: dict[Family, str] = {
    "labels": "Labels",
    "logits": "Logits",
    "decoupled": "Logits in parts, as DKD",
    "features": "Inner layers",
    "relations": "Relations of samples, channels or layers",
    "contrastive": "Memories of other samples",
    "two_stage": "Two stages",
    "several_networks": "Several networks",
    "boxes": "Boxes of a detector",
}
_INTRODUCTION = """\
# Methods: the paper, the public code, and the cost

`python -m docs.build_methods` writes this page from the catalog and the docstrings of the losses. Do not edit it.

Each loss was derived from its paper. Where the code that the field runs computes something else, the default follows
the paper, and `variant: public_code` is the other one. Most published tables were made with that code, so the specs in
[examples/cifar100](../examples/cifar100) name `public_code` for the methods whose numbers are of it. The weights of
these specs are in [one table](../core/papers/cifar100_weights/weights.yaml) with their sources.

Tables also differ in the epoch that they print: RepDistiller has the last one, mdistiller and its forks the best one on
the test images. Results shows what each source states.
"""


def page() -> str:
    """Return the page."""
    entries = [entry for entry in METHODS if entry.target.startswith("core.")]  # without those of plug-ins
    lines = [_INTRODUCTION, *_variants(entries), *_other_differences()]
    for family in FAMILIES:
        members = sorted((entry for entry in entries if entry.family == family), key=_by_title)
        lines += [f"## {FAMILY_TITLES[family]}", ""]
        for entry in members:
            lines += _section(entry)
    return "\n".join(lines).rstrip() + "\n"


def _variants(entries: list[MethodEntry]) -> Iterator[str]:
    measured = {row[0]: row for row in _table("parity.md", "Method", "Loss, paper")}
    yield from (
        "## What the code of the field really computes",
        "",
        "The last two columns compare the student's gradients in both variants, on the same random tensors with the",
        "default weights: the norm in public code divided by that of the paper, and the cosine of the angle between",
        "them. If both are 1, the variants differ with other settings or over the epochs.",
        "[benchmarks/results/parity.md](../benchmarks/results/parity.md) also compares each loss with the public code",
        "itself, in value and gradient.",
        "",
        "| method | the paper | the public code | norm | cosine |",
        "|---|---|---|---:|---:|",
    )
    for entry in sorted(with_variants(entries), key=_by_title):
        _, _, _, norm, cosine, *_ = measured.get(entry.title, [""] * 6)
        paper, code = variants_of(entry)
        yield f"| [{entry.title}](#{_anchor(entry)}) | {_cell(paper)} | {_cell(code)} | {norm} | {cosine} |"
    yield ""


def with_variants(entries: Iterable[MethodEntry]) -> list[MethodEntry]:
    """Return the methods that have a variant of the paper and one of the public code."""
    return [entry for entry in entries if "variant" in entry.params.model_fields]


def variants_of(entry: MethodEntry) -> tuple[str, str]:
    """Return what a method's paper defines and what the public code computes, in the words of the catalog.

    Raises:
        ValueError: The description of the parameter does not name both variants.
    """
    text = entry.params.model_fields["variant"].description or ""
    if not (match := re.fullmatch(r"paper: (.+\.) public_code: (.+)", text)):
        raise ValueError(f"the variants of {entry.name} are not described as 'paper: … public_code: …'")
    return match[1], match[2]


def _other_differences() -> Iterator[str]:
    rows = [row for row in _table("parity.md", "Method", "Repository") if row[-1]]
    yield from (
        "The losses also differ from public code in the following, which no variant reproduces:",
        "",
        "| method | repository | difference |",
        "|---|---|---|",
        *(f"| {row[0]} | {row[1]} | {_cell(row[-1])} |" for row in rows),
        "",
    )


def _section(entry: MethodEntry) -> Iterator[str]:
    yield from (f"### {entry.title}", "", f"`{entry.name}`: {entry.summary} {_source(entry)}".rstrip(), "")
    yield from (_loss(entry), "")
    if fields := entry.params.model_fields:
        yield from ("| parameter | default | meaning |", "|---|---|---|")
        for name, field in fields.items():
            yield f"| `{name}` | {_default(field)} | {_cell(field.description or '')} |"
        yield ""
    if entry.published:
        yield from (f"The experiments of the source have `{_as_yaml(entry.published)}`.", "")
    for task in dict.fromkeys((*entry.task_params, *entry.task_shares)):
        usual = {"params": entry.task_params.get(task), "shares": entry.task_shares.get(task)}
        words = [f"`{field}: {_as_yaml(dict(values))}`" for field, values in usual.items() if values]
        yield from (f"For {task} write {' and '.join(words)}; a form starts with them.", "")
    if entry.cost:
        yield from (f"Cost: {entry.cost}", "")
    if costs := list(_measured_costs(entry.title)):
        yield from (*costs, "")


def _source(entry: MethodEntry) -> str:
    text = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", entry.source)
    return f"{text}." if text else ""


def _loss(entry: MethodEntry) -> str:
    """Return the docstring of the module with a method's loss, which has the formula, as Markdown."""
    module = entry.target.partition(":")[0]
    first = next(other for other in METHODS if other.target.partition(":")[0] == module)
    if first is not entry:
        return f"The loss is described with [{first.title}](#{_anchor(first)})."
    path = ROOT / f"{module.replace('.', '/')}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.replace("``", "`")


def _measured_costs(title: str) -> Iterator[str]:
    for path in sorted(RESULTS.glob("methods-c*.md")):
        device = {"methods-cpu": "CPU", "methods-cuda": "GPU"}.get(path.stem)
        for case, row in _tables_of_speed(path) if device else ():
            if row[0] == title and len(row) == 8:
                yield (
                    f"- Measured on a {device}, {case}: {row[2]} images/s in float32 and {row[4]} with `auto` "
                    f"({row[1] or 'no'} images/s of the public code); {row[6] or '0'} parameters added; memory "
                    f"{row[7]} MB (public code, float32, auto)."
                )


def _tables_of_speed(path: Path) -> Iterator[tuple[str, list[str]]]:
    case = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            case = line.removeprefix("## ")
        elif line.startswith("| ") and case:
            yield case, _cells(line)


def _table(name: str, *start: str) -> list[list[str]]:
    """Return the rows of the table in a file of results whose header starts with given cells.

    Raises:
        ValueError: The file has no such table.
    """
    rows: list[list[str]] = []
    inside = False
    for line in (RESULTS / name).read_text(encoding="utf-8").splitlines():
        cells = _cells(line) if line.startswith("|") else []
        inside = bool(cells) and (inside or tuple(cells[: len(start)]) == start)
        if inside:
            rows.append(cells)
    if not rows:
        raise ValueError(f"{name} has no table that starts with {', '.join(start)}")
    return rows[2:]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def _default(field: Any) -> str:
    if field.default is PydanticUndefined:
        return ""
    return "none" if field.default is None else f"`{_as_yaml(field.default)}`"


def _as_yaml(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return re.sub(r'"([\w.:]+)"', r"\1", text)


def _by_title(entry: MethodEntry) -> str:
    return entry.title.lower()


def _anchor(entry: MethodEntry) -> str:
    return re.sub(r"[^a-z0-9]+", "-", entry.title.lower()).strip("-")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    assert set(FAMILY_TITLES) == set(get_args(Family))
    PAGE.write_text(page(), encoding="utf-8")
