"""A leaderboard as CSV, LaTeX, Markdown and as a page that opens without a backend."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.db import Database
from core.protocol.leaderboards import Leaderboard
from tests.backend.test_leaderboard import board, setting, three

HOSTILE = "<script>alert(1)</script><img src=http://evil.example/x> =cmd|x"


def text(api: TestClient, format: str, **query: Any) -> str:
    answer = api.get("/api/v1/leaderboard", params={"format": format, **query})
    assert answer.status_code == 200, answer.text
    return answer.text


class Page(HTMLParser):
    """Collects what a page would load, the scripts that it has, and its elements that are not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.tables = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        self.tables += tag == "table"
        if tag == "script":
            self.scripts.append(str(dict(attrs).get("type")))
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_csv_has_a_row_for_every_cell_with_its_provenance(database: Database, api: TestClient) -> None:
    three(database)
    setting(database, {"kd": [50.0]}, name="alone", student={"model": "resnet32"})
    rows = list(csv.DictReader(io.StringIO(text(api, "csv"))))
    found = board(api)
    assert len(rows) == len(found.methods) * len(found.settings) == 12
    for row in rows:
        cell = found.cells.get((row["setting"], row["method"]))
        assert float(row["mean"] or "nan") == pytest.approx(cell.mean if cell else None, nan_ok=True) or not row["mean"]
        assert row["run_ids"].split() == (cell.run_ids if cell else [])
        assert len(row["fingerprints"].split()) == len(row["run_ids"].split())
        assert (row["epoch"], row["address"], row["version"]) == ("last", "http://testserver", found.version)
    missing = next(row for row in rows if row["method"] == "dkd" and row["student"] == "resnet32")
    assert (missing["n"], missing["missing"], missing["counted"]) == ("0", "not in these experiments", "False")
    best = next(row for row in rows if row["method"] == "align" and row["student"] == "small_cnn")
    assert (best["best"], best["seeds"], best["commits"]) == ("True", "0 1", "c0ffee" * 6)


def test_latex_is_balanced_and_names_runs_in_comments(database: Database, api: TestClient) -> None:
    three(database)
    tex = text(api, "latex")
    for opened in re.findall(r"\\begin\{([\w*]+)\}", tex):
        assert tex.count(f"\\begin{{{opened}}}") == tex.count(f"\\end{{{opened}}}") == 1
    assert tex.count("$\\star$}") + tex.count("$\\star$ ") == 4  # the best mean of each setting, and the note
    assert "\\textbf{" not in tex  # two seeds cannot show that a method is better than the baseline
    shown = "\n".join(line for line in tex.splitlines() if not line.startswith("%"))
    assert not set("★▲▼χ±→") & set(shown)
    runs = board(api).runs
    assert all(f"% run {run.id}: experiment {run.experiment_id}, seed {run.seed}, fingerprint" in tex for run in runs)


def test_markdown_has_methods_as_rows(database: Database, api: TestClient) -> None:
    three(database)
    lines = text(api, "markdown").splitlines()
    assert lines[2].startswith("| Method | Mean rank | digits resnet8→resnet20, %")
    assert [line.split("|")[1].strip() for line in lines[4:7]] == ["align", "dkd", "kd"]


def test_page_opens_without_a_backend(database: Database, api: TestClient) -> None:
    three(database)
    answer = api.get("/api/v1/leaderboard", params={"format": "html"})
    assert answer.headers["content-type"].startswith("text/html")
    assert "script-src" not in answer.headers["content-security-policy"]
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    page = Page(answer.text)
    assert (page.loaded, page.scripts, page.open) == ([], ["application/json"], [])
    assert page.tables == 5  # results, pairs, comparisons, experiments, runs
    figures = re.findall(r"<svg .*?</svg>", answer.text)
    assert len(figures) == 2
    for figure in figures:
        assert ET.fromstring(figure).tag.endswith("svg")
    (data,) = re.findall(r'<script type="application/json" id="leaderboard">(.*?)</script>', answer.text)
    frozen = Leaderboard.model_validate(json.loads(data))
    assert frozen.model_dump(exclude={"made_at"}) == board(api).model_dump(exclude={"made_at"})
    assert all(run.id in answer.text and run.fingerprint in answer.text for run in frozen.runs)


def test_names_cannot_become_markup_or_formulas(database: Database, api: TestClient) -> None:
    method = {"name": "dkd", "label": HOSTILE[:60]}
    setting(database, {"kd": [70.0], HOSTILE[:60]: [71.0]}, name=HOSTILE, methods=["kd", method])
    answer = text(api, "html")
    page = Page(answer)
    assert (page.loaded, page.scripts) == ([], ["application/json"])
    assert "<script>alert" not in answer
    assert all(not cell.startswith("=") for row in csv.reader(io.StringIO(text(api, "csv"))) for cell in row)
    assert Leaderboard.model_validate(api.get("/api/v1/leaderboard").json()).methods[0].label == HOSTILE[:60]


@pytest.mark.parametrize("format", ["csv", "latex", "markdown", "html"])
def test_an_empty_lab_can_be_exported(format: str, api: TestClient) -> None:
    assert text(api, format)


def test_a_leaderboard_of_one_method_has_no_figure(database: Database, api: TestClient) -> None:
    setting(database, {"kd": [70.0, 71.0]})
    page = text(api, "html")
    assert "<svg" not in page
    assert "70.50 ± 0.71 (2)" in page
