"""The one door to Postgres: connections, migrations, the texts of sql/queries, and the driver's errors as ours."""

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, TextClause, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from fracture_ml.core.connection import KEPT_ALIVE, TOLD_TO_POSTGRES
from fracture_ml.core.errors import DatabaseRefused, DatabaseUnavailable, InvalidSettings, RowRefused, SchemaMismatch

SQL_FOLDER = Path(__file__).resolve().parents[2] / "sql"
MIGRATIONS = SQL_FOLDER / "migrations"
QUERIES = SQL_FOLDER / "queries"

# SQLSTATE: connection, roll-back of a deadlock, no room or memory, an operator's intervention, a system error.
_CLASSES_OF_UNAVAILABLE = ("08", "40", "53", "57", "58")
_CLASSES_OF_ROWS = ("22", "23", "54")  # a value that no column takes, a constraint, too long for an index
_LOCK_NOT_AVAILABLE = "55P03"
_READ_ONLY = "25006"  # a standby, as while another server takes over, or one that an operator made read-only


def connect(url: str) -> Engine:
    """A small pool of connections that are checked before use. Opens none yet.

    What the URL says after its `?`, `options` among it, goes before what is said here. Parameters are hidden in every
    message: they hold object keys and hashed identities.

    Raises: InvalidSettings: the URL cannot be read.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InvalidSettings(
            "FRACTURE_DATABASE_URL cannot be read: write postgresql+psycopg2://user:password@host:port/database, with "
            "special characters of the password as %XX."
        ) from None
    said = parsed.normalized_query
    options = [f"-c {name}={value}" for name, value in TOLD_TO_POSTGRES.items()]
    ours = {name: value for name, value in KEPT_ALIVE.items() if name not in said}
    return create_engine(
        parsed,
        pool_size=2,
        max_overflow=6,
        pool_timeout=30,
        pool_pre_ping=True,
        pool_recycle=1800,
        hide_parameters=True,
        connect_args=ours | {"options": " ".join([*options, *said.get("options", ())])},  # the last word holds
    )


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One unit of work: committed at the end, rolled back by any error.

    Raises: DatabaseUnavailable: Postgres is away, refuses the login, is full, takes no writes, or broke off, as it does
        where a lock stays taken for five minutes; DatabaseRefused: a rule of a table refuses what was to be written
        (RowRefused: the values of a row). No message holds a password, a parameter or a row.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except PoolTimeout:
        raise DatabaseUnavailable("All connections of this process to Postgres are taken: try again.") from None
    except DBAPIError as error:
        raise _translated(error) from None


def _translated(error: DBAPIError) -> DatabaseUnavailable | DatabaseRefused:
    code = getattr(error.orig, "pgcode", None) or ""
    no_code = isinstance(error, OperationalError | InterfaceError) and not code  # the connection itself failed
    if no_code or code[:2] in _CLASSES_OF_UNAVAILABLE or code in (_LOCK_NOT_AVAILABLE, _READ_ONLY):
        return DatabaseUnavailable(_why_unavailable(code, str(error.orig)))
    refused = RowRefused if code[:2] in _CLASSES_OF_ROWS else DatabaseRefused
    return refused(_why_refused(error, code))


def _why_unavailable(code: str, said: str) -> str:
    if "authentication failed" in said or "no password supplied" in said:
        return "Postgres refuses the user or the password: look at FRACTURE_DATABASE_URL."
    if '" does not exist' in said and not code:
        return "Postgres does not know the database or the role: look at FRACTURE_DATABASE_URL."
    if code == "53100" or "No space left" in said:
        return "Postgres has no space left on its disk: make room, then run this again."
    if code.startswith("40") or code in (_LOCK_NOT_AVAILABLE, "57014"):
        return "Postgres broke off a statement that others were in the way of: run this again."
    if code == _READ_ONLY:
        return "Postgres takes no writes now, as a standby does: run this again, or look at FRACTURE_DATABASE_URL."
    return "Postgres cannot be reached: is it running (`make up`)? Otherwise look at FRACTURE_DATABASE_URL."


def _why_refused(error: DBAPIError, code: str) -> str:
    """Names the rule. Postgres's own detail is left out: it quotes the row, and so could name a person."""
    told = getattr(error.orig, "diag", None)
    if isinstance(error, ProgrammingError) and not code:  # Postgres never saw it
        return "The driver of Postgres refuses a statement, or a word after the `?` of FRACTURE_DATABASE_URL."
    if isinstance(error, ProgrammingError) and told is not None:  # a wrong statement or a missing right: no row in it
        return f"Postgres refuses a statement ({code}): {told.message_primary}"
    rule = getattr(told, "constraint_name", None) or "no named rule"
    return f"Postgres refuses a row ({code}): {rule} of {getattr(told, 'table_name', None) or 'no named table'}."


# --- the texts of sql/queries ---------------------------------------------------------------------


@cache
def query(name: str) -> TextClause:
    """The statement in sql/queries/<name>.sql, ready to be executed with its parameters."""
    return text((QUERIES / f"{name}.sql").read_text(encoding="utf-8"))


def rows_of(connection: Connection, name: str, **parameters: Any) -> list[dict[str, Any]]:
    """Execute sql/queries/<name>.sql and return its rows as dictionaries."""
    return [dict(row) for row in connection.execute(query(name), parameters).mappings()]


def to_jsonb(value: Any) -> str:
    """JSON text for a jsonb parameter. Frozen records become objects, times ISO 8601, numpy numbers plain ones.

    JSON has no NaN and no infinity: they become null, which reads as "not defined".
    """
    try:
        return json.dumps(value, default=_as_plain, allow_nan=False)
    except ValueError:  # a number that is not defined is somewhere inside
        return json.dumps(_without_nan(json.loads(json.dumps(value, default=_as_plain))))


def _as_plain(value: Any) -> Any:
    if is_dataclass(value):
        return vars(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- migrations -----------------------------------------------------------------------------------


def migrate(url: str) -> list[str]:
    """Apply the migrations that the database lacks, in order, all or none, under a lock. Returns their names.

    Raises: DatabaseUnavailable, DatabaseRefused, SchemaMismatch: the database is ahead, or an applied text was edited.
    """
    from alembic import command  # nobody else needs it, and it takes a while to import
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    engine = connect(url)
    try:
        with transaction(engine) as connection:
            connection.execute(query("lock"), {"purpose": "migrate"})
            connection.execute(query("migration_create_schema"))
            connection.execute(query("migration_create_ledger"))
            before = {row["name"]: row["sha256"] for row in rows_of(connection, "migration_ledger")}
            _require_known_and_unedited(before)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            return [row["name"] for row in rows_of(connection, "migration_ledger") if row["name"] not in before]
    finally:
        engine.dispose()


def apply_migration(name: str) -> None:
    """Execute sql/migrations/<name>.sql, and write it into the ledger. Called by its revision in `versions`."""
    from alembic import op

    connection = op.get_bind()
    sql = (MIGRATIONS / f"{name}.sql").read_text(encoding="utf-8")
    connection.exec_driver_sql(sql, execution_options={"no_parameters": True})
    connection.execute(query("migration_record"), {"name": name, "sha256": _sha256_of_migrations()[name]})


def check_schema(engine: Engine) -> None:
    """Stop a program whose database is not the one that its code was written for.

    Raises: DatabaseUnavailable, SchemaMismatch: behind, ahead or edited; the message holds the command to type.
    """
    with transaction(engine) as connection:
        if not rows_of(connection, "migration_has_ledger")[0]["has_ledger"]:
            raise SchemaMismatch("The database has no tables of ours yet: run `fracture migrate`.")
        applied = {row["name"]: row["sha256"] for row in rows_of(connection, "migration_ledger")}
    _require_known_and_unedited(applied)
    if missing := sorted(set(_sha256_of_migrations()) - set(applied)):
        raise SchemaMismatch(
            f"The database is behind this code, it lacks {', '.join(missing)}: run `fracture migrate`."
        )


def _require_known_and_unedited(applied: dict[str, str]) -> None:
    ours = _sha256_of_migrations()
    if unknown := sorted(set(applied) - set(ours)):
        raise SchemaMismatch(
            f"The database is ahead of this code, which does not know {', '.join(unknown)}: update the code, then run "
            "`fracture migrate`."
        )
    if edited := sorted(name for name, sha256 in applied.items() if ours[name] != sha256):
        raise SchemaMismatch(
            f"sql/migrations/{edited[0]}.sql was edited after it was applied: restore it, put the change into a new "
            "migration, then run `fracture migrate`."
        )


@cache
def _sha256_of_migrations() -> dict[str, str]:
    return {file.stem: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(MIGRATIONS.glob("*.sql"))}
