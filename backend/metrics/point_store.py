"""Writes metric points in bulk and reads them as series of bounded length.

Every batch with metrics gets the run's next ``ingest`` number, counted under the run's row lock. A reader that asks for
points after number k therefore misses none, whatever the order of steps or commits. A cursor over steps would miss late
points, and numbers of a database sequence may be committed out of order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    bindparam,
    func,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from backend.db import chunked, models
from backend.errors import invalid
from core.events import Metrics, Record
from core.protocol.public import MetricsReply, ProblemField, RunState, Series

FINITE, NAN, PLUS_INFINITY, MINUS_INFINITY = range(4)
MAX_NAMES = 10_000
"""Maximum number of metrics per run."""
_NOT_FINITE = {NAN: math.nan, PLUS_INFINITY: math.inf, MINUS_INFINITY: -math.inf}

_POINTS: Table = models.MetricPoint.__table__  # type: ignore[assignment]
_LATEST: Table = models.MetricLatest.__table__  # type: ignore[assignment]
_NAMES: Table = models.MetricName.__table__  # type: ignore[assignment]


class _Upsert:
    """Inserts rows; if a key exists, updates the given columns under a condition on the new row.

    The statements of both databases are built once: building one takes longer than inserting a few points.

    Args:
        table: The table.
        replaced: Columns that are updated if the key exists.
        when: Returns the condition for an update, from the new row.
    """

    def __init__(
        self,
        table: Table,
        *,
        replaced: Sequence[str],
        when: Callable[[ReadOnlyColumnCollection[str, Any]], ColumnElement[bool]],
    ) -> None:
        self.table = table
        # One statement with an array per column: several times as fast as a statement per row.
        arrays = [
            func.unnest(bindparam(column.name, type_=postgresql.ARRAY(column.type)), type_=column.type)
            for column in table.c
        ]
        self.postgresql = self._replacing(
            postgresql.insert(table).from_select([column.name for column in table.c], select(*arrays)), replaced, when
        )
        self.sqlite = self._replacing(sqlite.insert(table), replaced, when)

    # The type is Any because the two dialects have the same on_conflict methods but no common type.
    def _replacing(self, statement: Any, replaced: Sequence[str], when: Callable[..., ColumnElement[bool]]) -> Any:
        new = statement.excluded
        return statement.on_conflict_do_update(
            index_elements=[column.name for column in self.table.primary_key],
            set_={column: new[column] for column in replaced},
            where=when(new),
        )


HAS_VALUE = models.MetricLatest.step >= 0
"""Condition for the rows of latest values that have a value."""
_MEASURED = ("epoch", "elapsed", "value", "kind")
_UPSERT_POINTS = _Upsert(
    _POINTS,
    replaced=(*_MEASURED, "ingest"),
    when=lambda new: or_(*(_POINTS.c[column].is_distinct_from(new[column]) for column in _MEASURED)),
)
# A late point of an earlier step is not the latest value.
_UPSERT_LATEST = _Upsert(
    _LATEST, replaced=("step", "epoch", "value", "kind"), when=lambda new: new.step >= _LATEST.c.step
)


def encode(value: float) -> tuple[float | None, int]:
    """Return a value as columns (value, kind).

    SQLite turns NaN into NULL, so that nonfinite values are stored as a kind.
    """
    if math.isfinite(value):
        return value, FINITE
    return None, NAN if math.isnan(value) else (PLUS_INFINITY if value > 0 else MINUS_INFINITY)


def decode(value: float | None, kind: int) -> float:
    """Return the value of the columns (value, kind); the inverse of ``encode``."""
    return value if value is not None else _NOT_FINITE[kind]


def replace_nonfinite(numbers: list[float]) -> list[float]:
    """Return epochs or seconds with nonfinite ones, which older versions have stored, replaced by 0."""
    if math.isfinite(sum(numbers)):  # one check for the usual case
        return numbers
    return [number if math.isfinite(number) else 0.0 for number in numbers]


def insert(connection: Connection, run_id: str, ingest: int, records: Iterable[Record]) -> int:
    """Insert the metrics among the records, in the caller's transaction, which holds the run's row lock.

    A repeated point changes nothing and is not sent to readers again: a resumed attempt repeats its journal. A point
    with another value replaces the old one.

    Args:
        connection: A write transaction.
        run_id: The run.
        ingest: The run's latest ingest number.
        records: The records of a batch.

    Returns:
        The new ingest number, which the caller stores with the run: one more if there are metrics, else the same.
    """
    points: dict[tuple[str, int], dict[str, Any]] = {}
    for record in records:
        event = record.event
        if isinstance(event, Metrics):
            for name, number in event.values.items():
                value, kind = encode(number)
                row: dict[str, Any] = {
                    "step": event.step,
                    "epoch": event.epoch,
                    "elapsed": event.elapsed,
                    "value": value,
                    "kind": kind,
                }
                points[name, event.step] = row  # a later duplicate in the batch replaces an earlier one
    if not points:
        return ingest
    ingest += 1
    ids = _name_ids(connection, run_id, {name for name, _ in points})
    latest_by_name: dict[int, dict[str, Any]] = {}
    for (name, step), row in points.items():
        row |= {"run_id": run_id, "name_id": ids[name], "ingest": ingest}
        if step >= latest_by_name.get(ids[name], row)["step"]:
            latest_by_name[ids[name]] = row
    _upsert(connection, _UPSERT_POINTS, list(points.values()))
    latest = [{column.name: row[column.name] for column in _LATEST.c} for row in latest_by_name.values()]
    _upsert(connection, _UPSERT_LATEST, latest)
    return ingest


def rewind(connection: Connection, run_id: str, to_step: int) -> None:
    """Reset the latest values to those up to a step: a resumed attempt starts before the end of the previous one.

    Later points stay, as the curve of the old attempt, until the new attempt replaces them. A metric without a point up
    to the step keeps its row, which is needed to find its series, with the step -1 (see ``HAS_VALUE``).
    """
    is_later = and_(_LATEST.c.run_id == run_id, _LATEST.c.step > to_step)
    is_earlier_point = and_(
        _POINTS.c.run_id == run_id, _POINTS.c.name_id == _LATEST.c.name_id, _POINTS.c.step <= to_step
    )
    latest = select(func.max(_POINTS.c.step)).where(is_earlier_point).correlate(_LATEST).scalar_subquery()
    update_latest = (
        update(_LATEST).where(is_later).values(step=func.coalesce(latest, -1), epoch=0.0, value=None, kind=NAN)
    )
    steps = {
        row.name_id: row.step for row in connection.execute(update_latest.returning(_LATEST.c.name_id, _LATEST.c.step))
    }
    keys = [tuple_(_POINTS.c.name_id, _POINTS.c.step) == (name, step) for name, step in steps.items() if step >= 0]
    if keys:
        columns = [_POINTS.c[column.name] for column in _LATEST.c]
        rows = connection.execute(select(*columns).where(_POINTS.c.run_id == run_id, or_(*keys)))
        _upsert(connection, _UPSERT_LATEST, [dict(row._mapping) for row in rows])


def metrics_reply(
    session: Session, run: models.Run, names: Sequence[str] | None, since: int, max_points: int
) -> MetricsReply:
    """Return the series of a run with the cursor for the next request. See ``read`` for the arguments."""
    series = read(session, run, names, since, max_points)
    # Constructed without validation: validating 100,000 stored numbers takes longer than reading them.
    state = cast(RunState, run.state)
    return MetricsReply.model_construct(run_id=run.id, state=state, cursor=run.ingest, series=series)


def read(session: Session, run: models.Run, names: Sequence[str] | None, since: int, max_points: int) -> list[Series]:
    """Return the series of a run as of ``run.ingest``, sorted by name, without those that have no (new) point.

    Args:
        session: A read transaction.
        run: The run.
        names: Names of the metrics; None for all.
        since: Return only points that were inserted after this ingest number; 0 for all.
        max_points: Maximum length of a series. A longer one is reduced to buckets of 2^k steps.
    """
    condition = _POINTS.c.run_id == run.id
    if since > 0:
        condition = and_(condition, _POINTS.c.ingest <= run.ingest, _POINTS.c.ingest > since)
        extents = _extents_since(condition, names)
    else:
        # The sum keeps SQLite from using the index of "ingest", with which it would look up every point in the table.
        condition = and_(condition, _POINTS.c.ingest + 0 <= run.ingest)
        extents = _extents(run.id, names, max_points)
    series_by_name: dict[int, _SeriesColumns] = {}
    unbucketed: list[int] = []
    for name_id, name, first, last, count in session.execute(extents):
        if first is None:
            continue
        width = 1 if count <= max_points else _bucket_width(first, last, max_points)
        series_by_name[name_id] = _SeriesColumns(name, width)
        if width == 1:
            unbucketed.append(name_id)
    if unbucketed:
        _read_unbucketed(session, and_(condition, _POINTS.c.name_id.in_(unbucketed)), series_by_name)
    by_width: dict[int, list[int]] = {}
    for name_id, columns in series_by_name.items():
        if columns.width > 1:
            by_width.setdefault(columns.width, []).append(name_id)
    for width, name_ids in by_width.items():
        _read_buckets(session, and_(condition, _POINTS.c.name_id.in_(name_ids)), width, series_by_name)
    return [
        columns.series()
        for columns in sorted(series_by_name.values(), key=lambda columns: columns.name)
        if columns.step
    ]


@dataclass
class _SeriesColumns:
    name: str
    width: int
    step: list[int] = field(default_factory=list)
    epoch: list[float] = field(default_factory=list)
    elapsed: list[float] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def series(self) -> Series:
        bucketed = self.width > 1
        return Series.model_construct(
            name=self.name,
            step=self.step,
            epoch=replace_nonfinite(self.epoch),
            elapsed=replace_nonfinite(self.elapsed),
            value=self.value,
            low=self.low if bucketed else None,
            high=self.high if bucketed else None,
            resolution=self.width,
        )


def _bucket_width(first: int, last: int, max_points: int) -> int:
    """Return the least power of two for which at most ``max_points`` aligned buckets cover the steps."""
    width = 1
    while last // width - first // width + 1 > max_points:
        width *= 2
    return width


def _extents(run_id: str, names: Sequence[str] | None, max_points: int) -> Select[Any]:
    """Select name_id, name, first and last step and number of points per series, counted up to ``max_points`` + 1."""
    is_of_series = and_(_POINTS.c.run_id == run_id, _POINTS.c.name_id == _LATEST.c.name_id)
    limited_points = (
        select(literal(1)).select_from(_POINTS).where(is_of_series).limit(max_points + 1).correlate(_LATEST).subquery()
    )
    extents = (
        select(
            _LATEST.c.name_id,
            _NAMES.c.name,
            select(func.min(_POINTS.c.step)).where(is_of_series).correlate(_LATEST).scalar_subquery().label("first"),
            select(func.max(_POINTS.c.step)).where(is_of_series).correlate(_LATEST).scalar_subquery().label("last"),
            select(func.count()).select_from(limited_points).scalar_subquery().label("count"),
        )
        .join(_NAMES, _NAMES.c.id == _LATEST.c.name_id)
        .where(_LATEST.c.run_id == run_id)
    )
    return extents if names is None else extents.where(_NAMES.c.name.in_(names))


def _extents_since(condition: ColumnElement[bool], names: Sequence[str] | None) -> Select[Any]:
    query = (
        select(_POINTS.c.name_id, _NAMES.c.name, func.min(_POINTS.c.step), func.max(_POINTS.c.step), func.count())
        .join(_NAMES, _NAMES.c.id == _POINTS.c.name_id)
        .where(condition)
        .group_by(_POINTS.c.name_id, _NAMES.c.name)
    )
    return query if names is None else query.where(_NAMES.c.name.in_(names))


def _read_unbucketed(
    session: Session, condition: ColumnElement[bool], series_by_name: dict[int, _SeriesColumns]
) -> None:
    c = _POINTS.c
    query = select(c.name_id, c.step, c.epoch, c.elapsed, c.value, c.kind).where(condition).order_by(c.name_id, c.step)
    for name_id, rows in groupby(session.execute(query).all(), key=itemgetter(0)):
        # Transposed at once: appending number by number takes as long as the query.
        _, step, epoch, elapsed, value, kind = zip(*rows, strict=True)
        columns = series_by_name[name_id]
        columns.step, columns.epoch, columns.elapsed = list(step), list(epoch), list(elapsed)
        columns.value = list(map(decode, value, kind)) if any(kind) else list(value)


def _read_buckets(
    session: Session, condition: ColumnElement[bool], width: int, series_by_name: dict[int, _SeriesColumns]
) -> None:
    """Read mean, minimum and maximum of each bucket.

    As in IEEE arithmetic, a bucket with a NaN, or with both infinities, has the mean NaN. The minimum and the maximum
    are computed from the other values, including infinities, so that a NaN does not hide them.
    """
    c = _POINTS.c
    bucket = (c.step // width).label("bucket")
    ends = (func.max(c.step), func.max(c.epoch), func.max(c.elapsed))
    query = select(c.name_id, bucket, *ends, func.avg(c.value), func.min(c.value), func.max(c.value), func.max(c.kind))
    rows = session.execute(query.where(condition).group_by(c.name_id, "bucket").order_by(c.name_id, "bucket")).all()
    nonfinite_kinds: dict[tuple[int, int], set[int]] = {}
    if any(
        row[-1] for row in rows
    ):  # a second query, which takes as long as the first, only if there are nonfinite values
        kinds = select(c.name_id, bucket, c.kind).where(condition, c.kind != FINITE).distinct()
        for name_id, number, kind in session.execute(kinds):
            nonfinite_kinds.setdefault((name_id, number), set()).add(kind)
    for name_id, number, step, epoch, elapsed, mean, min_step, greatest, _ in rows:
        kinds_in_bucket = nonfinite_kinds.get((name_id, number), set())
        columns = series_by_name[name_id]
        columns.step.append(step)
        columns.epoch.append(epoch)
        columns.elapsed.append(elapsed)
        numbers = [value for value in (min_step, greatest) if value is not None]
        numbers += [_NOT_FINITE[kind] for kind in (PLUS_INFINITY, MINUS_INFINITY) if kind in kinds_in_bucket]
        columns.value.append(_mean(mean, kinds_in_bucket))
        columns.low.append(min(numbers, default=math.nan))
        columns.high.append(max(numbers, default=math.nan))


def _mean(mean: float | None, kinds: Set[int]) -> float:
    if NAN in kinds or kinds >= {PLUS_INFINITY, MINUS_INFINITY}:
        return math.nan
    if kinds:
        return math.inf if PLUS_INFINITY in kinds else -math.inf
    return float(mean) if mean is not None else math.nan


def _upsert(connection: Connection, upsert: _Upsert, rows: list[dict[str, Any]]) -> None:
    if connection.dialect.name == "postgresql":
        columns = {column.name: [row[column.name] for row in rows] for column in upsert.table.c}
        connection.execute(upsert.postgresql, columns)
    else:
        connection.execute(upsert.sqlite, rows)


_IDS_OF = select(_NAMES.c.name, _NAMES.c.id).where(_NAMES.c.name.in_(bindparam("names", expanding=True)))


def _name_ids(connection: Connection, run_id: str, names: Iterable[str]) -> dict[str, int]:
    """Return the id of each name, inserting missing names.

    Ids are not cached: an id of a transaction that is rolled back would stay in the cache, and one look-up per batch
    takes little time compared with inserting its points.
    """
    ordered = sorted(names)  # in a fixed order, so that two batches with new names cannot deadlock
    ids = _ids_of(connection, ordered)
    missing = [{"name": name} for name in ordered if name not in ids]
    if missing:
        metric_count = select(func.count()).select_from(_LATEST).where(_LATEST.c.run_id == run_id)
        if connection.scalars(metric_count).one() + len(missing) > MAX_NAMES:
            text = f"a run has at most {MAX_NAMES} metrics"
            raise invalid(text, ProblemField(path="records", message=text))
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        connection.execute(dialect.insert(_NAMES).on_conflict_do_nothing(index_elements=["name"]), missing)
        ids = _ids_of(connection, ordered)
    return ids


def _ids_of(connection: Connection, names: Sequence[str]) -> dict[str, int]:
    return {
        name: name_id for chunk in chunked(names) for name, name_id in connection.execute(_IDS_OF, {"names": chunk})
    }
