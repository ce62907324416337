"""MkDocs hooks: pages of the repository's root, links to its files, and the Python, CLI and REST references.

The references are made from the code at each build, so that they list what exists and nothing is committed.
"""

from __future__ import annotations

import json
import os
import pkgutil
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# dkd_lab first: it is what scripts import.
PACKAGES = ("dkd_lab", "client", "core", "common", "backend", "worker", "dashboard")
ROOT_PAGES = {
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
# Migrations are programs for Alembic; a `__main__` runs a command line when it is imported.
_WITHOUT_REFERENCE = re.compile(r"\.__main__$|\.migrations(\.|$)|^core\.examples")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_REST_METHODS = ("get", "post", "put", "patch", "delete")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the results, the decisions and the references to the navigation."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    assert config.nav is not None
    decisions = sorted(path.name for path in (ROOT / "docs" / "adr").glob("[0-9]*.md"))
    results = sorted(path.name for path in (ROOT / "docs" / "results").glob("*.md") if path.name != "index.md")
    python = [{"Overview": "reference/python/index.md"}]
    python += [{package: f"reference/python/{package}.md"} for package in python_pages()]
    config.nav.append({"Results": ["results/index.md", *(f"results/{name}" for name in results)]})
    config.nav.append({"Decisions": ["adr/index.md", *(f"adr/{name}" for name in decisions)]})
    config.nav.append(
        {"Reference": [{"Command line": "reference/cli.md"}, {"REST API": "reference/rest.md"}, {"Python": python}]}
    )
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for source, page in ROOT_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_with_links(text, source, page)))
    pages = python_pages()
    files.append(File.generated(config, "reference/python/index.md", content=_python_index(pages)))
    for package, modules in pages.items():
        blocks = "\n\n".join(f"::: {module}" for module in modules)
        files.append(File.generated(config, f"reference/python/{package}.md", content=f"# {package}\n\n{blocks}\n"))
    files.append(File.generated(config, "reference/cli.md", content=cli_reference()))
    files.append(File.generated(config, "reference/rest.md", content=rest_reference(openapi())))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Replace the links to files that the site does not contain."""
    source = page.file.src_uri
    if source == "adr/index.md":
        markdown = f"{markdown}\n{decision_table()}"
    generated = page.file.generated_by is not None
    return markdown if generated else _with_links(markdown, f"docs/{source}", source)


def _with_links(text: str, source: str, page: str) -> str:
    """Return a Markdown text with links that are right on a page of the site.

    A link to a file that the site does not contain (code, an example) becomes the file's path in the repository.

    Args:
        text: the Markdown.
        source: the file's path in the repository, to which its links are relative.
        page: the path of the page in the site.
    """

    def replaced(match: re.Match[str]) -> str:
        mark, label, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        wanted = os.path.normpath(PurePosixPath(source).parent / path).replace(os.sep, "/")
        in_site = ROOT_PAGES.get(wanted) or (wanted.removeprefix("docs/") if wanted.startswith("docs/") else None)
        if in_site is None or in_site.endswith(".py"):
            return f"`{wanted}`" if label.strip("`") in {wanted, path} else f"{label} (`{wanted}`)"
        if in_site == "adr":
            in_site = "adr/index.md"
        relative = os.path.relpath(in_site, PurePosixPath(page).parent).replace(os.sep, "/")
        return f"{mark}[{label}]({relative}{'#' + anchor if anchor else ''})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else _LINK.sub(replaced, part) for part in parts)


def decision_table() -> str:
    """Return a Markdown table of the decisions: number and title, date, status."""
    rows = ["| decision | date | status |", "|---|---|---|"]
    for path in sorted((ROOT / "docs" / "adr").glob("[0-9]*.md")):
        text = path.read_text(encoding="utf-8")
        title = text.partition("\n")[0].removeprefix("# ")
        date, status = (re.search(rf"^- {name}: *(.*)$", text, re.MULTILINE) for name in ("Date", "Status"))
        rows.append(f"| [{title}]({path.name}) | {date[1] if date else ''} | {status[1] if status else ''} |")
    return "\n".join(rows) + "\n"


def python_pages() -> dict[str, list[str]]:
    """Return the packages that have a page, each with its modules."""
    pages: dict[str, list[str]] = {}
    for name in PACKAGES:
        folder = ROOT / name
        if not (folder / "__init__.py").exists():
            continue
        pages[name] = [name]
        for module in pkgutil.walk_packages([str(folder)], prefix=f"{name}."):
            if _WITHOUT_REFERENCE.search(module.name):
                continue
            if module.ispkg:
                pages[module.name] = [module.name]
            else:
                pages[module.name.rpartition(".")[0]].append(module.name)
    return dict(sorted(pages.items(), key=lambda item: (PACKAGES.index(item[0].split(".")[0]), item[0])))


def _python_index(pages: dict[str, list[str]]) -> str:
    rows = []
    for package, (_, *modules) in pages.items():
        names = ", ".join(f"`{module.rpartition('.')[2]}`" for module in modules)
        rows.append(f"| [{package}]({package}.md) | {names or '–'} |")
    return (
        "# Python reference\n\nScripts import `dkd_lab`. All other packages are internal and may change in any release."
        "\n\n| package | modules |\n|---|---|\n" + "\n".join(rows) + "\n"
    )


def cli_reference() -> str:
    """Return the page of all commands, from the Typer applications and the parser of ``python -m core``."""
    from typer.main import get_command

    from backend.__main__ import cli as backend
    from client.cli import app as dkd
    from core.cli import _parser

    lines = ["# Command line", "", "Each command prints this text with `--help`.", ""]
    for program, app in (("dkd", dkd), ("python -m backend", backend)):
        lines += _command(program, get_command(app), level=2)
    lines += ["## `python -m core`", "", "```text", _parser().format_help().rstrip(), "```", ""]
    return "\n".join(lines)


def _command(name: str, command: Any, level: int) -> Iterator[str]:
    """Yield the lines of a command and of its subcommands."""
    yield from ("#" * level + f" `{name}`", "", (command.help or "").replace("\f", "").strip(), "")
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    rows = [
        (
            ", ".join(f"`{option}`" for option in [*parameter.opts, *parameter.secondary_opts])
            if parameter.param_type_name == "option"
            else f"`{(parameter.name or '').upper()}`",
            " ".join((getattr(parameter, "help", None) or "").split()).replace("|", "\\|"),
        )
        for parameter in shown
    ]
    if rows:
        yield from ("| parameter | meaning |", "|---|---|", *(f"| {names} | {text} |" for names, text in rows), "")
    for sub_name, sub_command in getattr(command, "commands", {}).items():
        if not sub_command.hidden:
            yield from _command(f"{name} {sub_name}", sub_command, min(level + 1, 4))


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of an application that opens no database and starts nothing."""
    from backend.app import create_app
    from backend.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        settings = Settings(database_url=f"sqlite:///{home / 'reference.db'}", artifacts=str(home / "artifacts"))
        document: dict[str, Any] = create_app(settings).openapi()
    return document


def rest_reference(document: dict[str, Any]) -> str:
    """Return the page of all routes and shapes of an OpenAPI document."""
    lines = ["# REST API", "", document["info"].get("description", ""), ""]
    lines += ["A running backend serves this document at `/openapi.json` and, to try it out, at `/docs`.", ""]
    by_tag: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, operations in document["paths"].items():
        for method in _REST_METHODS:
            if operation := operations.get(method):
                by_tag.setdefault(next(iter(operation.get("tags", [])), "other"), []).append((method, path, operation))
    for tag, routes in by_tag.items():
        lines += [f"## {tag}", ""]
        for method, path, operation in routes:
            lines += _route(method, path, operation)
    lines += ["## Shapes", ""]
    for name, schema in document["components"]["schemas"].items():
        lines += _shape(name, schema)
    return "\n".join(lines)


def _route(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield from (f"### `{method.upper()} {path}`", "", operation.get("summary", ""), "")
    if description := operation.get("description"):
        yield from (description, "")
    if parameters := operation.get("parameters"):
        yield from ("| parameter | in | type | meaning |", "|---|---|---|---|")
        for one in parameters:
            name = one["name"] + (" *" if one.get("required") else "")
            yield f"| `{name}` | {one['in']} | {_type(one['schema'])} | {_cell(one.get('description', ''))} |"
        yield ""
    for kind, content in (operation.get("requestBody") or {}).get("content", {}).items():
        yield from (f"Body (`{kind}`): {_type(content.get('schema', {}))}", "")
    for status, response in operation["responses"].items():
        schema: dict[str, Any] = next((item.get("schema", {}) for item in response.get("content", {}).values()), {})
        shape = f", {_type(schema)}" if schema else ""
        yield f"- `{status}`: {_cell(response.get('description', ''))}{shape}"
    yield ""


def _shape(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield from (f"### {name} {{ #shape-{_anchor(name)} }}", "", schema.get("description", ""), "")
    if properties := schema.get("properties"):
        required = schema.get("required", ())
        yield from ("| field | type | meaning |", "|---|---|---|")
        for field, value in properties.items():
            mark = " *" if field in required else ""
            yield f"| `{field}`{mark} | {_type(value)} | {_cell(value.get('description', ''))} |"
        yield ""
    elif not schema.get("description"):
        yield from (_type(schema), "")


def _type(schema: dict[str, Any]) -> str:
    """Return a schema's type in a few words, with a link to a named shape."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#shape-{_anchor(name)})"
    if options := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return " or ".join(dict.fromkeys(_type(option) for option in options))
    if "enum" in schema:
        return ", ".join(f"`{_cell(json.dumps(value))}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{_cell(json.dumps(schema['const']))}`"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
