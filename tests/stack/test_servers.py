"""The two embedded servers, by themselves."""

import os
import pwd
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import psutil
import psycopg2
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from fracture_ml.stack.postgres import PostgresServer
from fracture_ml.stack.program import Program
from fracture_ml.stack.s3 import S3Server
from fracture_ml.stack.supervision import Supervision


def s3_client(server: S3Server, secret_key: str):
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=secret_key,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 5}),
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a program as another user")
def test_the_process_manager_starts_where_a_program_s_user_is_not_there_yet(tmp_path: Path):
    user = f"fracture-{os.getpid()}"
    sleeper = Program(name="postgres", command=("/bin/sleep", "60"), folder=Path("/"), user=user)
    supervision = Supervision(tmp_path, "0" * 32)
    try:
        supervision.start([sleeper], dict(os.environ))
        supervision.start_program("postgres")
        deadline = time.monotonic() + 10
        while supervision.states()["postgres"] != "RUNNING" and time.monotonic() < deadline:
            time.sleep(0.1)
        (child,) = psutil.Process(supervision.pid()).children()
        assert child.username() == user
    finally:
        if supervision.is_alive():
            supervision.shut_down()
        if user in {account.pw_name for account in pwd.getpwall()}:
            subprocess.run(["userdel", user], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives the cluster to another user")
def test_a_cluster_is_prepared_again_while_processes_of_a_killed_server_still_remove_files(postgres: PostgresServer):
    segments = [postgres.folder / "data" / "pg_wal" / f"segment-{number}" for number in range(2000)]
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            for segment in segments:
                segment.touch()
            for segment in segments:
                segment.unlink()

    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(come_and_go)
        try:
            for _ in range(20):
                postgres.prepare()
        finally:
            ended.set()
        busy.result()


def test_postgres_refuses_a_wrong_password(postgres: PostgresServer):
    for role in ("postgres", "fracture", "fracture_reader"):
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(host="127.0.0.1", port=postgres.port, user=role, password="wrong", dbname="postgres")


def test_s3_refuses_a_wrong_key_and_nobody(s3: S3Server):
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        s3_client(s3, "wrong").list_buckets()
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(s3.endpoint_url, timeout=5)


def test_the_inner_ports_of_s3_speak_no_plain_grpc(s3: S3Server):
    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # preface, empty SETTINGS
    for port in (s3.port + 1, s3.port + 3, s3.port + 5, s3.port + 7):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(greeting)
            answer = connection.recv(64)
        assert answer[3:4] != b"\x04", f"port {port} greets in plain gRPC"
