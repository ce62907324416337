"""The Results page: result table, published numbers, claims."""

from __future__ import annotations

import pytest

from core.protocol.comparisons import MissingPair, PaperClaim, PublishedValue, TableCell, TableRow
from dashboard.lists import result_rows
from dashboard.markup import escape
from tests.dashboard.conftest import texts, visit
from tests.dashboard.fakes import FakeBackend, FakeServer, digits_spec


def test_cell_is_bold_only_if_better_and_links_to_its_runs() -> None:
    cell = TableCell(label="a", n=3, mean=93.8, sd=0.92, verdict="better", run_ids=["r1", "r2"])
    text = result_rows.cell_text(cell).replace("\u00a0", " ")
    assert text == "[**93.80 ± 0.92 (3)**](compare?run=r1&run=r2)"
    assert "**" not in result_rows.cell_text(cell.model_copy(update={"verdict": "unclear"}))
    assert "↓" in result_rows.cell_text(cell.model_copy(update={"verdict": "worse"}))


def test_cell_shows_missing_seeds_and_published_values() -> None:
    published = [PublishedValue(source="s", method="dkd", value=71.97)]
    lacking = TableCell(label="a", n=0, missing=[MissingPair(seed=1, label="a", state="failed")], published=published)
    assert result_rows.cell_text(lacking).replace("\u00a0", " ") == "– · 1 missing \\[71.97\\]"


def test_missing_seeds_are_gathered_by_reason() -> None:
    missing = [MissingPair(seed=seed, label="kd", state="not planned") for seed in (3, 4)]
    row = TableRow(
        title="t",
        dataset="d",
        teacher="t",
        student="s",
        experiments=[],
        seeds=[],
        teacher_seeds=[],
        cells=[TableCell(label="kd", n=1, missing=missing)],
    )
    assert result_rows.missing_lines(row) == ["kd: seeds 3, 4 (not planned)"]


def test_claims_are_grouped_by_number() -> None:
    claims = [
        PaperClaim(number=2, claim="Two.", verdict="holds", reason="because", case="equal scale"),
        PaperClaim(number=1, claim="One.", verdict="does not hold", reason="no"),
        PaperClaim(number=2, claim="Two.", verdict="cannot tell", reason="few", label="a", baseline="b", n=1),
    ]
    lines = result_rows.claim_lines(claims)
    assert [title for title, _ in lines] == ["1. One.", "2. Two."]
    assert lines[1][1] == [
        ":green-badge[✓ holds] **equal scale:** because",
        ":gray-badge[? cannot tell] **a against b (1 pair):** few",
    ]


class TestPage:
    def test_results_without_experiments_show_published_numbers_and_link_to_the_form(
        self, backend: FakeBackend
    ) -> None:
        app = visit("results")
        assert not app.exception
        assert "There are no results yet" in texts(app)
        gradient_kd, paper = (table.value for table in app.table)
        assert list(gradient_kd[escape("dkd_align − dkd")]) == ["+0.94"]
        assert list(paper["dkd"]) == ["71.97"]
        assert "dkd: mean of 5 runs, best test epoch" in texts(app)

    def test_page_shows_table_missing_seeds_and_claims(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        for run in list(backend.runs.values())[:-1]:
            backend.advance(run.id, 30)
        app = visit("results")
        assert not app.exception
        [row] = app.table[0].value.to_dict("records")
        assert "compare?run=run-0001-001" in row["dkd"]
        assert "**" in row[escape("dkd_align (sample)")]
        assert "1\u00a0missing" in row[escape("dkd_align (log)")]
        assert "dkd retry run-1" in texts(app)
        shown = texts(app)
        assert "**1. What is claimed, 1.**" in shown
        assert ":gray-badge[? cannot tell] **dkd\\_align (log) against dkd (3 pairs):** the reason of 3" in shown

    def test_baseline_is_that_of_the_url_or_the_backends_default(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        plain = visit("results")
        options = plain.selectbox(key="baseline").options
        assert options == ["automatic (dkd)", "dkd", "dkd_align (sample)", "dkd_align (log)"]
        assert "Bold: better than dkd." in texts(plain)
        chosen = visit("results", baseline="dkd_align (log)")
        assert not chosen.exception
        assert "Bold: better than dkd_align (log)." in texts(chosen).replace("\\", "")

    def test_page_recovers_after_an_outage(self, server: FakeServer) -> None:
        server.stop()
        app = visit("results")
        assert "The backend does not answer." in texts(app)
        server.start()
        app.run()
        assert "There are no results yet" in texts(app)

    @pytest.mark.parametrize("test", ["exact sign-flip", "paired t"])
    def test_link_restores_the_settings(self, backend: FakeBackend, test: str) -> None:
        app = visit("results", tags="paper, first", test=test)
        assert "No experiment has the tags" in texts(app)
        assert not app.exception
