"""Connections, migrations, the texts of sql/queries, and who may see what."""

import re
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime

import numpy as np
import pytest
import sqlalchemy
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from fracture_ml.core.errors import (
    DatabaseRefused,
    DatabaseUnavailable,
    InvalidSettings,
    RowRefused,
    SchemaMismatch,
)
from fracture_ml.core.records import Box
from fracture_ml.stores import database, open_stores
from fracture_ml.stores.database import QUERIES, check_schema, connect, migrate, query, rows_of, to_jsonb, transaction
from fracture_ml.stores.radiographs import INGEST_LOCK
from tests.running import READER_PASSWORD
from tests.stores.stored_rows import arrival, freeze, ranked, receive, received, register

_MIGRATIONS = [
    "0001_initial",
    "0002_snapshot_boxes",
    "0003_unlisted_studies",
    "0004_retried_objects",
    "0005_ranking_rules",
    "0006_judged_again",
    "0007_body_parts",
    "0008_told_labels",
    "0009_clusters",
    "0010_watched",
    "0011_erasure",
    "0012_stored_hash",
    "0013_retried_predictions",
]
_USER_QUERIES = ("worklist_open", "champion", "quarantine", "model_history", "missed_fractures", "counts")


def test_migrations_are_applied_once_and_a_second_call_finds_nothing_to_do(create_database):
    url = create_database()
    assert migrate(url) == _MIGRATIONS
    assert migrate(url) == []
    check_schema(connect(url))


def test_two_programs_that_migrate_at_once_apply_each_migration_once(create_database):
    url = create_database()
    together = threading.Barrier(2)

    def run(_: int) -> list[str]:
        together.wait()
        return migrate(url)

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(run, range(2))) == [[], _MIGRATIONS]


@pytest.mark.parametrize("table", ["worklist", "retried_object"])  # of the first migration, of the fourth
def test_a_migration_that_fails_leaves_nothing_behind(create_database, table):
    url = create_database()
    engine = connect(url)
    with transaction(engine) as connection:
        connection.exec_driver_sql("CREATE SCHEMA fracture")
        connection.exec_driver_sql(f"CREATE TABLE fracture.{table} ()")
    with pytest.raises(DatabaseRefused, match=f'"{table}" already exists'):
        migrate(url)
    with pytest.raises(SchemaMismatch, match="no tables of ours yet: run `fracture migrate`"):
        check_schema(engine)


def test_migrations_are_found_in_a_folder_of_any_name(create_database, tmp_path, monkeypatch):
    folder = tmp_path / "50% of %(here)s"
    folder.symlink_to(database.MIGRATIONS)
    monkeypatch.setattr(database, "MIGRATIONS", folder)
    assert migrate(create_database()) == _MIGRATIONS


def test_an_empty_database_stops_the_program_with_the_command_to_type(create_database):
    with pytest.raises(SchemaMismatch, match="run `fracture migrate`"):
        check_schema(connect(create_database()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("DELETE FROM fracture.migration", "behind this code, it lacks 0001_initial"),
        (
            "DELETE FROM fracture.migration WHERE name > '0010'",
            "behind this code, it lacks 0010_watched, 0011_erasure, 0012_stored_hash, 0013_retried_predictions:",
        ),
        ("INSERT INTO fracture.migration VALUES ('0099_later', 'x')", "ahead of this code, which does not know 0099"),
        ("UPDATE fracture.migration SET sha256 = 'x'", "0001_initial.sql was edited after it was applied"),
        (
            "UPDATE fracture.migration SET sha256 = 'x' WHERE name ~ '0005'",
            "0005_ranking_rules.sql was edited after it",
        ),
    ],
)
def test_a_database_that_differs_stops_the_program_with_the_command_to_type(stores, change, says):
    with stores.engine.connect() as connection:
        ledger = connection.exec_driver_sql("SELECT name, sha256 FROM fracture.migration").all()
    try:
        with transaction(stores.engine) as connection:
            connection.exec_driver_sql(change)
        with pytest.raises(SchemaMismatch, match=f"{says}.*`fracture migrate`"):
            check_schema(stores.engine)
        if "behind" not in says:  # then `fracture migrate` helps no more: it says so too, and changes nothing
            with pytest.raises(SchemaMismatch, match=says):
                migrate(stores.engine.url.render_as_string(hide_password=False))
    finally:
        with transaction(stores.engine) as connection:
            connection.exec_driver_sql("DELETE FROM fracture.migration")
            for name, sha256 in ledger:
                connection.execute(query("migration_record"), {"name": name, "sha256": sha256})


def test_every_migration_text_has_its_revision_and_they_form_one_line():
    assert [file.stem for file in sorted((database.MIGRATIONS / "versions").glob("*.py"))] == _MIGRATIONS
    assert all(re.match(rf"{number:04d}_[a-z_]+$", name) for number, name in enumerate(_MIGRATIONS, start=1))


# --- the driver's errors --------------------------------------------------------------------------


def test_an_unreachable_postgres_is_one_sentence_without_the_password():
    engine = connect("postgresql+psycopg2://user:hidden-password@127.0.0.1:1/nowhere")
    with pytest.raises(DatabaseUnavailable, match="cannot be reached") as caught, transaction(engine):
        pass
    assert "hidden-password" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_wrong_password_and_an_unknown_database_name_the_setting(database_url):
    wrong = re.sub(r"://([^:]+):[^@]+@", r"://\1:wrong@", database_url)
    with pytest.raises(DatabaseUnavailable, match="refuses the user or the password: look at FRACTURE_DATABASE_URL"):
        check_schema(connect(wrong))
    with pytest.raises(DatabaseUnavailable, match=r"does not know the database.*FRACTURE_DATABASE_URL"):
        check_schema(connect(database_url + "_missing"))


def test_a_missing_password_names_the_setting(database_url, monkeypatch, tmp_path):
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    monkeypatch.delenv("PGPASSWORD", raising=False)
    with pytest.raises(DatabaseUnavailable, match="refuses the user or the password: look at FRACTURE_DATABASE_URL"):
        check_schema(connect(re.sub(r"://([^:]+):[^@]+@", r"://\1@", database_url)))


def test_a_word_of_the_url_that_nobody_knows_names_the_setting_and_does_not_show_it(database_url):
    with pytest.raises(DatabaseRefused, match=r"a word after the `\?` of FRACTURE_DATABASE_URL") as caught:
        check_schema(connect(f"{database_url}?pasword=secret"))
    assert "cret" not in str(caught.value)


def test_a_postgres_that_takes_no_writes_as_while_another_takes_over_is_an_error_worth_a_retry(database_url):
    standby = connect(f"{database_url}?options=-c%20default_transaction_read_only%3Don")
    with pytest.raises(DatabaseUnavailable, match="takes no writes now"), transaction(standby) as connection:
        connection.exec_driver_sql("DELETE FROM fracture.alert")


@pytest.mark.parametrize("url", ["postgresql+psycopg2://user:secret@host:port/database", "user:secret@host/database"])
def test_an_unreadable_url_names_the_setting_and_does_not_show_it(url):
    with pytest.raises(InvalidSettings, match="FRACTURE_DATABASE_URL") as caught:
        connect(url)
    assert "cret" not in str(caught.value) and caught.value.__suppress_context__


def count_alerts(stores) -> int:
    with stores.engine.connect() as connection:
        return connection.exec_driver_sql("SELECT count(*) FROM fracture.alert").scalar_one()


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, DatabaseUnavailable])
def test_a_unit_of_work_is_kept_where_it_ends_and_is_not_where_anything_breaks_it_off(stores, fault):
    added = "INSERT INTO fracture.alert (kind, subject, sentence) VALUES ('a', 'b', 'c')"
    with pytest.raises(fault), transaction(stores.engine) as connection:
        connection.exec_driver_sql(added)
        raise fault
    assert count_alerts(stores) == 0
    with transaction(stores.engine) as connection:
        connection.exec_driver_sql(added)
    assert count_alerts(stores) == 1


def test_a_unit_of_work_gives_its_connection_and_its_locks_back_however_it_ends(stores):
    for fault in (None, RuntimeError, DatabaseUnavailable):
        with ExitStack() as stack:
            if fault:
                stack.enter_context(pytest.raises(fault))
            stack.enter_context(transaction(stores.engine)).execute(query("lock"), {"purpose": "registry"})
            if fault:
                raise fault
        assert stores.engine.pool.checkedout() == 0
        with transaction(stores.engine) as connection:
            held = connection.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
            assert held.scalar_one() == 0


def test_a_process_whose_connections_are_all_taken_waits_half_a_minute_and_says_so(database_url, monkeypatch):
    engine = connect(database_url)
    assert engine.pool.timeout() == 30
    monkeypatch.setattr(engine.pool, "_timeout", 0.1)
    with ExitStack() as taken:
        for _ in range(8):
            taken.enter_context(engine.connect())
        with pytest.raises(DatabaseUnavailable, match=r"connections of this process.*: try again") as caught:
            check_schema(engine)
        assert caught.value.__suppress_context__
    check_schema(engine)


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("08006", DatabaseUnavailable, "cannot be reached"),
        ("40001", DatabaseUnavailable, "others were in the way of: run this again"),
        ("40P01", DatabaseUnavailable, "others were in the way of: run this again"),
        ("53100", DatabaseUnavailable, "no space left on its disk"),
        ("53200", DatabaseUnavailable, "cannot be reached"),
        ("55P03", DatabaseUnavailable, "others were in the way of: run this again"),
        ("57014", DatabaseUnavailable, "others were in the way of: run this again"),
        ("57P01", DatabaseUnavailable, "cannot be reached"),
        ("58030", DatabaseUnavailable, "cannot be reached"),
        ("22001", RowRefused, "refuses a row (22001): no named rule of no named table."),
        ("23505", RowRefused, "refuses a row (23505)"),
        ("54000", RowRefused, "refuses a row (54000)"),
        ("0A000", DatabaseRefused, "refuses a row (0A000)"),
        ("P0001", DatabaseRefused, "refuses a row (P0001)"),
    ],
)
def test_what_is_worth_a_retry_what_one_row_is_to_blame_for_and_the_rest_are_told_apart(database_url, code, kind, says):
    """Most of them cannot be made to happen here: Postgres is asked to fail so."""
    fail = f"DO $$BEGIN RAISE EXCEPTION 'Jane_Doe' USING ERRCODE = '{code}', DETAIL = 'Jane_Doe', HINT = 'Jane'; END$$"
    with pytest.raises(kind, match=re.escape(says)) as caught, transaction(connect(database_url)) as connection:
        connection.exec_driver_sql(fail)
    assert type(caught.value) is kind
    assert "Jane" not in str(caught.value) and caught.value.__suppress_context__


def test_a_disk_without_room_is_told_by_the_system_errors_text_too(database_url):
    fail = "DO $$BEGIN RAISE EXCEPTION 'could not write: No space left on device' USING ERRCODE = '58030'; END$$"
    with pytest.raises(DatabaseUnavailable, match="make room"), transaction(connect(database_url)) as connection:
        connection.exec_driver_sql(fail)


@pytest.mark.parametrize(
    "said", ['relation "fracture.nothing" does not exist', "permission denied for table pg_authid"]
)
def test_a_refused_statement_says_what_postgres_says_of_it_and_nothing_of_its_parameters(database_url, said):
    table = "fracture.nothing" if "nothing" in said else "pg_authid"
    with pytest.raises(DatabaseRefused, match=re.escape(f"): {said}")) as caught:
        with transaction(connect(database_url)) as connection:
            connection.execute(text(f"SELECT * FROM {table} WHERE :name = 'x'"), {"name": "Jane_Doe"})
    assert type(caught.value) is DatabaseRefused and "Jane" not in str(caught.value)


def test_what_is_not_ours_to_translate_hides_its_parameters_too(database_url):
    with pytest.raises(DBAPIError) as caught, connect(database_url).connect() as connection:
        connection.execute(text("SELECT 1 / 0 WHERE :name = 'Jane_Doe'"), {"name": "Jane_Doe of the parameters"})
    assert "of the parameters" not in str(caught.value)


def test_a_connection_that_breaks_under_a_unit_of_work_is_an_error_worth_a_retry(stores):
    with pytest.raises(DatabaseUnavailable, match="cannot be reached"), transaction(stores.engine) as connection:
        connection.connection.dbapi_connection.close()
        connection.exec_driver_sql("SELECT 1")
    with pytest.raises(DatabaseUnavailable, match="cannot be reached"), transaction(stores.engine) as connection:
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")


def test_a_refused_row_names_the_rule_and_never_quotes_the_row(stores):
    with (
        pytest.raises(DatabaseRefused, match="received_object_check") as caught,
        transaction(stores.engine) as connection,
    ):
        connection.exec_driver_sql(
            "INSERT INTO fracture.received_object (object_key, etag, size_bytes, outcome) "
            "VALUES ('inbox/Jane_Doe.dcm', 'e', 1, 'copy')"
        )
    assert "Jane" not in str(caught.value)


def test_a_connection_that_postgres_ended_is_replaced_unnoticed(stores):
    stores.radiographs.counts()
    with transaction(connect(stores.engine.url.render_as_string(hide_password=False))) as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert stores.radiographs.counts()["received"] == 0


def told_to_postgres(url: str, *names: str) -> list[str]:
    with transaction(connect(url)) as connection:
        return [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]


def test_both_ends_give_up_a_silent_peer_within_a_minute_or_so(database_url):
    probes = ("idle", "interval", "count")
    names = [f"tcp_keepalives_{name}" for name in probes]
    assert told_to_postgres(database_url, *names, "tcp_user_timeout") == ["30", "10", "3", "60000"]
    with transaction(connect(database_url)) as connection:
        with socket.fromfd(connection.connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as ours:
            kept = [
                ours.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}"))
                for name in ("KEEPIDLE", "KEEPINTVL", "KEEPCNT", "USER_TIMEOUT")
            ]
    assert kept == [30, 10, 3, 60_000]


def test_what_the_url_says_of_a_session_goes_before_what_we_say(database_url):
    url = f"{database_url}?options=-c%20lock_timeout%3D7s%20-c%20search_path%3Dfracture&application_name=mine"
    told = told_to_postgres(url, "lock_timeout", "search_path", "application_name", "tcp_keepalives_idle")
    assert told == ["7s", "fracture", "mine", "30"]


@pytest.mark.parametrize("purpose", [INGEST_LOCK, "ranking", "registry", "migrate"])
def test_a_lock_that_stays_taken_is_an_error_worth_a_retry(database_url, monkeypatch, purpose):
    assert told_to_postgres(database_url, "lock_timeout") == ["5min"]
    monkeypatch.setitem(database.TOLD_TO_POSTGRES, "lock_timeout", "200ms")
    stores = open_stores(database_url=database_url, bucket=None)
    use = {
        INGEST_LOCK: lambda: receive(stores, arrival("inbox/late.png")),
        "ranking": lambda: stores.worklist.ranking_alone().__enter__(),
        "registry": lambda: stores.registry.roll_back(actor="dr", reason="worse"),
        "migrate": lambda: migrate(database_url),
    }[purpose]
    with transaction(connect(database_url)) as holder:
        holder.execute(query("lock"), {"purpose": purpose})
        with pytest.raises(DatabaseUnavailable, match="others were in the way of: run this again"):
            use()


@pytest.mark.parametrize("does", ["records labels", "freezes", "lists", "keeps off"])
def test_whatever_an_ingest_could_change_under_its_hands_waits_for_it(stores, version, monkeypatch, does):
    study = stores.worklist.studies_to_rank(version)[0]
    url = stores.engine.url.render_as_string(hide_password=False)
    monkeypatch.setitem(database.TOLD_TO_POSTGRES, "lock_timeout", "200ms")
    impatient = open_stores(database_url=url, bucket=None)
    use = {
        "records labels": lambda: impatient.radiographs.record_labels(received("inbox/l.csv"), []),
        "freezes": lambda: freeze(impatient),
        "lists": lambda: impatient.worklist.save_items([ranked(study)]),
        "keeps off": lambda: impatient.worklist.keep_off([study]),
    }[does]
    with transaction(stores.engine) as holder:
        holder.execute(query("lock"), {"purpose": INGEST_LOCK})
        with pytest.raises(DatabaseUnavailable, match="others were in the way of: run this again"):
            use()
    use()


@pytest.mark.parametrize("does", ["promotes", "rejects", "registers"])
def test_whatever_depends_on_who_is_champion_waits_for_its_change(stores, version, monkeypatch, does):
    snapshot_id = stores.registry.version_of(version).snapshot_id
    url = stores.engine.url.render_as_string(hide_password=False)
    monkeypatch.setitem(database.TOLD_TO_POSTGRES, "lock_timeout", "200ms")
    impatient = open_stores(database_url=url, bucket=None)
    use = {
        "promotes": lambda: impatient.registry.promote(version, actor="dr", reason="better"),
        "rejects": lambda: impatient.registry.reject(version, actor="dr", reason="worse"),
        "registers": lambda: register(impatient, snapshot_id),
    }[does]
    with transaction(stores.engine) as holder:
        holder.execute(query("lock"), {"purpose": "registry"})
        with pytest.raises(DatabaseUnavailable, match="others were in the way of: run this again"):
            use()
    use()


def test_numbers_that_are_not_defined_become_null():
    assert to_jsonb({"auroc": float("nan"), "n": [float("inf"), 1]}) == '{"auroc": null, "n": [null, 1]}'
    assert to_jsonb([{"a": np.array([np.nan, 0.5])}, np.float32("-inf")]) == '[{"a": [null, 0.5]}, null]'


def test_records_numbers_and_times_have_one_form_in_json_and_what_has_none_is_an_error():
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    value = {"box": Box(x=1, y=2, width=3, height=4), "at": at, "set": {"b", "a", "c"}}
    assert to_jsonb(value) == (
        '{"box": {"x": 1, "y": 2, "width": 3, "height": 4}, "at": "2026-01-02T03:04:05+00:00", "set": ["a", "b", "c"]}'
    )
    assert to_jsonb([np.int64(1), np.bool_(True), np.arange(2)]) == "[1, true, [0, 1]]"
    with pytest.raises(TypeError, match="Path has no form in JSON"):
        to_jsonb({"file": QUERIES})


# --- the texts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(file.stem for file in QUERIES.glob("*.sql")))
def test_a_query_states_its_purpose_and_exactly_its_parameters(name):
    lines = (QUERIES / f"{name}.sql").read_text(encoding="utf-8").splitlines()
    header = lines[: next(place for place, line in enumerate(lines) if not line.startswith("--"))]
    place = next(place for place, line in enumerate(header) if line.startswith("-- parameters: "))
    assert place >= 1, "a purpose stands above the parameters"
    assert any("returns: " in line for line in header)
    listed = " ".join(" ".join(line.removeprefix("--") for line in header[place:]).split()).split("returns:")[0]
    named = set(re.findall(r"(?:parameters:|,) (\w+) \w+", listed.replace("parameters: none", "")))
    body = sqlalchemy.text("\n".join(lines[len(header) :]))
    assert named == set(body._bindparams)
    assert body.text.count(";") == 1 and body.text.endswith(";"), "one statement"


@pytest.mark.parametrize("name", _USER_QUERIES)
def test_what_users_run_works_in_psql(name, database_url, postgres):
    psql = postgres.program().command[0].removesuffix("postgres") + "psql"
    command = [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "max_rows=10", "-v", "skip_rows=0"]
    url = database_url.replace("+psycopg2", "")
    done = subprocess.run(
        [*command, "-d", url, "-f", QUERIES / f"{name}.sql"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "row" in done.stdout


# --- who may see what -----------------------------------------------------------------------------


def test_the_reader_sees_the_worklist_and_nothing_else(stores, version, reader_url):
    study = stores.worklist.studies_to_rank(version)[0]
    stores.worklist.save_items([ranked(study)])
    reader = create_engine(reader_url)

    def run(statement: str):
        with reader.begin() as connection:
            return connection.exec_driver_sql(statement).mappings().all()

    rows = run("SELECT * FROM fracture.worklist_open")
    assert [row["study_key"] for row in rows] == [study.study_key]
    with stores.engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = 'fracture'"
        ).all()
    tables = [name for name, _ in found if name != "worklist_open"]
    assert {"worklist", "radiograph", "label", "received_object", "migration"} <= set(tables)
    for table in tables:
        with pytest.raises(ProgrammingError, match="permission denied"):
            run(f"SELECT * FROM fracture.{table}")
    for table in [*tables, "worklist_open"]:
        with pytest.raises(DBAPIError, match=r"permission denied|cannot delete from view"):
            run(f"DELETE FROM fracture.{table}")
    for statement in (
        "UPDATE fracture.worklist_open SET status = 'closed'",
        "INSERT INTO fracture.alert (kind, subject, sentence) VALUES ('a', 'b', 'c')",
        "CREATE TABLE fracture.mine (x int)",
        "CREATE TABLE public.mine (x int)",
        "SELECT * FROM fracture.standing_labels('infinity')",
        "DROP VIEW fracture.worklist_open",
    ):
        with pytest.raises(DBAPIError, match=r"permission denied|cannot update view|must be owner"):
            run(statement)
    assert rows_of(stores.engine.connect(), "counts")[0]["radiographs"] == 2


def test_history_cannot_be_rewritten_even_by_its_owner(stores, version):
    receive(stores, arrival("inbox/third.png"))
    for table in ("label", "model_version", "model_event", "prediction", "worklist_event"):
        with pytest.raises(DatabaseRefused, match=f"fracture.{table} is append-only"):
            with transaction(stores.engine) as connection:
                connection.exec_driver_sql(f"DELETE FROM fracture.{table}")


def test_the_reader_takes_no_lock_of_the_product_and_stores_nothing(postgres):
    url = postgres.url(role="fracture_reader", password=READER_PASSWORD, database="fracture")
    engine = create_engine(url)
    for statement in ("SELECT pg_advisory_lock(1)", "SELECT pg_try_advisory_xact_lock(1, 2)", "SELECT lo_create(0)"):
        with pytest.raises(ProgrammingError, match="permission denied"), engine.connect() as connection:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_a_statement_that_fails_leaves_no_name_of_a_file_in_the_servers_log(stores, postgres):
    with pytest.raises(DatabaseRefused), transaction(stores.engine) as connection:
        connection.execute(
            text(
                "INSERT INTO fracture.received_object (object_key, etag, size_bytes, outcome) VALUES (:key, '', 1, '?')"
            ),
            {"key": "inbox/DOE_JOHN_19500101_knee.dcm"},
        )
    said = (postgres.folder / "postgres.log").read_text()
    assert "received_object_outcome_check" in said and "DOE_JOHN" not in said
