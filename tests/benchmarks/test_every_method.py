"""The table of a spec with many methods, made of journals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import every_method
from core.events import JOURNAL_NAME, Finished, Journal, Started
from core.specs import ExperimentSpec, parse_experiment, to_yaml

SPEC = parse_experiment(
    {
        "name": "small",
        "dataset": "digits",
        "teacher": {"model": "resnet20"},
        "student": {"model": "resnet8"},
        "methods": ["ce", "kd", "dkd"],
        "seeds": [0, 1, 2],
        "training": {"epochs": 2},
    }
)
RESULTS = {"teacher": [90.0], "ce": [50.0, 51.0, 52.0], "kd": [53.0, 54.5, 54.5], "dkd": [52.0]}


def write(folder: Path, spec: ExperimentSpec, results: dict[str, list[float]]) -> None:
    """Write the journals of finished runs, with the results of the first seeds."""
    for planned in spec.plan():
        values = results[planned.label]
        number = planned.spec.seed
        run = folder / f"{planned.label}-{number}"
        journal = Journal(run / JOURNAL_NAME)
        (run / "fingerprint.json").write_text(json.dumps(planned.spec.fingerprint()))
        environment = {"torch": "2", "processor": "p", "precision": "float32"}
        journal.append(
            Started(
                total_steps=4,
                total_epochs=2,
                train_size=800,
                test_size=900,
                parameters=10,
                device="cpu",
                environment=environment,
            )
        )
        if number >= len(values):
            continue  # interrupted
        journal.metrics(step=4, epoch=2, elapsed=90.0, values={"test/top1": values[number]})
        summary = {"test/top1": values[number], "fidelity/agreement": 60.0}
        journal.append(Finished(weights="weights.safetensors", sha256="0" * 64, summary=summary))


def cells(text: str, label: str) -> list[str]:
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {label} |")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_table_has_means_and_paired_differences(tmp_path: Path) -> None:
    write(tmp_path, SPEC, RESULTS)
    text = every_method.markdown(SPEC, every_method.outcomes_of(SPEC, tmp_path), "make")
    assert cells(text, "ce")[1:4] == ["51.00 ± 1.00", "3", ""]
    # Differences of 3, 3.5 and 2.5: 3 ± 4.303·0.5/√3.
    assert cells(text, "kd")[1:4] == ["54.00 ± 0.87", "3", "+3.00 [+1.76, +4.24]"]
    assert cells(text, "kd")[5:] == ["60.0", "1.5"]
    assert cells(text, "dkd")[1:5] == ["52.00", "1", "+2.00", ""]
    assert cells(text, "teacher")[1:4] == ["90.00", "1", ""]
    assert "- **kd**: The interval" in text
    assert "3 pairs cannot show p < 0.25" in text
    assert "8 of 10 runs, 12 minutes" in text
    assert "800 training and 900 test images, seeds 0, 1, 2" in text


def test_run_of_another_spec_is_no_result(tmp_path: Path) -> None:
    write(tmp_path, SPEC, RESULTS)
    other = SPEC.model_copy(update={"training": SPEC.training.model_copy(update={"epochs": 3})})
    assert every_method.outcomes_of(other, tmp_path) == {}


def test_folder_without_results_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(to_yaml(SPEC))
    with pytest.raises(SystemExit):
        every_method.main([str(spec), str(tmp_path)])
    assert "contains no finished run" in capsys.readouterr().err
