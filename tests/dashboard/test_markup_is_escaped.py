"""Untrusted text enters markup only through ``dashboard.markup``: every call of the pages that shows markup is checked.

Its arguments must be constants, formatted numbers, results of functions that escape or that contain no untrusted text,
or combinations of these. The check follows variables to their assignments, and functions to their return values.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "dashboard"
FILES = sorted(path for path in ROOT.rglob("*.py"))
# Functions of Streamlit whose first argument, label, text or help is Markdown.
SHOWS = frozenset(
    [
        *(
            "markdown",
            "caption",
            "write",
            "error",
            "warning",
            "info",
            "success",
            "toast",
            "title",
            "header",
            "subheader",
        ),
        *("metric", "expander", "popover", "button", "download_button", "form_submit_button", "progress", "spinner"),
        *(
            "checkbox",
            "toggle",
            "text_input",
            "text_area",
            "selectbox",
            "multiselect",
            "number_input",
            "slider",
            "pills",
        ),
        *("segmented_control", "date_input", "file_uploader", "dialog", "tabs", "table", "page_link", "html"),
        *("link_button", "radio", "status", "badge", "latex", "image", "action_link", "empty_state", "iframe"),
    ]
)
MARKED = ("label", "body", "text", "help", "hint", "value")
# Our functions that take markup or plain text; their calls or their bodies are checked.
WRAPPERS = {
    "session.py": {"action_link"},
    "widgets.py": {"empty_state", "draw_integers", "show"},
    "run.py": {"_link", "_button"},
    "board_header.py": {"_button"},
    "loss_explorer.py": {"_integer_input", "_number_input"},
}
# Functions that escape, or whose results consist of numbers, times and constant words.
SAFE = frozenset(
    [
        *(
            "escape",
            "code",
            "html",
            "markdown_html",
            "picture",
            "counted",
            "percent",
            "duration",
            "size",
            "timestamp",
            "ago",
            "signed",
            "interval",
        ),
        *(
            "badge",
            "state_text",
            "len",
            "mean_sd",
            "humanise",
            "urlencode",
            "_number_text",
            "_cosine_text",
            "scenario_sentence",
        ),
        *(
            "_terms",
            "share_text",
            "size_text",
            "memory_text",
            "duration_text",
            "age_text",
            "value_text",
        ),
    ]
)
# Attributes that are numbers or constant words in every model of the protocol.
PLAIN = frozenset(["state", "seed", "index", "n"])


def functions() -> dict[str, list[ast.FunctionDef]]:
    """Return every function of the dashboard by its name."""
    by_name: dict[str, list[ast.FunctionDef]] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                by_name.setdefault(node.name, []).append(node)
    return by_name


FUNCTIONS = functions()


class Reader:
    """Determines whether an expression can contain untrusted text.

    Args:
        scopes: The module and the functions around the expression, the innermost last.
    """

    def __init__(self, scopes: list[ast.AST], seen: frozenset[str] = frozenset()) -> None:
        self.scopes = scopes
        self.seen = seen

    def safe(self, node: ast.expr | None) -> bool:
        match node:
            case None | ast.Constant() | ast.Compare() | ast.UnaryOp():
                return True
            case ast.JoinedStr(values=parts):
                return all(self.safe(part) for part in parts)
            case ast.FormattedValue(value=value, format_spec=spec):
                return _numeric(spec) or self.safe(value)
            case ast.BinOp(left=left, right=right):
                return self.safe(left) and self.safe(right)
            case ast.BoolOp(values=parts) | ast.List(elts=parts) | ast.Tuple(elts=parts):
                return all(self.safe(part) for part in parts)
            case ast.Dict(keys=keys, values=parts):
                return all(self.safe(part) for part in (*keys, *parts))
            case ast.IfExp(body=body, orelse=orelse):
                return self.safe(body) and self.safe(orelse)
            case ast.GeneratorExp(elt=elt) | ast.ListComp(elt=elt):
                return Reader(self.scopes, self.seen | self._looped(node)).safe(elt)
            case ast.Starred(value=value) | ast.Subscript(value=value) | ast.NamedExpr(value=value):
                return self.safe(value)
            case ast.Attribute(attr=attr):
                return attr in PLAIN or attr.isupper()
            case ast.Name(id=name):
                return name.lstrip("_").isupper() or self._set(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="result_rows" | "published_rows" | "leaderboard_rows"))):
                return True  # these modules create Markdown; tests/dashboard/test_hostile_browser.py checks it
            case ast.Call():
                return self._answer(node)
        return False

    def _looped(self, node: ast.GeneratorExp | ast.ListComp) -> frozenset[str]:
        """Return the variables of a comprehension over safe values."""
        safe = [loop.target for loop in node.generators if self.safe(loop.iter)]
        return frozenset(f"={name.id}" for target in safe for name in ast.walk(target) if isinstance(name, ast.Name))

    def _answer(self, node: ast.Call) -> bool:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in SAFE:
            return True
        if isinstance(node.func, ast.Attribute) and name in ("join", "replace", "removesuffix", "get", "strip"):
            return all(map(self.safe, node.args)) and self.safe(node.func.value)
        if name in ("sorted", "list", "filter", "str", "zip", "reversed", "enumerate"):
            return all(self.safe(item) for item in node.args)
        if name in self.seen or name not in FUNCTIONS:
            return False
        same_name = [
            item for item in ast.walk(self.scopes[0]) if isinstance(item, ast.FunctionDef) and item.name == name
        ]
        return all(
            Reader([*self.scopes[:1], made], self.seen | {name}).safe(back.value)
            for made in (same_name if isinstance(node.func, ast.Name) and same_name else FUNCTIONS[name])
            for back in ast.walk(made)
            if isinstance(back, ast.Return)
        )

    def _set(self, name: str) -> bool:
        """Return whether every assignment of a variable, in the innermost function that sets it, is safe."""
        if f"={name}" in self.seen:
            return True  # as in text += …
        inner = Reader(self.scopes, self.seen | {f"={name}"})
        for scope in reversed(self.scopes):
            settings = list(_settings(scope, name))
            if settings:
                return all(value is not None and inner.safe(value) for value in settings)
        return False


def _settings(scope: ast.AST, name: str) -> Iterator[ast.expr | None]:
    """Yield the values assigned to a variable, or None if it is a parameter."""
    if isinstance(scope, ast.FunctionDef):
        parameters = scope.args
        if any(item.arg == name for item in (*parameters.args, *parameters.kwonlyargs)):
            yield None
    for node in ast.walk(scope):
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    yield from _bound(target, value, name)
            case ast.AnnAssign(target=ast.Name(id=found), value=value) if found == name and value is not None:
                yield value
            case ast.AugAssign(target=ast.Name(id=found), value=value) if found == name:
                yield value
            case ast.NamedExpr(target=ast.Name(id=found), value=value) if found == name:
                yield value
            case ast.For(target=target, iter=value):
                yield from _bound(target, value, name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=found), attr="append"), args=[value]) if found == name:
                yield value


def _bound(target: ast.expr, value: ast.expr, name: str) -> Iterator[ast.expr]:
    if isinstance(target, ast.Name):
        if target.id == name:
            yield value
    elif isinstance(target, ast.Tuple):
        for index, part in enumerate(target.elts):
            if isinstance(part, ast.Name) and part.id == name:
                yield value.elts[index] if isinstance(value, ast.Tuple) else value


def _numeric(spec: ast.expr | None) -> bool:
    """Return whether a format is valid only for numbers."""
    match spec:
        case ast.JoinedStr(values=[ast.Constant(value=str(text))]):
            return "%" in text or text.endswith((",", "d", "f", "g", "e"))
    return False


def wrong(path: Path) -> list[str]:
    """Return every place in a file where unescaped text may enter markup."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    problems: list[str] = []

    def visit(node: ast.AST, scopes: list[ast.AST]) -> None:
        if isinstance(node, ast.FunctionDef):
            if node.name in WRAPPERS.get(path.name, ()):
                return
            scopes = [*scopes, node]
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in SHOWS and _is_shown(node.func):
                reader = Reader(scopes)
                shown = (
                    node.args[:2] if name == "action_link" else node.args[1:2] if name == "progress" else node.args[:1]
                )
                if name == "page_link":
                    shown = []
                shown += [item.value for item in node.keywords if item.arg in MARKED and item.arg != "value"]
                problems.extend(
                    f"{path.relative_to(ROOT.parent)}:{node.lineno}: {name}({ast.unparse(item)[:100]})"
                    for item in shown
                    if not reader.safe(item)
                )
        for child in ast.iter_child_nodes(node):
            visit(child, scopes)

    visit(tree, [tree])
    return problems


def _is_shown(function: ast.expr) -> bool:
    """Return whether a call is of Streamlit, or of our functions that take markup."""
    if isinstance(function, ast.Attribute):
        return not (isinstance(function.value, ast.Name) and function.value.id in ("markup", "selection"))
    return isinstance(function, ast.Name) and function.id in ("empty_state", "_link", "_button")


def test_unescaped_text_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.py"
    page.write_text(
        "def show(run, names):\n"
        "    text = run.label\n"
        "    st.markdown(f'**{run.label}**')\n"
        "    st.error(text)\n"
        "    st.caption(' · '.join(names))\n"
        "    st.button('x', help=run.reason)\n"
        "    st.page_link(page, label=f'{run.label} {escape(run.label)}')\n"
        "    st.table([{run.label: 'x'}])\n"
        "    st.markdown('a' + str(run.label))\n"
        "    st.markdown(f'{run.step:,} {escape(text)}')\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path / "dashboard")
    lines = [int(item.split(":")[1]) for item in wrong(page)]
    assert lines == [3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_untrusted_text_is_escaped_in_markup(path: Path) -> None:
    assert wrong(path) == []
