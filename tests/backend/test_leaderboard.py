"""The leaderboard: its rows and columns, ranks, comparisons with the baseline, and input that is refused."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.comparisons import ranks, statistics
from backend.db import Database, models
from core.protocol.leaderboards import Leaderboard, LeaderboardCell
from tests.backend import rows
from tests.backend.test_tasks import classification, detection

METHODS: list[Any] = [
    "kd",
    "dkd",
    {"name": "dkd_align", "label": "align", "params": {"reduction": "log", "epsilon": 6.0}},
]
STUDENTS = ("small_cnn", "resnet8", "resnet20", "resnet32", "resnet14", "resnet56")


def board(api: TestClient, **query: Any) -> Leaderboard:
    answer = api.get("/api/v1/leaderboard", params=query)
    assert answer.status_code == 200, answer.text
    return Leaderboard.model_validate(answer.json())


def refused(api: TestClient, status: int = 422, **query: Any) -> dict[str, Any]:
    answer = api.get("/api/v1/leaderboard", params=query)
    assert answer.status_code == status, answer.text
    problem: dict[str, Any] = answer.json()
    return problem


def setting(database: Database, values: dict[str, list[float]], **changes: Any) -> str:
    """Create an experiment with these last accuracies by label and seed; every run was better before its end."""
    methods = [choice for choice in METHODS if (choice if isinstance(choice, str) else choice["label"]) in values]
    seeds = list(range(max(map(len, values.values()))))
    experiment = rows.experiment(database, **({"methods": methods, "seeds": seeds} | changes))
    for (label, seed), run_id in rows.run_ids(database, experiment).items():
        if label == "teacher":
            rows.succeed(database, run_id, [50, 80, 91, 90])
        elif label in values and seed < len(values[label]):
            last = values[label][seed]
            # The best epoch would give the opposite order.
            rows.succeed(database, run_id, [40.0, 190.0 - last, last], environment={"commit": "c0ffee" * 6})
    return experiment


def three(database: Database) -> list[str]:
    """Create three settings, in which align is best, dkd second and kd last, but for some seeds."""
    values = [
        {"kd": [70.0, 71.0], "dkd": [71.0, 72.0], "align": [72.0, 73.0]},
        {"kd": [80.0, 81.0], "dkd": [81.0, 80.0], "align": [82.0, 83.0]},
        {"kd": [60.0, 61.0], "dkd": [62.0, 62.0], "align": [61.0, 62.0]},
    ]
    return [
        setting(database, of_setting, name=f"on {student}", student={"model": student}, tags=["paper"])
        for of_setting, student in zip(values, STUDENTS, strict=False)
    ]


def cell(found: Leaderboard, student: str, label: str) -> LeaderboardCell:
    return found.cells[f"digits resnet8→{student}", label]


def test_mean_ranks_are_means_over_settings_of_ranks_within_seeds(database: Database, api: TestClient) -> None:
    three(database)
    found = board(api)
    # By setting: align 1, 1, (2 and 1.5)/2; dkd 2, (2 and 3)/2, (1 and 1.5)/2; kd 3, (3 and 2)/2, 3.
    expected = {"align": (1 + 1 + 1.75) / 3, "dkd": (2 + 2.5 + 1.25) / 3, "kd": (3 + 2.5 + 3) / 3}
    assert {method.label: method.mean_rank for method in found.methods} == pytest.approx(expected)
    assert [method.label for method in found.methods] == ["align", "dkd", "kd"]
    assert cell(found, "resnet20", "align").mean_rank == 1.75
    assert found.counted == 3
    assert found.ranking is not None
    assert (found.ranking.unit, found.ranking.units, found.ranking.blocks) == ("setting", 3, 6)
    assert all(
        method.interval and method.interval.low <= method.mean_rank for method in found.methods if method.mean_rank
    )
    reference = ranks.friedman([[1, 2, 3], [1, 2.5, 2.5], [1.75, 1.25, 3]])
    assert reference is not None
    assert found.ranking.friedman_p == pytest.approx(reference.p)


def test_values_are_of_the_last_epoch_and_never_of_the_best(database: Database, api: TestClient) -> None:
    three(database)
    found = board(api)
    assert (cell(found, "small_cnn", "kd").mean, cell(found, "small_cnn", "align").mean) == (70.5, 72.5)
    assert cell(found, "small_cnn", "align").best
    assert not cell(found, "small_cnn", "kd").best
    assert found.notes[0].startswith("Values are after the last epoch, never of the best one")


def test_holm_is_over_all_comparisons_of_the_page(database: Database, api: TestClient) -> None:
    gains = {"small_cnn": 1.0, "resnet8": 0.0, "resnet20": -1.0}
    for student, gain in gains.items():
        kd = [80.0 + seed for seed in range(8)]
        dkd = [value + gain + (0.1 if seed % 2 else -0.1) for seed, value in enumerate(kd)]
        setting(database, {"kd": kd, "dkd": dkd}, name=student, student={"model": student})
    found = board(api, baseline="kd")
    cells = [cell(found, student, "dkd") for student in gains]
    assert found.tests == 3
    assert [item.p_holm for item in cells] == statistics.holm([item.p for item in cells])
    assert [item.verdict for item in cells] == ["better", "unclear", "worse"]
    assert cells[0].mean_difference == pytest.approx(1.0, abs=0.15)
    assert cells[0].difference_interval is not None
    assert cell(found, "small_cnn", "kd").p is None


def _comparable(found: Leaderboard) -> dict[str, Any]:
    return found.model_dump(exclude={"made_at"})


def test_order_of_the_experiments_changes_nothing(database: Database, api: TestClient) -> None:
    ids = three(database)
    expected = _comparable(board(api, experiment=ids))
    for order in (ids[::-1], [ids[1], ids[0], ids[2]], [*ids, ids[0]]):
        assert _comparable(board(api, experiment=order)) == expected
    assert _comparable(board(api, tag="paper")) == expected


def test_seeds_of_one_setting_may_be_in_several_experiments(database: Database, api: TestClient) -> None:
    setting(database, {"kd": [70.0], "dkd": [71.0]}, name="first")
    second = rows.experiment(database, name="second", methods=["kd", "dkd"], seeds=[5])
    for (label, _), run_id in rows.run_ids(database, second).items():
        if label != "teacher":
            rows.succeed(database, run_id, [80.0 if label == "kd" else 79.0])
    found = board(api)
    (column,) = found.settings
    assert column.common_seeds == [0, 5]
    assert [method.mean_rank for method in found.methods] == [1.5, 1.5]
    assert len(column.experiments) == 2


def test_one_setting_is_ranked_over_its_seeds_and_does_not_generalise(database: Database, api: TestClient) -> None:
    setting(database, {"kd": [70.0, 71.0, 72.0], "dkd": [71.0, 72.0, 73.0]})
    found = board(api)
    assert found.ranking is not None
    assert (found.ranking.unit, found.ranking.units) == ("seed", 3)
    notes = " ".join(found.notes)
    assert "they say nothing of other settings" in notes
    assert "No pair can differ yet: with 3 seeds p after Holm is at least 0.25; 6 seeds could" in notes
    assert "No comparison with the baseline can be decided yet" in notes


def test_six_settings_can_show_that_two_methods_differ(database: Database, api: TestClient) -> None:
    for index, student in enumerate(STUDENTS):
        setting(database, {"kd": [70.0 + index], "dkd": [71.0 + 2 * index]}, name=student, student={"model": student})
    found = board(api)
    assert found.ranking is not None
    (pair,) = found.ranking.pairs
    assert (pair.first, pair.second, pair.wins, pair.losses, pair.differs) == ("dkd", "kd", 6, 0, True)
    assert pair.p_holm == pytest.approx(2 / 64)
    assert found.ranking.cliques == []


def test_missing_cells_are_shown_and_only_whole_settings_are_ranked(database: Database, api: TestClient) -> None:
    three(database)
    setting(database, {"kd": [50.0], "dkd": [51.0]}, name="without align", student={"model": "resnet32"})
    found = board(api)
    column = next(item for item in found.settings if item.student == "resnet32")
    assert (column.counted, column.reason) == (False, "without align")
    assert (found.counted, len(found.settings)) == (3, 4)
    assert [(item.without, item.settings) for item in found.fewer] == [(["align"], 4)]
    assert any("1 of 4 settings does not count for the ranks" in note for note in found.notes)
    fewer = board(api, without="align")
    assert (fewer.counted, fewer.without, fewer.fewer) == (4, ["align"], [])
    assert [method.label for method in fewer.methods] == ["dkd", "kd"]


def test_a_setting_without_common_seeds_does_not_count(database: Database, api: TestClient) -> None:
    experiment = setting(database, {"kd": [70.0], "dkd": []}, seeds=[0, 1])
    run_id = rows.run_ids(database, experiment)["dkd", 1]
    rows.succeed(database, run_id, [71.0])
    found = board(api)
    (column,) = found.settings
    assert (column.counted, column.reason) == (False, "no seed has a value of every method")
    assert found.ranking is None
    assert any("nothing is ranked" in note for note in found.notes)
    assert [method.mean_rank for method in found.methods] == [None, None]


def test_runs_that_have_not_succeeded_are_no_results(database: Database, api: TestClient) -> None:
    experiment = setting(database, {"kd": [70.0, 71.0], "dkd": [71.0]})
    failed = rows.run_ids(database, experiment)["dkd", 1]
    rows.insert_records(database, failed, rows.metrics(10, {"test/top1": 99.0}, epoch=1))
    rows.change(database, failed, state="failed", reason="out of memory")
    found = board(api)
    assert (cell(found, "small_cnn", "dkd").n, cell(found, "small_cnn", "dkd").mean) == (1, 71.0)
    assert found.settings[0].common_seeds == [0]


def test_methods_with_other_parameters_are_rows_of_their_own(database: Database, api: TestClient) -> None:
    warm = {"name": "kd", "params": {"temperature": 8.0}}
    setting(database, {"kd": [70.0]}, name="usual")
    other = rows.experiment(database, name="warm", methods=[warm], seeds=[0])
    for (label, _), run_id in rows.run_ids(database, other).items():
        if label == "kd":
            rows.succeed(database, run_id, [75.0])
    found = board(api)
    assert [method.label for method in found.methods] == ["kd (temperature 8)", "kd (temperature 4)"]
    assert len(found.settings) == 1
    assert refused(api, baseline="kd")["errors"][0]["path"] == "baseline"
    assert board(api, baseline="kd (temperature 4)").baseline == "kd (temperature 4)"
    assert board(api, without="kd").methods == []  # a label stands for all of its rows


def test_equal_methods_with_other_labels_share_a_row(database: Database, api: TestClient) -> None:
    setting(database, {"kd": [70.0], "dkd": [71.0]}, name="one")
    renamed = [{"name": "kd", "label": "Hinton"}, "dkd"]
    other = rows.experiment(database, name="two", methods=renamed, seeds=[0], student={"model": "resnet8"})
    for (label, _), run_id in rows.run_ids(database, other).items():
        if label != "teacher":
            rows.succeed(database, run_id, [80.0])
    found = board(api)
    assert sorted(method.label for method in found.methods) == ["Hinton", "dkd"]
    assert found.counted == 2
    assert board(api, baseline="kd").baseline == "Hinton"


def test_methods_tuned_in_each_setting_are_one_row_with_its_budget(database: Database, api: TestClient) -> None:
    for student, temperature in (("small_cnn", 3.5), ("resnet8", 2.0)):
        methods = [{"name": "kd", "params": {"temperature": temperature}}, "dkd"]
        experiment = setting(
            database, {"kd": [70.0], "dkd": [71.0]}, name=student, methods=methods, student={"model": student}
        )
        chosen = [
            {
                "label": label,
                "trial": 3,
                "trials": trials,
                "settings": settings,
                "score": 60.0,
                "score_of_spec": None,
            }
            for label, trials, settings in (
                ("kd", 8, {"params.temperature": temperature}),
                ("dkd", 4, {"params.beta": 8.0}),
            )
        ]
        with database.write() as session:
            session.get_one(models.Experiment, experiment).choice = {
                "metric": "val/top1",
                "images": 90,
                "seeds": 1,
                "methods": chosen,
            }
    found = board(api)
    assert [(method.label, method.tuned) for method in found.methods] == [("dkd", True), ("kd", True)]
    assert cell(found, "resnet8", "kd").trials == 8
    assert any("the budgets of tuning differ: 4 trials for dkd; 8 trials for kd" in note for note in found.notes)
    assert all(len(item.choice) == 64 and item.trials == 8 for item in found.experiments)


def test_settings_that_differ_in_their_training_are_told_apart(database: Database, api: TestClient) -> None:
    setting(database, {"kd": [70.0]}, name="short", training={"epochs": 4})
    setting(database, {"kd": [75.0]}, name="long", training={"epochs": 9})
    titles = [item.title for item in board(api).settings]
    assert titles == ["digits resnet8→small_cnn (epochs 4)", "digits resnet8→small_cnn (epochs 9)"]


def test_provenance_names_every_experiment_and_run(database: Database, api: TestClient) -> None:
    ids = three(database)
    found = board(api)
    assert sorted(item.id for item in found.experiments) == sorted(ids)
    assert found.experiments[0].tags == ["paper"]
    assert len(found.runs) == 18
    assert {run.id for run in found.runs} == {
        run for of_setting in found.settings for item in of_setting.cells for run in item.run_ids
    }
    assert all(run.fingerprint and run.teacher_run_id and run.ended_at for run in found.runs)
    assert {run.commit for run in found.runs} == {"c0ffee" * 6}
    assert found.address == "http://testserver"


def test_a_single_method_has_values_and_no_rank(database: Database, api: TestClient) -> None:
    setting(database, {"kd": [70.0]})
    found = board(api)
    assert (found.ranking, found.methods[0].mean_rank, found.methods[0].settings) == (None, None, 1)
    assert any("at least two methods" in note for note in found.notes)


def test_an_empty_lab_has_an_empty_leaderboard(api: TestClient) -> None:
    found = board(api)
    assert (found.methods, found.settings, found.runs, found.task) == ([], [], [], "classification")
    assert found.notes


def test_a_setting_in_which_nothing_has_finished_is_shown_without_ranks(database: Database, api: TestClient) -> None:
    rows.experiment(database, methods=METHODS)
    found = board(api)
    assert [item.label for item in found.methods] == ["align", "dkd", "kd"]
    assert found.ranking is None
    assert (found.counted, found.fewer) == (0, [])
    assert [item.reason for item in found.settings] == ["there are no two methods to rank"]


def test_tasks_are_separated_and_refused_if_named_together(database: Database, api: TestClient) -> None:
    both = [classification(database), detection(database)]
    found = board(api)
    assert (found.task, found.tasks) == ("classification", ["classification", "detection"])
    assert any("1 experiment is left out, of object detection" in note for note in found.notes)
    of_detection = board(api, task="detection")
    assert {item.metric for item in of_detection.settings} == {"test/ap"}
    assert [method.label for method in of_detection.methods] == ["dkd", "ce"]
    assert refused(api, experiment=both)["errors"][0]["path"] == "experiment"
    assert board(api, experiment=both, task="detection").task == "detection"


def test_unknown_names_are_refused_with_those_that_exist(database: Database, api: TestClient) -> None:
    three(database)
    tag = refused(api, tag=["paper", "nobody"])
    assert tag["errors"] == [{"path": "tag.1", "message": "no experiment has the tag 'nobody'; there are paper"}]
    assert "'nothing'" in refused(api, 404, experiment="nothing")["detail"]
    assert "'nothing'" in refused(api, 404, sweep="nothing")["detail"]
    assert refused(api, baseline="crd")["errors"] == [
        {"path": "baseline", "message": "there is no method 'crd'; there are align, dkd, kd"}
    ]
    assert refused(api, without="crd")["errors"][0]["path"] == "without"
    assert refused(api, task="music")["errors"][0]["path"] == "task"
    assert refused(api, format="pdf")["errors"][0]["path"] == "format"


def test_seeds_that_were_added_by_looks_are_not_tested(database: Database, api: TestClient) -> None:
    until = {"until": "decided", "first": 3, "most": 5, "difference": 0.5}
    experiment = setting(database, {"kd": [70.0, 71.0, 72.0], "dkd": [71.0, 72.0, 73.5]}, seeds=until)
    found = board(api)
    assert (found.tests, found.ranking is not None and found.ranking.pairs) == (0, [])
    assert [method.mean_rank for method in found.methods] == [1.0, 2.0]
    assert any("Seeds were added until the comparisons were decided" in note for note in found.notes)
    assert experiment


def test_archived_experiments_take_part_only_if_they_are_named(database: Database, api: TestClient) -> None:
    ids = three(database)
    api.post(f"/api/v1/experiments/{ids[0]}/archive").raise_for_status()
    assert len(board(api).settings) == 2
    assert len(board(api, experiment=ids).settings) == 3
