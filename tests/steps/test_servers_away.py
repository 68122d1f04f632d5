"""Servers that go away in the middle of an ingest, and a disk that fills: one sentence, and the next run goes on."""

import io
import os
import subprocess
import time
from collections.abc import Iterator

import pytest
from numpy.random import default_rng
from PIL import Image

from fracture_ml.core.errors import StorageUnavailable
from fracture_ml.steps.ingest import ingest_inbox
from fracture_ml.stores import open_stores
from fracture_ml.stores.bucket import Bucket
from fracture_ml.stores.database import migrate
from tests.running import (
    OWNER_PASSWORD,
    Running,
    bucket_on,
    environment_of,
    new_postgres,
    new_s3,
    settings_of,
    start_fracture,
)

_FILES = 300


@pytest.fixture
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Running]]:
    """(URL of a migrated database, its server), for a test that stops the server."""
    server, running = new_postgres(tmp_path_factory.mktemp("own-postgres"))
    url = server.url(role="fracture", password=OWNER_PASSWORD, database="fracture")
    migrate(url)
    yield url, running
    if running.process.poll() is None:
        running.stop()


def _put_pictures(bucket: Bucket, files: int, size_px: int = 48) -> None:
    for number in range(files):
        buffer = io.BytesIO()
        Image.fromarray(default_rng(number).integers(0, 255, (size_px, size_px), dtype="uint8")).save(buffer, "PNG")
        bucket.write(f"inbox/{number}.png", buffer.getvalue())


def _ingest(environment: dict[str, str]) -> subprocess.Popen:
    return start_fracture(environment, "ingest", stderr=subprocess.PIPE)


def test_postgres_that_stops_in_the_middle_is_one_sentence_and_the_next_run_finishes(
    own_postgres, s3, bucket, tmp_path
):
    url, running = own_postgres
    _put_pictures(bucket, _FILES)
    environment = environment_of(url, s3, bucket, tmp_path)
    stores = open_stores(database_url=url, bucket=bucket)
    process = _ingest(environment)
    deadline = time.monotonic() + 60
    while stores.radiographs.counts()["radiographs"] == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    running.stop()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in said and OWNER_PASSWORD not in said
    assert "Postgres" in said

    again = Running(running.program)
    try:
        deadline = time.monotonic() + 120
        while (result := _finished(_ingest(environment)))[0] != 0 and time.monotonic() < deadline:
            time.sleep(1)  # it recovers its log first
        assert result[0] == 0, result[1]
        counts = stores.radiographs.counts()
        assert counts["received"] == counts["radiographs"] == _FILES and counts["quarantined"] == 0
    finally:
        again.stop()


def _finished(process: subprocess.Popen) -> tuple[int, str]:
    out, said = process.communicate(timeout=120)
    return process.returncode, out + said


def test_a_disk_that_fills_in_the_middle_is_one_sentence_and_with_room_the_next_run_finishes(database_url, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let us mount a small file system")
    running = None
    try:
        server, running = new_s3(disk / "s3")
        bucket = bucket_on(server, "small")
        stores = open_stores(database_url=database_url, bucket=bucket)
        settings = settings_of(environment_of(database_url, server, bucket, tmp_path))
        _put_pictures(bucket, 20, size_px=512)  # 5 MB
        ballast = disk / "ballast"
        with ballast.open("wb") as file:  # leaves less than the 5 MB that ingest has to write
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            file.write(bytes(max(0, free - 2 * 2**20)))
        with pytest.raises(StorageUnavailable) as fault:
            ingest_inbox(stores, settings)
        assert "disk" in str(fault.value) or "space" in str(fault.value)
        ballast.unlink()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                ingest_inbox(stores, settings)
                break
            except StorageUnavailable:
                time.sleep(1)  # it looks at its disk once a minute
        counts = stores.radiographs.counts()
        assert counts["received"] == counts["radiographs"] == 20
    finally:
        if running is not None:
            running.stop()
            server.remove_sockets()
        subprocess.run(["umount", "-l", disk], check=True)
