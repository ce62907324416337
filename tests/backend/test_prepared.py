"""Statements made once: on both databases they find and write what SQLAlchemy's own execution would."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, bindparam, inspect, select, update
from sqlalchemy import insert as sql_insert
from sqlalchemy.exc import IntegrityError

from backend.db import Database
from backend.db.models import Token
from backend.db.prepared import Prepared
from backend.db.types import to_json
from backend.db.upsert import new_rows

_TOKENS = inspect(Token).local_table.c
_FIND = Prepared(select(_TOKENS.name, _TOKENS.scopes, _TOKENS.created_at).where(_TOKENS.sha256 == bindparam("wanted")))
_INSERT = Prepared(sql_insert(Token))
_CHANGE = Prepared(update(Token).where(Token.sha256 == bindparam("wanted")))
_MOMENT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def row(number: int) -> dict[str, Any]:
    return {
        "id": f"token-{number}",
        "name": f"anna {number}",
        "sha256": f"{number:064}",
        "scopes": ["read", "submit"],
        "created_at": _MOMENT,
        "created_by": "",
        "expires_at": None,
        "revoked_at": None,
    }


def test_what_was_written_is_found_with_its_types_and_names(database: Database) -> None:
    with database.write() as session:
        _INSERT.run(session.connection(), row(1))
        (found,) = _FIND.rows(session.connection(), {"wanted": f"{1:064}"})
    assert (found.name, found.scopes, found.created_at) == ("anna 1", ["read", "submit"], _MOMENT)
    assert _FIND.find(database, {"wanted": f"{1:064}"}) == found
    assert _FIND.find(database, {"wanted": "no such hash"}) is None


def test_many_rows_go_in_at_once_or_none(database: Database) -> None:
    with database.write() as session:
        _INSERT.run(session.connection(), *map(row, range(20)))
    with pytest.raises(IntegrityError), database.write() as session:
        _INSERT.run(session.connection(), row(20), row(3))
    with database.read() as session:
        names = set(session.scalars(select(Token.name).where(Token.name.startswith("anna"))))
    assert names == {f"anna {number}" for number in range(20)}


def test_an_update_changes_the_columns_that_are_named(database: Database) -> None:
    later = datetime(2026, 4, 1, tzinfo=UTC)
    with database.write() as session:
        _INSERT.run(session.connection(), row(1), row(2))
        _CHANGE.run(session.connection(), {"wanted": f"{1:064}", "scopes": ["worker"]})
        _CHANGE.run(session.connection(), {"wanted": f"{1:064}", "name": "bert", "created_at": later})
        (first,) = _FIND.rows(session.connection(), {"wanted": f"{1:064}"})
        (second,) = _FIND.rows(session.connection(), {"wanted": f"{2:064}"})
    assert tuple(first) == ("bert", ["worker"], later)
    assert tuple(second) == ("anna 2", ["read", "submit"], _MOMENT)


def test_columns_without_a_value_have_their_defaults(database: Database) -> None:
    given = {key: value for key, value in row(1).items() if key not in ("created_by", "expires_at", "revoked_at")}
    with database.write() as session:
        _INSERT.run(session.connection(), given)
    with database.read() as session:
        token = session.get_one(Token, "token-1")
    assert (token.created_by, token.expires_at) == ("", None)


def test_a_default_that_is_another_with_each_row_is_refused(tmp_path: Path) -> None:
    table = Table("counted", MetaData(), Column("id", Integer, default=count().__next__), Column("name", Text))
    database = Database(f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(TypeError, match="give values of id"), database.write() as session:
        Prepared(sql_insert(table)).run(session.connection(), {"name": "x"})
    database.dispose()


@pytest.mark.parametrize("wanted", [[], [1], [0, 2, 7]])
def test_rows_of_a_list_of_any_length_are_found(database: Database, wanted: list[int]) -> None:
    found = Prepared.among(select(_TOKENS.id).order_by(_TOKENS.id), _TOKENS.sha256, "hashes")
    with database.write() as session:
        _INSERT.run(session.connection(), *map(row, range(5)))
        rows = found.rows(session.connection(), {"hashes": [f"{number:064}" for number in wanted]})
    assert [item.id for item in rows] == [f"token-{number}" for number in wanted if number < 5]


def test_only_new_rows_go_in_and_are_named(database: Database) -> None:
    enter = new_rows(Token, unique=["sha256"], returning="id")
    with database.write() as session:
        assert [item.id for item in enter.each(session.connection(), [row(1)])] == ["token-1"]
        again = [row(1) | {"id": "other"}, row(2), row(2) | {"id": "twice"}]
        assert [item.id for item in enter.each(session.connection(), again)] == ["token-2"]


def test_what_the_transaction_undoes_is_not_found(database: Database) -> None:
    def fails() -> None:
        with database.write() as session:
            _INSERT.run(session.connection(), row(1))
            raise RuntimeError("undone")

    with pytest.raises(RuntimeError, match="undone"):
        fails()
    assert _FIND.find(database, {"wanted": f"{1:064}"}) is None


@pytest.mark.parametrize("value", [{}, [1.5, 1e300, -0.0, None, True], {"π": ["ü", 2**70]}, "\ud800", math.inf])
def test_json_is_written_as_the_standard_library_means_it(value: Any) -> None:
    assert json.loads(to_json(value)) == value


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError):
        to_json({"a": object()})
