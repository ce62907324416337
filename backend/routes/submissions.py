"""Submission of experiments: one, many in one request, the points of a sweep, or a changed copy of another."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from sqlalchemy import Connection

from backend import audit
from backend.api.boundary import BoundedRoute, check_client_waits
from backend.api.dependencies import DatabaseDep, NudgesDep, SessionDep, SettingsDep, SubmitterDep, submits
from backend.api.openapi import BULK_BODY, SPEC_BODY, SWEEP_BODY
from backend.api.request_bodies import BodyDep, ProjectParameter, SubmissionDep
from backend.artifacts import uploads
from backend.experiments import planned_teachers, planning, serializers, submission
from backend.operations.webhooks import refuse_webhooks
from backend.people import rights
from backend.routes.experiments import find
from core.protocol import public
from core.protocol.submissions import CloneRequest, SubmittedExperiments, SweepPoint, SweepPreview
from core.specs import ExperimentSpec, Problem, editable_copy, parse_experiment, parse_sweep, warnings_of
from core.specs.labels import without_automatic_labels
from core.specs.sweep import expand, varied_fields

router = APIRouter(tags=["experiments"], route_class=BoundedRoute)

_CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {
        "description": "Another request changed the same data, the experiments of this key have been deleted, or the "
        "project has used up its quota of disk space"
    }
}

_Parent = Annotated[
    str | None,
    Query(max_length=100, description="Id or name of the experiment that this one was copied from."),
]


@router.post(
    "/experiments", status_code=201, response_model=public.Experiment, openapi_extra=SPEC_BODY, responses=_CONFLICT
)
async def submit(request: SubmissionDep, parent: _Parent = None) -> Response:
    """Submit an experiment. Either all its runs are created, or none.

    422 with the path of every refused field, such as a name that is taken, or `parent` if there is no such experiment.
    """
    spec = await request.body.spec()

    def work(connection: Connection) -> str:
        submitted = submission.create_once(connection, request, [("", spec)], parent=parent or "")
        if submitted.created:
            experiment = serializers.created_experiment(connection, submitted.created[0])
        else:
            row = serializers.experiment_row(connection, submitted.ids[0])
            experiment = serializers.full_experiment(connection, row)
        return experiment.model_dump_json()

    answer = await request.database.write_async(work)
    request.nudges.request()
    return _created(answer)


@router.post("/experiments/preview", dependencies=[submits], openapi_extra=SPEC_BODY)
def preview(body: BodyDep, session: SessionDep, settings: SettingsDep) -> public.Preview:
    """Preview the runs that a spec would create, with warnings; nothing is stored.

    422 like the submission, except that a name that is taken is only a warning.
    """
    spec = parse_experiment(body.data)
    return submission.preview(session, spec, settings, draft=without_automatic_labels(spec.model_dump(mode="json")))


@router.post("/experiments/bulk", status_code=201, openapi_extra=BULK_BODY, responses=_CONFLICT)
def submit_many(request: SubmissionDep) -> SubmittedExperiments:
    """Submit up to 1,000 experiments with up to 10,000 runs in total. Either all are created, or none.

    422 with the path of every refused field, such as `experiments.3.methods.0.name`.
    """
    specs = submission.parse_many(request.body.data)
    with request.database.write_connection() as connection:
        submitted = submission.create_once(connection, request, specs)
    request.nudges.request()
    return submission.submitted_list(submitted.ids, [spec for _, spec in specs])


@router.post("/experiments/{key:path}/clone", status_code=201, response_model=public.Experiment, responses=_CONFLICT)
def clone(
    key: str,
    request: CloneRequest,
    principal: SubmitterDep,
    database: DatabaseDep,
    settings: SettingsDep,
    nudges: NudgesDep,
    project: ProjectParameter = None,
) -> Response:
    """Submit an experiment again under another name, with changed fields.

    The clone uses the same teacher, which is not trained again, even if `training` changes. To train another teacher,
    change `teacher` (`teacher.training: null` trains it like the students). The label of a changed method changes with
    it, unless a person chose the label. Without a name, the clone gets the old name with the next free number, so
    repeating the request creates another clone; with a name, a second request is refused with 422. Without `project`,
    the clone is in the project of the original.
    """
    with database.write() as session:
        original = find(session, key)
        target = rights.target(project or original.project)
        spec = submission.cloned_spec(session, original, request.name, request.changes)
        connection = session.connection()
        (created,) = submission.create(
            connection,
            [("", spec)],
            settings,
            submitted_by=principal.submitter,
            project=target,
            parent_id=original.id,
        )
        audit.about("experiment", created.id, project=target, names=[spec.name], copy_of=original.id)
        experiment = serializers.created_experiment(connection, created)
    nudges.request()
    return _created(experiment.model_dump_json())


@router.post("/experiments/{key:path}/clone/preview", dependencies=[submits])
def preview_clone(key: str, request: CloneRequest, session: SessionDep, settings: SettingsDep) -> public.Preview:
    """Preview a clone: its runs, its teacher with the reason, and warnings; nothing is stored.

    The answer's `draft` is the spec for further editing. It contains the teacher's complete training, so that the
    teacher stays the same.
    """
    spec = submission.cloned_spec(session, find(session, key), request.name, request.changes)
    return submission.preview(session, spec, settings, draft=editable_copy(spec.model_dump(mode="json")))


@router.post("/sweeps", status_code=201, openapi_extra=SWEEP_BODY, responses=_CONFLICT, tags=["sweeps"])
def sweep(request: SubmissionDep) -> SubmittedExperiments:
    """Submit a sweep: one experiment for each combination of values. Either all are created, or none.

    Fields are varied over a grid, listed points and seeded random draws. If `training` is varied, the teacher is still
    trained as in `experiment.training`, unless that is complete only with a varied field. 422 with the path of the axis
    and value that cause a problem, such as `grid.training.optimizer.lr.1`, or with `max_runs` if there are too many
    runs.
    """
    parsed = parse_sweep(request.body.data)
    specs = expand(parsed, check_client_waits)
    submission.refuse_too_many_runs(specs, "max_runs")
    with request.database.write_connection() as connection:
        submitted = submission.create_once(connection, request, [("", spec) for spec in specs], sweep=parsed.name)
    request.nudges.request()
    return submission.submitted_list(submitted.ids, specs)


@router.post("/sweeps/preview", dependencies=[submits], openapi_extra=SWEEP_BODY, tags=["sweeps"])
def preview_sweep(body: BodyDep, session: SessionDep, settings: SettingsDep) -> SweepPreview:
    """Preview the experiments that a sweep would create, with warnings; nothing is stored.

    422 like the submission, except that names that are taken are only warnings.
    """
    parsed = parse_sweep(body.data)
    specs = expand(parsed, check_client_waits)
    refuse_webhooks([("", spec) for spec in specs], settings)
    stored = [spec for _, spec in uploads.resolve_uploads(session.connection(), [("", spec) for spec in specs])]
    teachers, count, new_teachers = planned_teachers.plan_teachers(session, stored, planned_teachers.MAX_PREVIEWED)
    taken_names = planning.existing_names(session, [spec.name for spec in specs])
    spec_warnings = [problem for spec in specs for problem in _warnings(spec)]
    warnings = {
        (item.path, item.message): item
        for item in (
            *map(planning.name_taken_warning, taken_names),
            *planned_teachers.varied_teacher_warnings(specs),
            *planning.warnings_as_fields(spec_warnings),
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
        new_teachers=new_teachers,
        warnings=list(warnings.values()),
    )


def _created(experiment: str) -> Response:
    return Response(experiment, 201, media_type="application/json")  # FastAPI would validate it again


def _warnings(spec: ExperimentSpec) -> list[Problem]:
    check_client_waits()
    return warnings_of(spec)
