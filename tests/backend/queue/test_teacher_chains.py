"""Teachers that have teachers of their own, and students with several teachers."""

from __future__ import annotations

import pytest

from core.specs import parse_experiment
from tests.backend.lab import TEACHER_WEIGHTS, Json, Lab, plain, spec

DEEP = {"model": "resnet14"}
CHAIN = {"teacher": {"model": "resnet8", "method": "kd", "teacher": DEEP}}
SEVERAL = {"teacher": None, "teachers": [{"model": "resnet8"}, {"model": "resnet14"}]}


@pytest.fixture
def chain(lab: Lab) -> Json:
    lab.register()
    return lab.submit(spec("chain", **CHAIN))


@pytest.fixture
def several(lab: Lab) -> Json:
    lab.register()
    return lab.submit(spec("several", **SEVERAL))


def ids(experiment: Json) -> dict[str, str]:
    return {run["label"]: run["id"] for run in experiment["runs"]}


class TestStudents:
    def test_claim_of_a_teacher_has_one_student_of_each_kind(self, lab: Lab) -> None:
        lab.register()
        lab.submit(spec("first", methods=["dkd", "kd"], seeds=[0, 1]))
        lab.submit(spec("second", methods=["kd", "nkd"], seeds=[0]))
        teacher = lab.claim()
        assert [student["method"]["name"] for student in teacher["students"]] == ["dkd", "kd", "nkd"]
        assert {student["teacher"] for student in teacher["students"]} != {None}
        lab.succeed(teacher)
        student = lab.claim()
        assert (student["role"], student["students"]) == ("student", [])

    def test_more_kinds_than_are_checked_are_not_sent(self, lab: Lab) -> None:
        lab.register()
        methods = [{"name": "kd", "label": f"kd {n}", "params": {"temperature": n}} for n in range(1, 52)]
        lab.submit(spec("many", methods=methods))
        assert lab.claim()["students"] == []


class TestChain:
    def test_runs_are_trained_one_after_another_each_with_its_own_teacher(self, lab: Lab, chain: Json) -> None:
        assert [run["label"] for run in chain["runs"]] == ["teacher 2", "teacher", "dkd", "kd"]
        assert lab.states("chain") == {"teacher 2": "queued", "teacher": "waiting", "dkd": "waiting", "kd": "waiting"}
        deep = lab.claim()
        assert (deep["spec"]["model"]["name"], deep["spec"].get("teacher")) == ("resnet14", None)
        assert lab.try_claim() is None
        lab.succeed(deep)
        assistant = lab.claim()
        assert assistant["spec"]["method"]["name"] == "kd"
        assert (assistant["role"], assistant["needs_teacher"]) == ("teacher", True)
        assert assistant["teacher"] == {"path": f"{deep['folder']}/weights.safetensors", "sha256": TEACHER_WEIGHTS}
        assert assistant["teacher_spec"] == deep["spec"]
        assert lab.states("chain") == {
            "teacher 2": "succeeded",
            "teacher": "running",
            "dkd": "waiting",
            "kd": "waiting",
        }
        lab.succeed(assistant)
        student = lab.claim()
        assert student["teacher"]["path"].startswith(assistant["folder"])
        assert student["further_teachers"] == []

    def test_each_link_is_shared_with_other_experiments(self, lab: Lab, chain: Json) -> None:
        same = lab.submit(spec("same", **CHAIN))
        plain_teacher = lab.submit(spec("plain teacher", teacher=DEEP))
        assert [run["id"] for run in same["runs"][:2]] == [run["id"] for run in chain["runs"][:2]]
        assert ids(plain_teacher)["teacher"] == ids(chain)["teacher 2"]
        other = {"model": "resnet8", "method": {"name": "kd", "params": {"temperature": 2}}, "teacher": DEEP}
        assert ids(lab.submit(spec("other", teacher=other)))["teacher"] != ids(chain)["teacher"]
        teachers = {item["run_id"]: item for item in lab.admin.get("/api/v1/teachers").json()["items"]}
        assert teachers[ids(chain)["teacher"]]["students"] == 4
        assert teachers[ids(chain)["teacher 2"]]["students"] == 4, "two assistants and two students"

    def test_failure_of_the_first_fails_the_whole_chain_and_a_retry_revives_it(self, lab: Lab, chain: Json) -> None:
        lab.finish(lab.claim(), "failed", reason="loss is NaN")
        current = lab.experiment("chain")
        assert {run["state"] for run in current["runs"]} == {"failed"}
        assert all("loss is NaN" in run["reason"] for run in current["runs"])
        assert lab.retry(ids(chain)["kd"])["state"] == "waiting"
        assert lab.states("chain") == {"teacher 2": "queued", "teacher": "waiting", "dkd": "waiting", "kd": "waiting"}
        for expected in ("resnet14", "resnet8"):
            claim = lab.claim()
            assert claim["spec"]["model"]["name"] == expected
            lab.succeed(claim)
        assert lab.states("chain")["dkd"] == "queued"

    def test_retry_of_the_first_revives_all_that_failed_because_of_it(self, lab: Lab, chain: Json) -> None:
        lab.cancel(ids(chain)["dkd"])
        lab.finish(lab.claim(), "failed", reason="broken")
        assert lab.retry(ids(chain)["teacher 2"])["state"] == "queued"
        assert lab.states("chain") == {"teacher 2": "queued", "teacher": "waiting", "dkd": "cancelled", "kd": "waiting"}

    def test_failed_assistant_alone_is_retried_with_the_teacher_that_it_has(self, lab: Lab, chain: Json) -> None:
        lab.succeed(lab.claim())
        lab.finish(lab.claim(), "failed", reason="broken")
        assert lab.states("chain") == {"teacher 2": "succeeded", "teacher": "failed", "dkd": "failed", "kd": "failed"}
        lab.retry(ids(chain)["kd"])
        assert lab.states("chain") == {"teacher 2": "succeeded", "teacher": "queued", "dkd": "waiting", "kd": "waiting"}

    def test_retry_finds_links_that_were_created_again(self, lab: Lab, chain: Json) -> None:
        lab.finish(lab.claim(), "failed", reason="broken")
        again = lab.submit(spec("again", **CHAIN))
        assert set(ids(again).values()).isdisjoint(ids(chain).values())
        lab.retry(ids(chain)["kd"])
        assert lab.run(ids(chain)["kd"])["teacher_run_id"] == ids(again)["teacher"]
        assert lab.states("chain")["teacher"] == "failed"
        lab.succeed(lab.claim())
        lab.succeed(lab.claim())
        assert lab.states("chain")["kd"] == lab.states("again")["kd"] == "queued"

    def test_priority_reaches_the_first_of_the_chain(self, lab: Lab, chain: Json) -> None:
        lab.priority(ids(chain)["kd"], 7)
        assert [lab.run(ids(chain)[label])["priority"] for label in ("teacher 2", "teacher", "dkd")] == [7, 7, 0]
        lab.priority_of_experiment("chain", -2)
        assert [lab.run(key)["priority"] for key in ids(chain).values()] == [-2] * 4
        lab.submit(spec("urgent", priority=9, **CHAIN))
        assert lab.run(ids(chain)["teacher 2"])["priority"] == 9
        lab.cancel_experiment("urgent")
        assert lab.run(ids(chain)["teacher 2"])["priority"] == -2

    def test_teacher_is_cancelled_only_if_no_assistant_waits_for_it(self, lab: Lab, chain: Json) -> None:
        refused = lab.admin.post(f"/api/v1/runs/{ids(chain)['teacher 2']}/cancel")
        assert (refused.status_code, "1 run(s) wait for this teacher" in refused.json()["detail"]) == (409, True)
        lab.submit(spec("other", teacher=DEEP))
        lab.cancel_experiment("chain")
        assert lab.states("chain") == {
            "teacher 2": "queued",
            "teacher": "cancelled",
            "dkd": "cancelled",
            "kd": "cancelled",
        }
        lab.cancel_experiment("other")
        assert lab.states("chain")["teacher 2"] == "cancelled"

    def test_pausing_and_resuming_keep_the_order(self, lab: Lab, chain: Json) -> None:
        lab.pause_experiment("chain")
        assert set(lab.states("chain").values()) == {"paused"}
        assert lab.resume(ids(chain)["kd"])["state"] == "waiting"
        assert lab.states("chain") == {"teacher 2": "queued", "teacher": "waiting", "dkd": "paused", "kd": "waiting"}
        lab.resume_experiment("chain")
        assert lab.states("chain")["dkd"] == "waiting"

    def test_new_student_resumes_a_paused_chain(self, lab: Lab, chain: Json) -> None:
        lab.pause_experiment("chain")
        lab.submit(spec("later", **CHAIN))
        assert lab.states("later") == {"teacher 2": "queued", "teacher": "waiting", "dkd": "waiting", "kd": "waiting"}

    def test_chain_is_deleted_with_its_experiment_unless_others_use_a_part(self, lab: Lab, chain: Json) -> None:
        other = lab.submit(spec("other", teacher=DEEP))
        for name in ("chain", "other"):
            lab.cancel_experiment(name)
        assert lab.admin.delete("/api/v1/experiments/chain").status_code in (200, 204)
        assert lab.admin.get(f"/api/v1/runs/{ids(chain)['teacher']}").status_code == 404
        assert lab.run(ids(other)["teacher"])["state"] == "cancelled"
        assert lab.admin.delete("/api/v1/experiments/other").status_code in (200, 204)
        assert lab.admin.get(f"/api/v1/runs/{ids(other)['teacher']}").status_code == 404

    def test_preview_shows_the_chain_and_what_exists_of_it(self, lab: Lab) -> None:
        lab.register()
        lab.submit(spec("first", teacher=DEEP))
        lab.submit(spec("alone", teacher={"model": "resnet8"}))
        preview = lab.admin.post("/api/v1/experiments/preview", json=spec("chain", **CHAIN)).json()
        assert [teacher["model"] for teacher in preview["teachers"]] == ["resnet14", "resnet8"]
        assert preview["teacher"] == preview["teachers"][-1]
        deep, assistant = (teacher["sentence"] for teacher in preview["teachers"])
        assert "this run is used" in deep
        assert "A new teacher is trained (resnet8 on digits, seed 0, 2 epochs with kd)" in assistant
        assert "teacher.method.name (kd here, ce there)" in assistant
        assert [(run["label"], run["shared"]) for run in preview["runs"]][:2] == [
            ("teacher 2", True),
            ("teacher", False),
        ]


class TestSeveral:
    def test_students_wait_for_all_and_get_all(self, lab: Lab, several: Json) -> None:
        assert lab.states("several") == {"teacher": "queued", "teacher 2": "queued", "dkd": "waiting", "kd": "waiting"}
        first, second = lab.claim(), lab.claim()
        lab.succeed(first)
        assert lab.states("several")["kd"] == "waiting"
        lab.succeed(second)
        assert lab.states("several")["kd"] == "queued"
        student = lab.claim()
        by_model = {claim["spec"]["model"]["name"]: claim for claim in (first, second)}
        assert student["teacher_spec"] == by_model["resnet8"]["spec"]
        (further,) = student["further_teachers"]
        assert further["spec"] == by_model["resnet14"]["spec"]
        assert further["weights"]["path"].startswith(by_model["resnet14"]["folder"])
        assert student["spec"]["ensemble"] == {"by": "mean"}

    def test_one_failure_fails_the_students_and_both_are_retried(self, lab: Lab, several: Json) -> None:
        for _ in range(2):
            lab.finish(lab.claim(), "failed", reason="broken")
        assert set(lab.states("several").values()) == {"failed"}
        lab.retry(ids(several)["teacher"])
        assert lab.states("several") == {"teacher": "queued", "teacher 2": "failed", "dkd": "failed", "kd": "failed"}
        lab.retry(ids(several)["kd"])
        assert lab.states("several") == {"teacher": "queued", "teacher 2": "queued", "dkd": "waiting", "kd": "waiting"}

    def test_each_teacher_is_shared_and_inherits_the_priority(self, lab: Lab, several: Json) -> None:
        alone = lab.submit(spec("alone", teacher={"model": "resnet14"}, priority=3))
        assert ids(alone)["teacher"] == ids(several)["teacher 2"]
        lab.priority(ids(several)["kd"], 5)
        assert [lab.run(ids(several)[label])["priority"] for label in ("teacher", "teacher 2")] == [5, 5]
        refused = lab.admin.post(f"/api/v1/runs/{ids(several)['teacher 2']}/cancel")
        assert "4 run(s) wait for this teacher" in refused.json()["detail"]
        students = lab.admin.get("/api/v1/runs", params={"teacher": ids(several)["teacher 2"]}).json()["items"]
        assert {run["id"] for run in students} >= {ids(several)["kd"], ids(alone)["kd"]}

    def test_deleting_keeps_a_teacher_that_another_student_uses(self, lab: Lab, several: Json) -> None:
        alone = lab.submit(spec("alone", teacher={"model": "resnet14"}))
        for name in ("several", "alone"):
            lab.cancel_experiment(name)
        refused = lab.admin.delete(f"/api/v1/runs/{ids(several)['teacher 2']}")
        assert (refused.status_code, "students use this teacher" in refused.json()["detail"]) == (409, True)
        assert lab.admin.delete("/api/v1/experiments/alone").status_code in (200, 204)
        assert lab.run(ids(several)["teacher 2"])["state"] == "cancelled"
        assert lab.admin.get(f"/api/v1/runs/{ids(alone)['kd']}").status_code == 404

    def test_experiment_names_all_teachers(self, lab: Lab, several: Json) -> None:
        assert several["teacher_model"] == "resnet8 + resnet14"


def test_experiment_without_several_teachers_stores_no_new_fields(lab: Lab) -> None:
    stored = lab.submit(plain())["spec"]
    assert not {"teachers", "ensemble"} & stored.keys()
    taught = lab.submit(spec("taught"))["spec"]
    assert taught["teacher"].keys() == {"model", "weights", "training", "seed"}
    assert parse_experiment(taught).plan()[0].spec.model_dump().keys() == {
        "role",
        "dataset",
        "model",
        "method",
        "training",
        "seed",
        "data_seed",
        "teacher",
        "weights",
    }
