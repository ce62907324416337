"""Experiments in Jupyter: HTML of answers, figures, and the example notebook, executed with a real backend."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from client import Client, ClientSettingsError, notebook
from client.models import Metrics
from client.rendering import html
from core.protocol.public import MetricsReply, Series
from tests import served
from tests.client import fakes
from tests.client.fakes import FakeBackend

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client(backend: FakeBackend) -> Client:
    series = Series(name="test/top1", step=[1, 2], epoch=[1, 2], elapsed=[1, 2], value=[80.0, 90.0])
    hostile = fakes.run_summary(2, label="<b>", state="queued", step=0, latest={})
    backend.answers |= {
        "GET /api/v1/experiments/small": fakes.experiment(runs=[fakes.run_summary(1), hostile]),
        "GET /api/v1/experiments/exp-1": fakes.experiment(state="finished"),
        "GET /api/v1/comparisons": fakes.comparison(),
        "GET /api/v1/runs/run-1/metrics": MetricsReply(run_id="run-1", state="running", cursor=1, series=[series]),
    }
    return Client()


def test_an_experiment_is_a_table_of_its_runs(client: Client) -> None:
    page = client.experiment("small")._repr_html_()
    assert "<td>run-1</td>" in page
    assert "91.50 %" in page
    assert "&lt;b&gt;" in page
    assert "<b>small</b>" in page


def test_a_comparison_is_a_table_with_the_referees_sentences(client: Client) -> None:
    page = client.comparisons.get("small")._repr_html_()
    assert "Keep kd: dkd was not tested against it. Two pairs cannot tell dkd from kd." in page
    assert "<td>96.25 ± 0.25</td>" in page
    assert client.experiment("small").comparison()._repr_html_() == page


def test_a_table_says_of_what_its_intervals_are() -> None:
    assert "95 % t interval" in html.result(fakes.comparison())
    looked = html.result(fakes.comparison(by_looks=True))
    assert "interval over all looks" in looked
    assert "95 % t interval" not in looked


def test_only_the_baseline_is_called_so() -> None:
    page = html.result(fakes.comparison(paired=[]))
    assert page.count("<td>baseline</td>") == 1


def test_a_figure_has_the_curves_of_runs_that_have_started(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("plotly")
    figure = client.experiment("small").figure()
    assert [list(trace.y) for trace in figure.data] == [[80.0, 90.0], [80.0, 90.0]]
    assert client.experiment("small").figure("val/top1") is None
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(ClientSettingsError, match="needs plotly"):
        client.experiment("small").figure()


def test_watch_uses_the_terminal_outside_a_notebook(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert not notebook.in_notebook()
    assert client.experiment("exp-1").watch(interval=0).state == "finished"
    assert "small: 0/2 runs" in capsys.readouterr().out


def test_watch_draws_again_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    display = pytest.importorskip("IPython.display")
    shown: list[str] = []

    class Drawn:
        def __init__(self, text: str) -> None:
            self.text = text

        def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
            return {"text/plain": self.text}

    class Handle:
        def update(self, value: Any) -> None:
            shown.append(value.data if hasattr(value, "data") else value._repr_mimebundle_()["text/plain"])

    def show(value: Any, *, display_id: bool) -> Handle:
        handle = Handle()
        handle.update(value)
        return handle

    monkeypatch.setattr(display, "display", show)
    states = iter([fakes.experiment(), fakes.experiment(), fakes.experiment(state="finished")])
    figures = iter([None, Drawn("first figure"), Drawn("second figure")])
    ended = notebook.watch(lambda: next(states), lambda _: next(figures), 0.0)
    assert ended.state == "finished"
    assert [text for text in shown if "figure" in text] == ["first figure", "second figure"]
    assert len([text for text in shown if "<table>" in text]) == 3


def test_no_curve_is_drawn_before_the_first_point() -> None:
    empty = Metrics(run_id="r", state="queued", cursor=0, series=[])
    assert notebook.curves(fakes.experiment(), lambda *_: empty, None) is None


@pytest.mark.slow
def test_the_example_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    book = nbformat.read(ROOT / "examples" / "notebooks" / "comparison.ipynb", as_version=4)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("DKD_API_TOKEN", served.ADMIN_TOKEN)
    with served.backend(tmp_path) as url, served.worker(url, tmp_path):
        monkeypatch.setenv("DKD_API_URL", url)
        nbclient.NotebookClient(book, timeout=200, kernel_name="python3").execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    pages = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    assert any("Keep kd: the seeds do not support dkd over it." in page for page in pages)
    assert any("succeeded" in page for page in pages)
    (watched,) = (cell.outputs for cell in book.cells if ".watch(" in cell.source)
    # One figure, which was drawn again in its place.
    assert len([output for output in watched if "application/vnd.plotly.v1+json" in output.get("data", {})]) == 1
