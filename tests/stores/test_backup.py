"""The documented back-up of a database is one that can be restored."""

import subprocess

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from fracture_ml.stack.postgres import LOOPBACK, SUPERUSER, psql_path
from fracture_ml.stores import open_stores
from fracture_ml.stores.database import connect
from tests.running import OWNER_PASSWORD, READER_PASSWORD
from tests.stores.stored_rows import act, arrival, list_studies, receive, received


def test_a_database_is_dumped_while_it_works_and_restored_with_all_its_rules(
    stores, version, postgres, create_database, bucket, tmp_path
):
    receive(stores, arrival("a", study_key="a"), arrival("b", study_key="b"))
    list_studies(stores, version)
    act(stores, "a", "report", value="positive")
    before = (stores.radiographs.counts(), stores.worklist.counts(), stores.worklist.item_of("a"))

    def run(program: str, database: str, *arguments: str) -> None:
        command = [psql_path().with_name(program), "--host", LOOPBACK, "--port", str(postgres.port)]
        command += ["--username", SUPERUSER, "--dbname", database, *arguments]
        subprocess.run(command, check=True, env={"PGPASSWORD": postgres.password})

    restored_url = create_database()
    run("pg_dump", stores.engine.url.database, "--format=custom", f"--file={tmp_path / 'fracture.dump'}")
    run("pg_restore", restored_url.rsplit("/", 1)[1], str(tmp_path / "fracture.dump"))

    restored = open_stores(database_url=restored_url, bucket=bucket)
    assert (restored.radiographs.counts(), restored.worklist.counts(), restored.worklist.item_of("a")) == before
    assert restored.radiographs.unknown_objects([received("a")]) == []
    receive(restored, arrival("c", study_key="c"))  # numbers go on where they were
    with pytest.raises(ProgrammingError, match="append-only"), restored.engine.begin() as connection:
        connection.execute(text("DELETE FROM fracture.worklist_event"))
    reader = connect(restored_url.replace(f"fracture:{OWNER_PASSWORD}", f"fracture_reader:{READER_PASSWORD}"))
    with reader.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM fracture.worklist_open")).scalar() == before[1]["open"]
        with pytest.raises(ProgrammingError, match="permission denied"):
            connection.execute(text("SELECT * FROM fracture.label"))
