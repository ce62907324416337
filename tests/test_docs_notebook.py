"""docs/notebook.md is an execution of the example notebook."""

from __future__ import annotations

import json

from docs import build_notebook
from docs.build_notebook import IMAGES, NOTEBOOK, PAGE


def test_the_page_has_the_cells_of_the_notebook() -> None:
    text = PAGE.read_text(encoding="utf-8")
    book = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    place = 0
    for kind, source, outputs in build_notebook.cells(book):
        assert not outputs, "commit the notebook without outputs; the page has them"
        for paragraph in source.split("\n\n") if kind == "markdown" else [build_notebook.code_block(source)]:
            assert paragraph in text[place:], "run: python -m docs.build_notebook, and commit docs/notebook.md"
            place += text[place:].index(paragraph)


def test_the_page_shows_a_comparison_and_its_curves() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "after Holm" in text
    assert "![figure](images/notebook-1.png)" in text
    assert (IMAGES / "notebook-1.png").read_bytes().startswith(b"\x89PNG")


def test_outputs_become_text_tables_and_images() -> None:
    cells = [
        {"cell_type": "markdown", "source": "# Title\n\nText."},
        {
            "cell_type": "code",
            "source": ["a\n", "b"],
            "outputs": [
                {"data": {"text/html": "<p>x</p>", "text/plain": "x"}},
                {"data": {"application/vnd.plotly.v1+json": {}}},
                {"data": {"text/plain": "3"}},
                {"data": {"text/html": ""}},
            ],
        },
    ]
    text = build_notebook.page({"cells": cells}, {1: "notebook-1.png"})
    assert text.startswith("# Title\n\n`python -m docs.build_notebook` writes this page")
    assert text.endswith(
        "Text.\n\n```python\na\nb\n```\n\n<div><p>x</p></div>\n\n![figure](images/notebook-1.png)\n\n```text\n3\n```\n"
    )
