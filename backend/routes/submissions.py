"""Making experiments: one, many in one request, the points of a sweep, an old one with changes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from backend.api.boundary import BoundedRoute, check_client_waits
from backend.api.dependencies import DatabaseDep, NudgesDep, SessionDep, SettingsDep, SubmitterDep, submits
from backend.api.openapi import BULK_BODY, SPEC_BODY, SWEEP_BODY
from backend.api.request_bodies import BodyDep, KeyDep
from backend.artifacts import uploads
from backend.experiments import planned_teachers, planning, serializers, submission
from backend.operations.webhooks import refuse_webhooks
from backend.routes.experiments import find, whole
from core.protocol import public
from core.protocol.submissions import CloneRequest, SubmittedExperiments, SweepPoint, SweepPreview
from core.specs import ExperimentSpec, Problem, editable_copy, parse_experiment, parse_sweep, warnings_of
from core.specs.labels import without_automatic_labels
from core.specs.sweep import expand, varied_fields

router = APIRouter(tags=["experiments"], route_class=BoundedRoute)

_AT_ONCE: dict[int | str, dict[str, Any]] = {
    409: {"description": "Somebody else changed the same thing at the same moment, or what it made has been deleted"}
}


@router.post(
    "/experiments", status_code=201, response_model=public.Experiment, openapi_extra=SPEC_BODY, responses=_AT_ONCE
)
def submit(
    body: BodyDep,
    principal: SubmitterDep,
    database: DatabaseDep,
    settings: SettingsDep,
    nudges: NudgesDep,
    key: KeyDep = None,
) -> Response:
    """Submit an experiment: all of its runs are made, or nothing is.

    422 with the path of every refused field; a name that is taken is one.
    """
    spec = parse_experiment(body.data)
    with database.write_connection() as connection:
        request = submission.idempotency_request(principal, key, body.sha256)
        (experiment_id,) = submission.create_once(
            connection,
            request,
            lambda: submission.create(connection, [("", spec)], settings, submitted_by=principal.name),
        )
        # Within the transaction: for a few runs another look at the file costs as much as all that was written to it,
        # and to read thousands takes a part of the time that it took to write them.
        made = serializers.full_experiment(connection, serializers.experiment_row(connection, experiment_id), spec)
    nudges.request()
    return Response(made.model_dump_json(), 201, media_type="application/json")  # the framework would validate it again


@router.post("/experiments/preview", dependencies=[submits], openapi_extra=SPEC_BODY)
def preview(body: BodyDep, session: SessionDep, settings: SettingsDep) -> public.Preview:
    """What a spec would make, and what to know before; nothing is stored.

    422 as submitting it, but for a name that is taken, which is a warning.
    """
    spec = parse_experiment(body.data)
    return submission.preview(session, spec, settings, draft=without_automatic_labels(spec.model_dump(mode="json")))


@router.post("/experiments/bulk", status_code=201, openapi_extra=BULK_BODY, responses=_AT_ONCE)
def submit_many(
    body: BodyDep,
    principal: SubmitterDep,
    database: DatabaseDep,
    settings: SettingsDep,
    nudges: NudgesDep,
    key: KeyDep = None,
) -> SubmittedExperiments:
    """Submit up to 1,000 experiments of up to 10,000 runs: all of them are made, or none is.

    422 with the path of every refused field, as `experiments.3.methods.0.name`.
    """
    specs = submission.parse_many(body.data)
    with database.write_connection() as connection:
        request = submission.idempotency_request(principal, key, body.sha256)
        ids = submission.create_once(
            connection, request, lambda: submission.create(connection, specs, settings, submitted_by=principal.name)
        )
    nudges.request()
    return submission.submitted_list(ids, [spec for _, spec in specs])


@router.post("/experiments/{key:path}/clone", status_code=201, responses=_AT_ONCE)
def clone(
    key: str,
    request: CloneRequest,
    principal: SubmitterDep,
    database: DatabaseDep,
    settings: SettingsDep,
    nudges: NudgesDep,
) -> public.Experiment:
    """Submit an experiment again under another name, with fields changed: edit and resubmit.

    The teacher stays the one that it is, and is not trained again, whatever changes in `training`; to train another
    one change `teacher` (`teacher.training: null` trains it as the students are). A method that changes takes its
    label along unless somebody typed that. Without a name it gets the next free number, so that repeating makes another
    one; with a name, a second request is refused with 422.
    """
    with database.write() as session:
        spec = submission.cloned_spec(session, find(session, key), request.name, request.changes)
        (experiment_id,) = submission.create(session.connection(), [("", spec)], settings, submitted_by=principal.name)
    nudges.request()
    return whole(database, experiment_id)


@router.post("/experiments/{key:path}/clone/preview", dependencies=[submits])
def preview_clone(key: str, request: CloneRequest, session: SessionDep, settings: SettingsDep) -> public.Preview:
    """What a clone would make, which teacher it would use and why, and what to know before; nothing is stored.

    Its `draft` is what to go on from by hand: with the teacher's training written out, so that it stays the same.
    """
    spec = submission.cloned_spec(session, find(session, key), request.name, request.changes)
    return submission.preview(session, spec, settings, draft=editable_copy(spec.model_dump(mode="json")))


@router.post("/sweeps", status_code=201, openapi_extra=SWEEP_BODY, responses=_AT_ONCE, tags=["sweeps"])
def sweep(
    body: BodyDep,
    principal: SubmitterDep,
    database: DatabaseDep,
    settings: SettingsDep,
    nudges: NudgesDep,
    key: KeyDep = None,
) -> SubmittedExperiments:
    """Submit a sweep: one experiment for each combination, all of them or none.

    Fields are varied over a grid, listed points and seeded random draws. Where `training` is varied the teacher is not:
    it is trained as `experiment.training` has it, unless that is complete only with a varied field. 422 with the path
    of the axis and value that a problem comes from, as `grid.training.optimizer.lr.1`, and of `max_runs` where there
    would be more runs.
    """
    parsed = parse_sweep(body.data)
    specs = expand(parsed, check_client_waits)
    submission.refuse_too_many_runs(specs, "max_runs")
    with database.write_connection() as connection:
        request = submission.idempotency_request(principal, key, body.sha256)
        named = [("", spec) for spec in specs]
        ids = submission.create_once(
            connection,
            request,
            lambda: submission.create(connection, named, settings, submitted_by=principal.name, sweep=parsed.name),
        )
    nudges.request()
    return submission.submitted_list(ids, specs)


@router.post("/sweeps/preview", dependencies=[submits], openapi_extra=SWEEP_BODY, tags=["sweeps"])
def preview_sweep(body: BodyDep, session: SessionDep, settings: SettingsDep) -> SweepPreview:
    """What a sweep would make, and what to know before; nothing is stored.

    422 as submitting it, but for names that are taken, which are warnings.
    """
    parsed = parse_sweep(body.data)
    specs = expand(parsed, check_client_waits)
    refuse_webhooks([("", spec) for spec in specs], settings)
    stored = [spec for _, spec in uploads.resolve_uploads(session.connection(), [("", spec) for spec in specs])]
    teachers, count, new = planned_teachers.plan_teachers(session, stored, planned_teachers.MAX_PREVIEWED)
    taken = planning.existing_names(session, [spec.name for spec in specs])
    found = [problem for spec in specs for problem in _warnings(spec)]
    warnings = {
        (item.path, item.message): item
        for item in (
            *map(planning.name_taken_warning, taken),
            *planned_teachers.varied_teacher_warnings(specs),
            *planning.warnings_as_fields(found),
        )
    }
    items = [
        SweepPoint(name=item.name, runs=item.runs, changes=changes)
        for item, changes in zip(
            submission.submitted_list([""] * len(specs), specs).items, varied_fields(parsed), strict=True
        )
    ]
    return SweepPreview(
        items=items,
        runs=submission.count_runs(specs),
        teachers=teachers,
        teacher_count=count,
        new_teachers=new,
        warnings=list(warnings.values()),
    )


def _warnings(spec: ExperimentSpec) -> list[Problem]:
    check_client_waits()
    return warnings_of(spec)
