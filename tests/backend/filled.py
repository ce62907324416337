"""A database with rows in every table, created through the API and the writing modules."""

from __future__ import annotations

from datetime import timedelta

from backend.db import Database, models, now
from backend.db.ids import new_id
from tests.backend import rows
from tests.backend.lab import Lab, checkpoint, log, metrics, plain, spec, started
from tests.backend.test_files import UPLOADS, safetensors


def fill(lab: Lab, database: Database) -> dict[str, str]:
    """Fill every table; return run ids: ``done`` succeeded, ``broken`` failed in attempt 2, ``held`` is running."""
    lab.register(labels=["cellar"])
    lab.submit(spec(tags=["a", "ä"], notes="two\nlines"))
    lab.admin.post("/api/v1/experiments", json=plain("keyed"), headers={"Idempotency-Key": "k"})
    reader = {"name": "reader", "scopes": ["read"], "expires_in_days": 3}
    token_id = lab.admin.post("/api/v1/tokens", json=reader).json()["id"]
    lab.admin.post(f"/api/v1/tokens/{token_id}/rotate", json={})
    lab.admin.post(UPLOADS, params={"name": "mine"}, content=safetensors())
    board = {"name": "board", "layout": {"figures": [{"metric": "test/top1", "right": "train/loss"}], "x": "time"}}
    lab.admin.post("/api/v1/layouts", json=board)
    lab.admin.post("/api/v1/projects", json={"name": "detection", "title": "Detectors – all"})
    lab.admin.post("/api/v1/people", json={"name": "anna", "mail": "anna@lab.example"})
    lab.admin.put("/api/v1/projects/detection/members/anna", json={"role": "submitter"})
    lab.admin.post("/api/v1/people/anna/invitation", json={})
    claim = lab.claim(key="a-claim-key")
    lab.events(claim, started(), metrics(2, 10, {"train/loss": 1.5, "test/top1": "Infinity"}))
    lab.events(claim, metrics(3, 20, {"train/loss": "NaN", "test/top1": 62.5}), log(4, "a line, with “quotes”"))
    lab.succeed(claim)
    done = claim["run_id"]

    claim = lab.claim()
    lab.events(claim, started(), checkpoint(2, 10))
    lab.finish(claim, "interrupted", reason="the worker left", fault=False)
    claim = lab.claim()
    lab.finish(claim, "failed", reason="NaN", log_tail=["one", "two"])
    broken = claim["run_id"]
    held = lab.claim()["run_id"]
    teachers = [
        {"model": "resnet8", "method": "kd", "teacher": {"model": "resnet14"}},
        {"model": "small_cnn"},
    ]
    lab.submit(spec("ensemble", teacher=None, teachers=teachers, priority=-1))
    with database.write() as session:
        experiment = session.query(models.Experiment).first()
        assert experiment is not None
        moment = now(session)
        person = session.query(models.Person).first()
        assert person is not None
        person.password_hash, person.password_changed_at = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA", moment
        session.add(
            models.PersonIdentity(issuer="https://id.lab.example", subject="a", person_id=person.id, created_at=moment)
        )
        session.add(models.UsedIdToken(sha256="0" * 64, ends_at=moment + timedelta(hours=1)))
        session.add(
            models.WebhookDelivery(
                id=new_id(),
                experiment_id=experiment.id,
                event="succeeded",
                url="https://hooks.example/x",
                body={"text": "done"},
                not_before=moment + timedelta(days=1),  # otherwise it would be sent
                created_at=moment - timedelta(hours=1),
            )
        )
    assert rows.run_ids(database, experiment.id)
    return {"done": done, "broken": broken, "held": held}
