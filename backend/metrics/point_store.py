"""Metric points in and out of the database: bulk upserts in, bounded series out.

Every batch that holds metrics gets the run's next ``ingest`` number, counted under the run's row lock. A reader that
asks "what came after number k" therefore misses nothing, whatever the order of steps or of commits; a cursor over steps
would miss late points, and a database sequence skips numbers that are committed out of order.
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

from backend.db import models
from backend.db.prepared import Prepared
from backend.errors import invalid
from core.events import Metrics, Record
from core.protocol.public import MetricsReply, ProblemField, RunState, Series

FINITE, NAN, PLUS_INFINITY, MINUS_INFINITY = range(4)
MOST_NAMES = 10_000
"""Metrics that a run may bring new names for."""
_NOT_FINITE = {NAN: math.nan, PLUS_INFINITY: math.inf, MINUS_INFINITY: -math.inf}

_POINTS: Table = models.MetricPoint.__table__  # type: ignore[assignment]
_LATEST: Table = models.MetricLatest.__table__  # type: ignore[assignment]
_NAMES: Table = models.MetricName.__table__  # type: ignore[assignment]


class _Upsert:
    """Insert rows; where the key is there already, set these columns, under a condition on the new row.

    Both databases' statements are made once: making one takes longer than it takes to insert a few points.
    """

    def __init__(
        self,
        table: Table,
        *,
        replaced: Sequence[str],
        when: Callable[[ReadOnlyColumnCollection[str, Any]], ColumnElement[bool]],
    ) -> None:
        self.table = table
        # One array a column in one statement: several times as fast as a statement a row.
        arrays = [
            func.unnest(bindparam(column.name, type_=postgresql.ARRAY(column.type)), type_=column.type)
            for column in table.c
        ]
        self.postgresql = self._replacing(
            postgresql.insert(table).from_select([column.name for column in table.c], select(*arrays)), replaced, when
        )
        self.sqlite = Prepared(self._replacing(sqlite.insert(table), replaced, when))

    # Any: the two dialects have the same on_conflict methods, but no common type.
    def _replacing(self, statement: Any, replaced: Sequence[str], when: Callable[..., ColumnElement[bool]]) -> Any:
        new = statement.excluded
        return statement.on_conflict_do_update(
            index_elements=[column.name for column in self.table.primary_key],
            set_={column: new[column] for column in replaced},
            where=when(new),
        )


HAS_VALUE = models.MetricLatest.step >= 0
"""Of the rows of newest values, those that have one."""
_MEASURED = ("epoch", "elapsed", "value", "kind")
_CHANGED = _Upsert(
    _POINTS,
    replaced=(*_MEASURED, "ingest"),
    when=lambda new: or_(*(_POINTS.c[column].is_distinct_from(new[column]) for column in _MEASURED)),
)
# A late point of an earlier step is not the newest.
_NEWER = _Upsert(_LATEST, replaced=("step", "epoch", "value", "kind"), when=lambda new: new.step >= _LATEST.c.step)


def encode(value: float) -> tuple[float | None, int]:
    """A value as its columns (value, kind): SQLite turns NaN into NULL, so what is not finite is kept as a kind."""
    if math.isfinite(value):
        return value, FINITE
    return None, NAN if math.isnan(value) else (PLUS_INFINITY if value > 0 else MINUS_INFINITY)


def decode(value: float | None, kind: int) -> float:
    """The inverse of ``encode``."""
    return value if value is not None else _NOT_FINITE[kind]


def finite(numbers: list[float]) -> list[float]:
    """Epochs or seconds as they are; what is no number, which older versions have taken in, as 0."""
    if math.isfinite(sum(numbers)):  # most are, and this asks in one go
        return numbers
    return [number if math.isfinite(number) else 0.0 for number in numbers]


def insert(connection: Connection, run_id: str, ingest: int, records: Iterable[Record]) -> int:
    """Take in the metrics among the records, in the caller's transaction, which holds the run's row lock.

    The same point again changes nothing, and readers are not sent it again: a resumed attempt repeats its journal. A
    point with another value replaces the old one.

    Args:
        ingest: the run's newest ingest number.

    Returns:
        that number afterwards, for the caller to store with the run: one more where there are metrics at all.
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
                points[name, event.step] = row  # twice in one batch: the later one
    if not points:
        return ingest
    ingest += 1
    ids = _name_ids(connection, run_id, {name for name, _ in points})
    newest: dict[int, dict[str, Any]] = {}
    for (name, step), row in points.items():
        row |= {"run_id": run_id, "name_id": ids[name], "ingest": ingest}
        if step >= newest.get(ids[name], row)["step"]:
            newest[ids[name]] = row
    _upsert(connection, _CHANGED, list(points.values()))
    latest = [{column.name: row[column.name] for column in _LATEST.c} for row in newest.values()]
    _upsert(connection, _NEWER, latest)
    return ingest


def rewind(connection: Connection, run_id: str, to_step: int) -> None:
    """Have the newest values be those up to a step: a resumed attempt stands before what the one before had said.

    The points beyond stay, as the old attempt's curve, until the new one has replaced them. A metric without a point
    so far keeps its row, by which its series is found, with a step of -1: see ``KNOWN``.
    """
    ahead = and_(_LATEST.c.run_id == run_id, _LATEST.c.step > to_step)
    before = and_(_POINTS.c.run_id == run_id, _POINTS.c.name_id == _LATEST.c.name_id, _POINTS.c.step <= to_step)
    newest = select(func.max(_POINTS.c.step)).where(before).correlate(_LATEST).scalar_subquery()
    moved = update(_LATEST).where(ahead).values(step=func.coalesce(newest, -1), epoch=0.0, value=None, kind=NAN)
    steps = {row.name_id: row.step for row in connection.execute(moved.returning(_LATEST.c.name_id, _LATEST.c.step))}
    wanted = [tuple_(_POINTS.c.name_id, _POINTS.c.step) == (name, step) for name, step in steps.items() if step >= 0]
    if wanted:
        columns = [_POINTS.c[column.name] for column in _LATEST.c]
        rows = connection.execute(select(*columns).where(_POINTS.c.run_id == run_id, or_(*wanted)))
        _upsert(connection, _NEWER, [dict(row._mapping) for row in rows])


def reply(session: Session, run: models.Run, names: Sequence[str] | None, since: int, max_points: int) -> MetricsReply:
    """The series of a run with the cursor to ask from next. Arguments as of ``read``."""
    series = read(session, run, names, since, max_points)
    # Constructed, not validated: these are our own numbers, and checking 100,000 of them takes longer than reading.
    state = cast(RunState, run.state)
    return MetricsReply.model_construct(run_id=run.id, state=state, cursor=run.ingest, series=series)


def read(session: Session, run: models.Run, names: Sequence[str] | None, since: int, max_points: int) -> list[Series]:
    """The series of a run as of ``run.ingest``, sorted by name; those without a (new) point are left out.

    Args:
        names: which; None for all.
        since: 0 for the whole, else only points taken in after that ingest number.
        max_points: the most entries a series may have. A longer one comes in buckets of 2^k steps.
    """
    wanted = _POINTS.c.run_id == run.id
    if since > 0:
        wanted = and_(wanted, _POINTS.c.ingest <= run.ingest, _POINTS.c.ingest > since)
        extents = _extents_since(wanted, names)
    else:
        # As a sum: for a bare column SQLite takes the index that "since" needs, and looks every point up in the table.
        wanted = and_(wanted, _POINTS.c.ingest + 0 <= run.ingest)
        extents = _extents(run.id, names, max_points)
    found: dict[int, _Columns] = {}
    whole: list[int] = []
    for name_id, name, first, last, count in session.execute(extents):
        if first is None:
            continue
        width = 1 if count <= max_points else _width(first, last, max_points)
        found[name_id] = _Columns(name, width)
        if width == 1:
            whole.append(name_id)
    if whole:
        _read_whole(session, and_(wanted, _POINTS.c.name_id.in_(whole)), found)
    by_width: dict[int, list[int]] = {}
    for name_id, columns in found.items():
        if columns.width > 1:
            by_width.setdefault(columns.width, []).append(name_id)
    for width, name_ids in by_width.items():
        _read_buckets(session, and_(wanted, _POINTS.c.name_id.in_(name_ids)), width, found)
    return [columns.series() for columns in sorted(found.values(), key=lambda columns: columns.name) if columns.step]


@dataclass
class _Columns:
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
            epoch=finite(self.epoch),
            elapsed=finite(self.elapsed),
            value=self.value,
            low=self.low if bucketed else None,
            high=self.high if bucketed else None,
            resolution=self.width,
        )


def _width(first: int, last: int, max_points: int) -> int:
    """The least power of two whose aligned buckets cover the steps in at most ``max_points``."""
    width = 1
    while last // width - first // width + 1 > max_points:
        width *= 2
    return width


def _extents(run_id: str, names: Sequence[str] | None, max_points: int) -> Select[Any]:
    """Per series: name_id, name, first and last step, and at least how many points, counted no further than needed."""
    one = and_(_POINTS.c.run_id == run_id, _POINTS.c.name_id == _LATEST.c.name_id)
    some = select(literal(1)).select_from(_POINTS).where(one).limit(max_points + 1).correlate(_LATEST).subquery()
    ends = (
        select(
            _LATEST.c.name_id,
            _NAMES.c.name,
            select(func.min(_POINTS.c.step)).where(one).correlate(_LATEST).scalar_subquery().label("first"),
            select(func.max(_POINTS.c.step)).where(one).correlate(_LATEST).scalar_subquery().label("last"),
            select(func.count()).select_from(some).scalar_subquery().label("count"),
        )
        .join(_NAMES, _NAMES.c.id == _LATEST.c.name_id)
        .where(_LATEST.c.run_id == run_id)
    )
    return ends if names is None else ends.where(_NAMES.c.name.in_(names))


def _extents_since(wanted: ColumnElement[bool], names: Sequence[str] | None) -> Select[Any]:
    query = (
        select(_POINTS.c.name_id, _NAMES.c.name, func.min(_POINTS.c.step), func.max(_POINTS.c.step), func.count())
        .join(_NAMES, _NAMES.c.id == _POINTS.c.name_id)
        .where(wanted)
        .group_by(_POINTS.c.name_id, _NAMES.c.name)
    )
    return query if names is None else query.where(_NAMES.c.name.in_(names))


def _read_whole(session: Session, wanted: ColumnElement[bool], found: dict[int, _Columns]) -> None:
    c = _POINTS.c
    query = select(c.name_id, c.step, c.epoch, c.elapsed, c.value, c.kind).where(wanted).order_by(c.name_id, c.step)
    for name_id, rows in groupby(session.execute(query).all(), key=itemgetter(0)):
        # Turned as a whole: adding number by number takes as long again as the database.
        _, step, epoch, elapsed, value, kind = zip(*rows, strict=True)
        columns = found[name_id]
        columns.step, columns.epoch, columns.elapsed = list(step), list(epoch), list(elapsed)
        columns.value = list(map(decode, value, kind)) if any(kind) else list(value)


def _read_buckets(session: Session, wanted: ColumnElement[bool], width: int, found: dict[int, _Columns]) -> None:
    """Mean, least and greatest value of each bucket, as arithmetic with NaN and infinities would give the mean.

    A bucket with a NaN, or with both infinities, has the mean NaN; its least and greatest value are those of its
    numbers, infinities included, so that one NaN hides neither.
    """
    c = _POINTS.c
    bucket = (c.step // width).label("bucket")
    ends = (func.max(c.step), func.max(c.epoch), func.max(c.elapsed))
    query = select(c.name_id, bucket, *ends, func.avg(c.value), func.min(c.value), func.max(c.value), func.max(c.kind))
    rows = session.execute(query.where(wanted).group_by(c.name_id, "bucket").order_by(c.name_id, "bucket")).all()
    strange: dict[tuple[int, int], set[int]] = {}
    if any(row[-1] for row in rows):  # which kinds there are is asked only where there are any: it takes as long again
        kinds = select(c.name_id, bucket, c.kind).where(wanted, c.kind != FINITE).distinct()
        for name_id, number, kind in session.execute(kinds):
            strange.setdefault((name_id, number), set()).add(kind)
    for name_id, number, step, epoch, elapsed, mean, least, greatest, _ in rows:
        kinds_here = strange.get((name_id, number), set())
        columns = found[name_id]
        columns.step.append(step)
        columns.epoch.append(epoch)
        columns.elapsed.append(elapsed)
        numbers = [value for value in (least, greatest) if value is not None]
        numbers += [_NOT_FINITE[kind] for kind in (PLUS_INFINITY, MINUS_INFINITY) if kind in kinds_here]
        columns.value.append(_mean(mean, kinds_here))
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
        upsert.sqlite.run(connection, *rows)


_IDS_OF = Prepared.among(select(_NAMES.c.name, _NAMES.c.id), _NAMES.c.name, "wanted")


def _name_ids(connection: Connection, run_id: str, names: Iterable[str]) -> dict[str, int]:
    """The id of each name, made where it is missing.

    Not cached: an id from a transaction that is rolled back would live on in the cache, and one look-up a batch is
    nothing beside its points.
    """
    wanted = sorted(names)  # in one order everywhere, so that two batches with new names cannot lock each other out
    ids: dict[str, int] = dict(_IDS_OF.rows(connection, {"wanted": wanted}))
    missing = [{"name": name} for name in wanted if name not in ids]
    if missing:
        said = select(func.count()).select_from(_LATEST).where(_LATEST.c.run_id == run_id)
        if connection.scalars(said).one() + len(missing) > MOST_NAMES:
            text = f"a run has at most {MOST_NAMES} metrics"
            raise invalid(text, ProblemField(path="records", message=text))
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        connection.execute(dialect.insert(_NAMES).on_conflict_do_nothing(index_elements=["name"]), missing)
        ids = dict(_IDS_OF.rows(connection, {"wanted": wanted}))
    return ids
