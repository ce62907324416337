"""Records of trainings, and pages that are made from them alone."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.result_pages import command, contrast, doses, page
from benchmarks.result_pages.collect import collect, planned_runs
from benchmarks.result_pages.record import Record, RecordError
from core.events import JOURNAL_NAME, Failed, Finished, Journal, Started
from core.specs import ExperimentSpec, parse_experiment
from core.standalone import CHOICE_NAME, SPEC_NAME
from core.tuning.choice import Choice, Chosen

DATA: dict[str, Any] = {
    "name": "dkd against align",
    "dataset": "digits",
    "teacher": {"model": "resnet20"},
    "student": {"model": "resnet8"},
    "methods": ["kd", "dkd", {"name": "dkd_align", "params": {"reduction": "log", "epsilon_share": 0.1}}],
    "seeds": [0, 1, 2, 3, 4, 5, 6],
    "training": {"epochs": 3},
}
GAINS = {"kd": 0.0, "dkd": 2.0, "dkd_align (log)": 2.1}
PRIVATE = "/home/somebody"
WEIGHTS = "ab" * 32


def trained(folder: Path, spec: ExperimentSpec, *, failed: tuple[str, int] = ("", 0)) -> Path:
    """Write what ``core run`` leaves of an experiment, with values by method and seed; return the folder."""
    folder.mkdir(parents=True)
    (folder / SPEC_NAME).write_text(spec.model_dump_json(indent=2), encoding="utf-8")
    for planned in planned_runs(spec):
        label, seed = planned.label, planned.spec.seed
        place = folder / f"{re.sub(r'[^a-z0-9_]+', '-', label)}-seed{seed}"
        last = 95.0 if label == "teacher" else 80.0 + GAINS[label] * (1 + seed / 50) + seed / 7 + (seed % 3) / 100
        with Journal(place / JOURNAL_NAME) as journal:
            (place / "fingerprint.json").write_text(json.dumps(planned.spec.fingerprint()))
            journal.append(
                Started(
                    total_steps=30,
                    total_epochs=3,
                    train_size=898,
                    test_size=899,
                    parameters=1000,
                    device="cpu",
                    environment={
                        "torch": "2.14.0",
                        "commit": "c0ffee" * 6,
                        "host": "the-machine",
                        "diff": f"--- {PRIVATE}",
                        "packages": f"torch==2.14.0\nprivate @ {PRIVATE}\nscipy==1.17.0",
                    },
                )
            )
            for epoch, value in ((1, last - 9.123456789), (2, last + 1), (3, last)):
                journal.metrics(step=10 * epoch - 5, epoch=epoch - 0.5, elapsed=epoch - 0.5, values={"train/loss": 1.5})
                journal.metrics(step=10 * epoch, epoch=epoch, elapsed=float(epoch), values={"test/top1": value})
                journal.metrics(step=10 * epoch, epoch=epoch, elapsed=float(epoch), values={"train/loss": 1 / epoch})
            if (label, seed) == failed:
                journal.append(Failed(kind="nan", reason="the loss is not a number"))
            else:
                journal.append(Finished(weights="w.safetensors", sha256=WEIGHTS, summary={"test/top1": last}))
    return folder


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    folder = trained(tmp_path_factory.mktemp("runs") / "out", parse_experiment(DATA), failed=("dkd", 6))
    return collect([folder], "small", title="A small answer", question="Is align better?", notes=["A *note*."])


@pytest.fixture(scope="module")
def files(record: Record) -> dict[str, str]:
    return page.build(record)


def test_record_is_read_back_and_has_the_same_bytes_at_every_collection(record: Record, tmp_path: Path) -> None:
    record.write(tmp_path)
    first = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.json")}
    again = Record.read(tmp_path / "small")
    assert again.experiments == record.experiments
    again.write(tmp_path)
    assert {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.json")} == first
    assert len(first) == 1 + 22


def test_record_has_the_metrics_of_each_epoch_with_the_digits_of_float32(record: Record, tmp_path: Path) -> None:
    record.write(tmp_path)
    curve = json.loads((tmp_path / "small" / "curves" / "1-kd-seed1.json").read_text(encoding="utf-8"))
    assert curve["step"] == [10, 20, 30]
    assert curve["values"] == {"test/top1": [71.0294, 81.15286, 80.15286], "train/loss": [1, 0.5, 0.3333333]}


def test_record_names_no_machine_and_no_path(record: Record, tmp_path: Path) -> None:
    record.write(tmp_path)
    text = "".join(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.json"))
    assert PRIVATE not in text
    assert "the-machine" not in text
    (environment,) = record.environments
    assert environment["packages"] == "torch==2.14.0, scipy==1.17.0"
    assert environment["uncommitted changes"].startswith("SHA-256 ")
    assert environment["commit"] == "c0ffee" * 6


def test_page_is_the_same_at_every_build(record: Record, files: dict[str, str], tmp_path: Path) -> None:
    record.write(tmp_path)
    assert page.build(Record.read(tmp_path / "small")) == files


def test_page_has_a_plain_verdict_and_what_it_does_not_show(files: dict[str, str]) -> None:
    text = files["small.md"]
    assert text.startswith("# A small answer\n\n**Question:** Is align better?\n")
    assert "- **dkd is better than kd.** The interval" in text
    assert r"- **dkd\_align (log) is better than kd.**" in text
    assert "- Claim 4, “It converges faster: fewer epochs to the target accuracy.”" in text
    missing = text.partition("## What this does not show")[2]
    assert r"- A \*note\*." in missing
    assert "Other networks than resnet20 → resnet8" in missing
    assert "dkd seed 6 (the loss is not a number)" in missing
    assert "were not searched here" in missing
    assert "c0ffee" in missing.partition("## Provenance")[2]
    assert PRIVATE not in text


def test_values_of_the_page_are_those_of_the_last_epoch(files: dict[str, str]) -> None:
    (row,) = [line for line in files["small.md"].splitlines() if line.startswith("| kd |")]
    assert row.split("|")[2:4] == [" 80.44 ± 0.31 ", " 7 "]


def test_figures_are_well_formed_and_linked(files: dict[str, str]) -> None:
    figures = {name: text for name, text in files.items() if name.endswith(".svg")}
    assert sorted(figures) == ["small-curves.svg", "small-differences.svg", "small-values.svg"]
    for name, text in figures.items():
        root = ET.fromstring(text)
        assert root.tag.endswith("svg")
        assert f"]({name})" in files["small.md"]
    assert figures["small-values.svg"].count("<circle") == 20  # 21 students, of which one failed
    assert figures["small-curves.svg"].count("<polyline") == 21 + 3


def test_several_experiments_are_ranked_over_their_settings(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    for student in ("resnet8", "small_cnn"):
        spec = parse_experiment(DATA | {"name": f"on {student}", "student": {"model": student}, "seeds": [0, 1]})
        trained(out / student, spec)
    made = page.build(collect([out], "both"))
    text = made["both.md"]
    assert "## on resnet8" in text
    assert "## Over all settings" in text
    assert {"both-ranks.svg", "both-critical-differences.svg", "both-1-curves.svg", "both-2-values.svg"} <= set(made)
    assert "Mean ranks are over 2 settings" in text


def test_seeds_that_were_added_by_looks_are_added_again_by_the_values_of_the_record(tmp_path: Path) -> None:
    until = {"until": "decided", "first": 3, "most": 10, "difference": 0.5}
    spec = parse_experiment(DATA | {"methods": ["kd", "dkd"], "seeds": until})
    # Runs beyond the decision, as of another experiment in the same folder, take no part.
    record = collect([trained(tmp_path / "out", spec)], "looks")
    assert len(record.experiments[0].runs) == 1 + 2 * 10
    text = page.build(record)["looks.md"]
    (verdict,) = re.findall(r"dkd is better than kd: after (\d+) of at most 10 seeds", text.partition("## What was")[0])
    assert 5 <= int(verdict) < 10
    assert f" | {verdict} | " in text
    assert "Not every run has ended" not in text


def test_settings_that_trials_chose_are_those_of_the_record(tmp_path: Path) -> None:
    data = DATA | {"methods": ["kd", "dkd"], "seeds": [0, 1], "tune": {"trials": 2}}
    spec = parse_experiment(data)
    chosen = Choice("val/top1", 90, 1, (Chosen("kd", 2, 2, {"params.temperature": 3.0}, 60.0, 59.0),
                                        Chosen("dkd", 1, 2, {}, 61.0, 61.0)))  # fmt: skip
    tuned = parse_experiment(
        DATA | {"methods": [{"name": "kd", "params": {"temperature": 3.0}}, "dkd"], "seeds": [0, 1]}
    )
    folder = trained(tmp_path / "out", tuned)
    (folder / SPEC_NAME).write_text(spec.model_dump_json(), encoding="utf-8")
    with pytest.raises(RecordError, match="have not been chosen yet"):
        collect([folder], "tuned")
    (folder / CHOICE_NAME).write_text(json.dumps(chosen.as_json()), encoding="utf-8")
    text = page.build(collect([folder], "tuned"))["tuned.md"]
    assert "kd: trial 2 of 2 was best (temperature = 3.0)" in text
    assert "were not searched here" not in text


def test_input_that_cannot_be_used_is_refused(
    tmp_path: Path, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for words, problem in (
        (["collect", str(tmp_path / "empty"), "--name", "x"], "has no experiment.json; name the spec with --spec"),
        (["collect", str(tmp_path / "empty"), "--name", "../x"], "use lower-case letters, digits and hyphens"),
        (["build", "nothing", "--records", str(tmp_path)], "there is no record 'nothing'"),
    ):
        with pytest.raises(SystemExit):
            command.main(words)
        assert problem in capsys.readouterr().err
    record.write(tmp_path)
    (tmp_path / "small" / "curves" / "1-kd-seed1.json").unlink()
    with pytest.raises(RecordError, match="has no complete record"):
        Record.read(tmp_path / "small")


def test_commands_write_the_record_and_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = parse_experiment(DATA | {"methods": ["kd", "dkd"], "seeds": [0]})
    folder = trained(tmp_path / "out", spec)
    records, docs = str(tmp_path / "records"), str(tmp_path / "docs")
    command.main(["collect", str(folder), "--name", "one", "--title", "One", "--records", records])
    assert "3 runs" in capsys.readouterr().out
    command.main(["build", "--records", records, "--docs", docs])
    index = (tmp_path / "docs" / "index.md").read_text(encoding="utf-8")
    assert "| [One](one.md) |  | digits | 3 |" in index
    assert (tmp_path / "docs" / "one.md").exists()


def test_every_committed_page_is_rebuilt_byte_for_byte_from_its_record() -> None:
    records = command.read_all()
    expected = {name: text for record in records.values() for name, text in page.build(record).items()}
    expected["index.md"] = page.index(records)
    committed = {path.name: path.read_bytes() for path in page.DOCS.iterdir()}
    assert committed == {name: text.encode() for name, text in expected.items()}


DOSED = DATA | {
    "name": "doses",
    "methods": [
        "dkd",
        *(
            {
                "name": "dkd_align",
                "label": f"{sign} {share}",
                "params": {"reduction": "log", "epsilon_share": share, "sign": sign},
            }
            for sign in ("subtracted", "added")
            for share in (0.01, 0.1, 0.3)
        ),
        {"name": "dkd_align", "label": "another", "params": {"reduction": "sample", "epsilon": 6.0}},
    ],
}


class TestExtend:
    """A campaign in several sittings."""

    @pytest.fixture
    def sitting(self, tmp_path: Path) -> Callable[..., Path]:
        def collected(name: str, seeds: Sequence[int], *options: str, **changes: Any) -> Path:
            spec = parse_experiment(DATA | {"seeds": list(seeds)} | changes)
            arguments = ["collect", str(trained(tmp_path / name, spec)), "--name", "long", *options]
            command.main([*arguments, "--records", str(tmp_path / "records")])
            return tmp_path / "records" / "long"

        return collected

    def test_record_of_two_sittings_is_that_of_one(self, sitting: Callable[..., Path]) -> None:
        whole = Record.read(sitting("whole", range(5), "--title", "Long"))
        sitting("first", range(3), "--title", "Long")
        both = Record.read(sitting("second", (2, 3, 4), "--extend"))
        assert both == whole
        assert page.build(both) == page.build(whole)

    def test_another_experiment_is_added(self, sitting: Callable[..., Path]) -> None:
        sitting("first", range(3))
        both = Record.read(sitting("second", range(3), "--extend", training={"epochs": 4}))
        assert [len(item.runs) for item in both.experiments] == [10, 10]
        assert len({run.curve for item in both.experiments for run in item.runs}) == 20

    def test_students_of_another_teacher_are_refused(
        self, sitting: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = sitting("first", range(3))
        before = (folder / "record.json").read_bytes()
        monkeypatch.setattr(sys.modules[__name__], "WEIGHTS", "cd" * 32)
        with pytest.raises(SystemExit):
            sitting("second", (3, 4), "--extend")
        assert "teacher has the weights cdcdcdcdcdcdcdcd… and had abababababababab… before" in capsys.readouterr().err
        assert (folder / "record.json").read_bytes() == before

    def test_record_that_does_not_exist_cannot_be_extended(self, sitting: Callable[..., Path]) -> None:
        with pytest.raises(SystemExit):
            sitting("first", range(3), "--extend")


class TestDoses:
    """Methods that differ in one number."""

    @pytest.fixture(autouse=True)
    def _gains(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for share in (0.01, 0.1, 0.3):
            monkeypatch.setitem(GAINS, f"subtracted {share}", 2.0 - 20 * share)
            monkeypatch.setitem(GAINS, f"added {share}", 2.0)
        monkeypatch.setitem(GAINS, "another", 0.0)

    def test_series_differ_in_one_setting_and_their_methods_in_one_number(self) -> None:
        found = doses.find(parse_experiment(DOSED).model_dump(mode="json")["methods"])
        assert found
        assert (found.parameter, found.other) == ("epsilon_share", "sign")
        assert found.series == {
            sign: {share: f"{sign} {share}" for share in (0.01, 0.1, 0.3)} for sign in ("subtracted", "added")
        }
        assert doses.find(parse_experiment(DATA).model_dump(mode="json")["methods"]) is None

    def test_section_has_slopes_contrasts_and_one_family(self, tmp_path: Path) -> None:
        folder = trained(tmp_path / "out", parse_experiment(DOSED | {"seeds": list(range(9))}))
        files = page.build(collect([folder], "dosed"))
        _, _, section = files["dosed.md"].partition("## Dose and response")
        section = section.partition("## ")[0]
        rows = {line.split(" | ")[0].strip("| "): line for line in section.splitlines() if line.startswith("| ")}
        assert len(rows) == 1 + 6 + 2 + 3
        assert "p (Holm, 11 tests)" in section
        # The gain is multiplied by 1 + seed/50, whose mean over seeds 0 to 8 is 1.08.
        assert f"| −{20 * 0.29 * 1.08:.2f} [" in rows["subtracted, slope from 1 % to 30 %"]
        assert rows["subtracted, slope from 1 % to 30 %"].endswith("| lower |")
        assert "| 0.00" in rows["added, slope from 1 % to 30 %"]
        assert rows["added, slope from 1 % to 30 %"].endswith("| not shown |")
        assert rows["subtracted, 30 %"].endswith("| worse |")
        assert rows["subtracted minus added, 30 %"].endswith("| lower |")
        assert "- added, slope from 1 % to 30 %: 0.00 percentage points, which is not shown to differ" in section
        assert ET.fromstring(files["dosed-doses.svg"]).tag.endswith("svg")

    @pytest.mark.parametrize(("seeds", "said"), [(8, True), (9, False)])
    def test_too_few_pairs_for_a_verdict_are_said(self, tmp_path: Path, seeds: int, *, said: bool) -> None:
        folder = trained(tmp_path / "out", parse_experiment(DOSED | {"seeds": list(range(seeds))}))
        text = (
            page.build(collect([folder], "dosed"))["dosed.md"].partition("## Dose and response")[2].partition("## ")[0]
        )
        sentence = (
            "No row can have a verdict: over 11 tests 8 pairs cannot show p \\< 0.086, however large a difference is."
        )
        assert (sentence in text) == said

    def test_a_method_without_values_leaves_the_section_out(self, tmp_path: Path) -> None:
        spec = parse_experiment(DOSED | {"seeds": [0, 1]})
        folder = trained(tmp_path / "out", spec)
        for place in folder.glob("added-0-1-*"):
            (place / "fingerprint.json").unlink()
        assert "Dose and response" not in page.build(collect([folder], "dosed"))["dosed.md"]


class TestContrast:
    """Two experiments that differ in one setting."""

    def test_changes_of_methods_and_of_gaps_are_one_family(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seeds = {"seeds": list(range(9))}
        plain = trained(tmp_path / "plain", parse_experiment(DATA | seeds | {"name": "plain"}))
        monkeypatch.setitem(GAINS, "dkd", 5.0)
        training = DATA["training"] | {"freeze_batch_norm_after": 1}
        frozen = trained(tmp_path / "frozen", parse_experiment(DATA | seeds | {"name": "frozen", "training": training}))
        text = page.build(collect([plain, frozen], "both"))["both.md"]
        _, _, section = text.partition("## What `training.freeze_batch_norm_after` changes")
        section = section.partition("\n## ")[0]
        assert "plain and frozen differ in `training.freeze_batch_norm_after` from not set to 1 alone." in section
        assert "p (Holm, 5 tests)" in section
        rows = {line.split(" | ")[0].strip("| "): line for line in section.splitlines() if line.startswith("| ")}
        assert list(rows)[1:] == [
            "kd",
            "dkd",
            r"dkd\_align (log)",
            "gap of dkd to kd",
            r"gap of dkd\_align (log) to kd",
        ]
        # The gain is multiplied by 1 + seed/50, whose mean over seeds 0 to 8 is 1.08.
        assert f"| +{3 * 1.08:.2f} [" in rows["dkd"]
        assert rows["dkd"].endswith("| better |")
        assert rows["kd"].endswith("| not shown |")
        assert rows["gap of dkd to kd"].endswith("| higher |")

    def test_two_settings_or_another_method_have_no_section(self) -> None:
        def spec(**changes: Any) -> dict[str, Any]:
            return parse_experiment(DATA | changes).model_dump(mode="json")

        one = spec()
        both = {"epochs": 4, "freeze_batch_norm_after": 1}
        assert contrast.find(one, spec(training=both)) is None
        other = {"name": "kd", "params": {"temperature": 2.0}}
        assert contrast.find(one, spec(training={"epochs": 4}, methods=[other, "dkd"])) is None
        assert contrast.find(one, one) is None
        found = contrast.find(one, spec(student={"model": "resnet20"}))
        assert found == contrast.Setting("student.model.name", '"resnet8"', '"resnet20"')
