"""Statements and column types that SQLite and PostgreSQL write differently."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from backend.db import Database
from backend.db.models import Token
from backend.db.types import to_json
from backend.db.upsert import insert_if_absent, insert_new

_CREATED = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def row(number: int) -> dict[str, Any]:
    return {
        "id": f"token-{number}",
        "name": f"anna {number}",
        "sha256": f"{number:064}",
        "scopes": ["read", "submit"],
        "created_at": _CREATED,
        "created_by": "",
        "expires_at": None,
        "revoked_at": None,
    }


def test_values_come_back_with_their_types(database: Database) -> None:
    with database.write_connection() as connection:
        connection.execute(insert(Token), row(1))
    with database.read() as session:
        token = session.get_one(Token, "token-1")
    assert (token.name, token.scopes, token.created_at) == ("anna 1", ["read", "submit"], _CREATED)


def test_times_of_other_zones_are_stored_in_utc(database: Database) -> None:
    with database.write_connection() as connection:
        connection.execute(insert(Token), row(1) | {"created_at": _CREATED.astimezone(timezone(timedelta(hours=5)))})
    with database.read() as session:
        assert session.scalars(select(Token.id).where(Token.created_at == _CREATED)).all() == ["token-1"]


def test_failing_row_undoes_the_whole_statement(database: Database) -> None:
    with database.write_connection() as connection:
        connection.execute(insert(Token), [row(number) for number in range(20)])
    with pytest.raises(IntegrityError), database.write_connection() as connection:
        connection.execute(insert(Token), [row(20), row(3)])
    with database.read() as session:
        names = set(session.scalars(select(Token.name).where(Token.name.startswith("anna"))))
    assert names == {f"anna {number}" for number in range(20)}


def test_update_changes_only_the_columns_of_its_parameters(database: Database) -> None:
    change = update(Token).where(Token.sha256 == bindparam("wanted"))
    with database.write_connection() as connection:
        connection.execute(insert(Token), [row(1), row(2)])
        connection.execute(change, {"wanted": f"{1:064}", "scopes": ["worker"]})
        connection.execute(change, {"wanted": f"{1:064}", "name": "bert"})
    with database.read() as session:
        first, second = session.get_one(Token, "token-1"), session.get_one(Token, "token-2")
    assert (first.name, first.scopes) == ("bert", ["worker"])
    assert (second.name, second.scopes) == ("anna 2", ["read", "submit"])


def test_columns_without_a_value_get_their_defaults(database: Database) -> None:
    optional = ("created_by", "expires_at", "revoked_at")
    with database.write_connection() as connection:
        connection.execute(insert(Token), {key: value for key, value in row(1).items() if key not in optional})
    with database.read() as session:
        token = session.get_one(Token, "token-1")
    assert (token.created_by, token.expires_at) == ("", None)


@pytest.mark.parametrize("numbers", [[], [1], [0, 2, 7]])
def test_expanding_parameter_takes_a_list_of_any_length(database: Database, numbers: list[int]) -> None:
    query = select(Token.id).where(Token.sha256.in_(bindparam("hashes", expanding=True))).order_by(Token.id)
    with database.write_connection() as connection:
        connection.execute(insert(Token), [row(number) for number in range(5)])
        ids = connection.scalars(query, {"hashes": [f"{number:064}" for number in numbers]}).all()
    assert ids == [f"token-{number}" for number in numbers if number < 5]


def test_insert_new_inserts_and_returns_only_rows_without_an_equal(database: Database) -> None:
    with database.write_connection() as connection:
        assert insert_new(connection, Token, [row(1)], unique=["sha256"], returning="id") == ["token-1"]
        again = [row(1) | {"id": "other"}, row(2), row(2) | {"id": "twice"}]
        assert insert_new(connection, Token, again, unique=["sha256"], returning="id") == ["token-2"]


def test_insert_if_absent_returns_whether_it_inserted(database: Database) -> None:
    with database.write_connection() as connection:
        assert insert_if_absent(connection, Token, row(1), unique=["sha256"])
        assert not insert_if_absent(connection, Token, row(1) | {"id": "other"}, unique=["sha256"])


def test_rows_of_a_failed_transaction_are_not_stored(database: Database) -> None:
    def insert_and_fail() -> None:
        with database.write_connection() as connection:
            connection.execute(insert(Token), row(1))
            raise RuntimeError("failed")

    with pytest.raises(RuntimeError, match="failed"):
        insert_and_fail()
    with database.read() as session:
        assert session.get(Token, "token-1") is None


@pytest.mark.parametrize("value", [{}, [1.5, 1e300, -0.0, None, True], {"π": ["ü", 2**70]}, "\ud800", math.inf])
def test_to_json_agrees_with_the_standard_library(value: Any) -> None:
    assert json.loads(to_json(value)) == value


def test_to_json_refuses_values_that_are_not_json() -> None:
    with pytest.raises(TypeError):
        to_json({"a": object()})
