"""Execute the example notebook and write docs/notebook.md: ``python -m docs.build_notebook``.

The notebook runs on an embedded stack that trains for real, which takes some minutes. Chromium draws its figures. A
test compares the cells of the page with those of the notebook, and another executes the notebook.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from client.stack import Stack, StackOptions, StopSignals, embedded_plan
from common.home import Home
from tests import browser

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "notebooks" / "comparison.ipynb"
PAGE = ROOT / "docs" / "notebook.md"
IMAGES = ROOT / "docs" / "images"
_FIGURE = "application/vnd.plotly.v1+json"
_INTRODUCTION = """\
`python -m docs.build_notebook` writes this page by executing
[examples/notebooks/comparison.ipynb](../examples/notebooks/comparison.ipynb). Do not edit it. In Jupyter, the figures
can be zoomed.
"""
_DRAW = "([data, layout]) => Plotly.toImage({data, layout}, {format: 'png', width: 900, height: 420})"


def cells(book: dict[str, Any]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Yield type, source and outputs of each cell."""
    for cell in book["cells"]:
        yield cell["cell_type"], "".join(cell["source"]), cell.get("outputs", [])


def code_block(source: str) -> str:
    """Return a code cell as it stands on the page."""
    return f"```python\n{source}\n```"


def page(book: dict[str, Any], images: dict[int, str]) -> str:
    """Return the page.

    Args:
        book: The executed notebook.
        images: Name of the image of each figure, by its position among all outputs of the notebook.
    """
    parts: list[str] = []
    number = 0
    for kind, source, outputs in cells(book):
        parts.append(source if kind == "markdown" else code_block(source))
        if len(parts) == 1:  # below the title
            title, _, rest = source.partition("\n\n")
            parts = [title, _INTRODUCTION.rstrip(), rest]
        for output in outputs:
            parts.append(_output(output, images.get(number)))
            number += 1
    return "\n\n".join(filter(None, parts)) + "\n"


def _output(output: dict[str, Any], image: str | None) -> str:
    if image:
        return f"![figure](images/{image})"
    data = output.get("data", {})
    if "text/html" in data:
        html = "".join(data["text/html"])
        return f"<div>{html}</div>" if html.strip() else ""
    text = "".join(data.get("text/plain", output.get("text", "")))
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""


def draw(book: dict[str, Any], folder: Path) -> dict[int, str]:
    """Write an image of every figure of the notebook, and return their names by the position of their outputs."""
    from plotly.offline import get_plotlyjs

    outputs = [output for _, _, items in cells(book) for output in items]
    figures = {
        number: output["data"][_FIGURE] for number, output in enumerate(outputs) if _FIGURE in output.get("data", {})
    }
    names: dict[int, str] = {}
    with browser.browser() as running:
        tab = running.new_page()
        tab.set_content("<html><body></body></html>")
        tab.add_script_tag(content=get_plotlyjs())
        for count, (number, figure) in enumerate(figures.items(), 1):
            address: str = tab.evaluate(_DRAW, [figure["data"], figure["layout"]])
            names[number] = f"notebook-{count}.png"
            (folder / names[number]).write_bytes(base64.b64decode(address.partition(",")[2]))
    return names


def execute() -> dict[str, Any]:
    """Return the notebook, executed on an embedded stack."""
    import nbclient
    import nbformat

    book = nbformat.read(NOTEBOOK, as_version=4)
    with contextlib.ExitStack() as cleared, StopSignals() as signals:
        home = Home(Path(cleared.enter_context(tempfile.TemporaryDirectory())))
        options = StackOptions(home=home, slots=1, threads=1, dashboard=False)
        with Stack(options, embedded_plan(options), signals, _say) as stack:
            stack.start()
            os.environ |= {"DKD_API_URL": stack.api_url, "DKD_API_TOKEN_FILE": str(home.admin_token)}
            os.environ["PYTHONPATH"] = str(ROOT)
            nbclient.NotebookClient(book, timeout=1200, kernel_name="python3").execute()
    executed: dict[str, Any] = json.loads(nbformat.writes(book))
    return executed


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Run the command."""
    book = execute()
    PAGE.write_text(page(book, draw(book, IMAGES)), encoding="utf-8")


if __name__ == "__main__":
    main()
