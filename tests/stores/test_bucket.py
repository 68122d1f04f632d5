"""Object storage, against a real S3."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fracture_ml.core.errors import InvalidSettings, ObjectNotFound, RequestFailed, RequestRefused, StorageUnavailable
from fracture_ml.core.records import MediaType
from fracture_ml.stores import bucket as door
from fracture_ml.stores.bucket import Bucket, open_bucket


def opened(s3, **changes) -> Bucket:
    settings = {
        "name": "some-bucket",
        "endpoint_url": s3.endpoint_url,
        "region": "us-east-1",
        "access_key": s3.access_key,
        "secret_key": s3.secret_key,
    }
    return open_bucket(**{**settings, **changes})


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server says. `size_bytes` is what it promises, where that is not what it sends; status 0: it hangs up."""

    status: int = 200
    code: str = ""
    body: bytes = b""
    size_bytes: int | None = None
    delay_s: float = 0


@dataclass(frozen=True)
class Asked:
    """Another server than the real one: it answers as a test says, and notes what it was asked."""

    port: int
    requests: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)  # of all of them

    def bucket(self, *, host: str = "127.0.0.1", **changes) -> Bucket:
        settings = {"name": "b", "region": "us-east-1", "access_key": "known", "secret_key": "hidden-secret"}
        return open_bucket(endpoint_url=f"http://{host}:{self.port}", **(settings | changes))


@contextmanager
def answering(answer: Callable[[str, int], Answer]) -> Iterator[Asked]:
    """Answers each request by its method and by how many came before it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            said = answer(self.command, len(asked.requests))
            asked.requests.append(f"{self.command} {self.path}")
            asked.headers.extend(f"{name}: {value}".lower() for name, value in self.headers.items())
            asked.bodies.append(self.rfile.read(int(self.headers["Content-Length"] or 0)))
            ended.wait(said.delay_s)
            self.close_connection = True
            if not said.status:
                return
            body = said.body if self.command == "GET" else b""
            if said.code and self.command != "HEAD":
                body = f"<Error><Code>{said.code}</Code><Message>Jane_Doe</Message></Error>".encode()
            self.send_response(said.status)
            self.send_header("Content-Length", str(len(body) if said.size_bytes is None else said.size_bytes))
            self.send_header("Connection", "close")
            self.send_header("ETag", '"e"')
            self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_DELETE = _any

        def log_message(self, *_) -> None:
            """Says nothing."""

    ended = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        asked = Asked(server.server_port)
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield asked
        finally:
            ended.set()
            server.shutdown()
            serving.join()


def test_what_is_written_is_read_listed_and_deleted_and_each_may_be_repeated(bucket):
    for _ in range(2):
        bucket.write("inbox/a b/ü.png", b"bytes", "image/png")
        bucket.write("other/c", b"")
        bucket.ensure()
    assert bucket.read("inbox/a b/ü.png") == b"bytes"
    assert bucket.find("inbox/a b/ü.png") == b"bytes" and bucket.find("inbox/none") is None
    assert bucket.find("other/c") == b""
    listed = list(bucket.list("inbox/"))
    assert [(one.key, one.size_bytes) for one in listed] == [("inbox/a b/ü.png", 5)]
    assert [(one.key, one.size_bytes) for one in bucket.list("other/")] == [("other/c", 0)]
    assert listed[0].etag and '"' not in listed[0].etag
    for _ in range(2):
        bucket.delete("inbox/a b/ü.png")
    assert list(bucket.list("inbox/")) == []


def test_a_listing_goes_past_one_page_and_leaves_out_folders(bucket):
    bucket.write("inbox/folder/", b"")
    for number in range(1003):
        bucket.write(f"inbox/folder/{number:04d}", b"x")
    assert [one.key for one in bucket.list("inbox/")] == [f"inbox/folder/{number:04d}" for number in range(1003)]


def test_an_object_that_is_not_there_is_named_neither_by_key_nor_by_url(bucket):
    with pytest.raises(ObjectNotFound) as caught:
        bucket.read("inbox/Jane_Doe.png")
    assert "Jane" not in str(caught.value) and caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"access_key": "nobody"}, "FRACTURE_S3_ACCESS_KEY"),
        ({"secret_key": "wrong"}, "FRACTURE_S3_SECRET_KEY"),
        ({"name": "no-such-bucket"}, "FRACTURE_S3_BUCKET"),
        ({"endpoint_url": "http://127.0.0.1:1"}, "cannot be reached.*FRACTURE_S3_ENDPOINT_URL"),
    ],
)
def test_a_wrong_setting_is_named(s3, changes, setting):
    bucket = opened(s3, **changes)
    began = time.monotonic()
    for use in (
        lambda: bucket.read("inbox/Jane_Doe.png"),
        lambda: bucket.write("inbox/Jane_Doe.png", b"x"),
        lambda: bucket.find("inbox/Jane_Doe.png"),
        lambda: list(bucket.list("inbox/Jane")),
        lambda: bucket.delete("inbox/Jane_Doe.png"),
    ):
        with pytest.raises(StorageUnavailable, match=setting) as caught:
            use()
        assert "Jane" not in str(caught.value) and "wrong" not in str(caught.value)
        assert caught.value.__suppress_context__
    assert time.monotonic() - began < 60


def test_an_endpoint_that_is_no_url_and_half_a_key_are_refused_at_once(s3):
    with pytest.raises(InvalidSettings, match="FRACTURE_S3_ENDPOINT_URL") as caught:
        opened(s3, endpoint_url="not a url")
    assert caught.value.__suppress_context__
    with pytest.raises(InvalidSettings, match="FRACTURE_S3_SECRET_KEY"):
        opened(s3, secret_key=None)


@pytest.mark.parametrize(
    "key",
    ["inbox/a b/ü.png", "inbox/a#b", "inbox/a%23b", "inbox/a?b&c", "inbox//twice", "/led by a slash", "inbox/.hidden"],
)
def test_a_key_is_taken_literally_whichever_way_its_bytes_take(s3, bucket, key):
    """boto3 alone, and what usually carries the bytes, see the same object."""
    bucket.write("inbox/first", b"another")
    bucket.write("inbox/a#b" if key != "inbox/a#b" else "inbox/a%23b", b"another")
    bucket.write(key, b"written", "image/png")
    alone = Bucket(bucket._client, bucket.name)
    assert alone.read(key) == b"written" == bucket.read(key)
    alone.write(key, b"written again")
    assert bucket.read(key) == b"written again"
    assert bucket.read("inbox/first") == b"another"


def test_a_listed_object_has_the_time_that_the_bucket_says():
    """What is old is pruned, and how long a patient has waited begins with it."""
    said = '<Key>inbox/x</Key><LastModified>2015-10-21T07:28:00Z</LastModified><ETag>"e"</ETag><Size>1</Size>'
    body = f"<ListBucketResult><Contents>{said}</Contents></ListBucketResult>".encode()
    with answering(lambda *_: Answer(body=body)) as server:
        [found] = server.bucket().list("inbox/")
    assert found.modified_at == datetime(2015, 10, 21, 7, 28, tzinfo=UTC)


@pytest.mark.parametrize("key", ["/led", "ended/"])
def test_a_slash_at_an_end_of_a_key_is_part_of_it(key):
    """The real server holds no object beside a folder of its name, and so cannot tell."""
    with answering(lambda *_: Answer(body=b"bytes")) as server:
        server.bucket().write(key, b"bytes")
        server.bucket().read(key)
        assert server.requests == [f"PUT /b/{key}", f"GET /b/{key}"]


def test_a_written_object_says_what_it_is_and_has_one_part_however_large(bucket):
    for size_bytes in (1000, 7 * 2**20, 9 * 2**20):
        data = bytes(size_bytes)
        bucket.write("radiographs/x", data, MediaType.PNG)
        head = bucket._client.head_object(Bucket=bucket.name, Key="radiographs/x")
        assert head["ContentType"] == "image/png"
        assert head["ETag"].strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()
        assert bucket.read("radiographs/x") == data


@pytest.mark.parametrize(
    ("status", "code", "kind", "says"),
    [
        (403, "AccessDenied", RequestRefused, "FRACTURE_S3_ACCESS_KEY"),
        (403, "", RequestRefused, "FRACTURE_S3_ACCESS_KEY and FRACTURE_S3_SECRET_KEY"),
        (403, "InvalidObjectState", RequestRefused, "refuses a request"),
        (403, "InvalidAccessKeyId", StorageUnavailable, "FRACTURE_S3_ACCESS_KEY"),
        (403, "SignatureDoesNotMatch", StorageUnavailable, "FRACTURE_S3_SECRET_KEY"),
        (403, "RequestTimeTooSkewed", StorageUnavailable, "set the clock"),
        (400, "AuthorizationHeaderMalformed", StorageUnavailable, "FRACTURE_S3_REGION"),
        (404, "NoSuchBucket", StorageUnavailable, "FRACTURE_S3_BUCKET"),
        (404, "NoSuchKey", ObjectNotFound, "removed, or never written"),
        (404, "", ObjectNotFound, "removed, or never written"),
        (500, "InternalError", RequestFailed, "run this again"),
        (503, "ServiceUnavailable", StorageUnavailable, "run this again"),
        (429, "RateLimitExceeded", StorageUnavailable, "run this again"),
        (400, "RequestTimeout", StorageUnavailable, "run this again"),
        (507, "InsufficientStorage", StorageUnavailable, "no space left"),
        (507, "", StorageUnavailable, "no space left"),
        (403, "QuotaExceeded", StorageUnavailable, "no space left"),
        (400, "XMinioStorageFull", StorageUnavailable, "no space left"),
    ],
)
def test_the_fault_of_one_object_is_told_from_that_of_the_storage(status, code, kind, says):
    """What is withheld may be set aside, what is not there is gone, and all else stops the work: never mixed up."""
    with answering(lambda *_: Answer(status=status, code=code)) as server:
        bucket = server.bucket()
        for use in (lambda: bucket.read("inbox/Jane_Doe.png"), lambda: bucket.write("inbox/Jane_Doe.png", b"x")):
            with pytest.raises((StorageUnavailable, ObjectNotFound), match=says) as caught:
                use()
            assert type(caught.value) is kind
            assert "Jane" not in str(caught.value) and caught.value.__suppress_context__


def test_a_failing_request_is_made_once_the_short_way_and_four_times_by_boto3():
    with answering(lambda *_: Answer(status=500, code="InternalError")) as server:
        with pytest.raises(RequestFailed):
            server.bucket().read("inbox/x")
        assert server.requests == ["GET /b/inbox/x"] * 5


def test_bytes_that_took_the_short_way_do_not_travel_again():
    with answering(lambda *_: Answer(body=b"bytes")) as server:
        server.bucket().write("inbox/x", b"bytes")
        assert server.bucket().read("inbox/x") == b"bytes"
        assert server.requests == ["PUT /b/inbox/x", "GET /b/inbox/x"]


def test_both_ways_ask_what_servers_other_than_amazons_understand_too():
    """The bucket stands in the path, the region is signed, and no checksum is asked for that they may not know."""
    with answering(lambda *_: Answer(body=b"bytes")) as server:
        both = server.bucket(host="localhost", name="some-bucket", region="eu-central-1")
        for bucket in (both, Bucket(both._client, both.name)):
            bucket.write("x", b"bytes")
            assert bucket.read("x") == b"bytes"
        assert server.requests == ["PUT /some-bucket/x", "GET /some-bucket/x"] * 2
        assert server.bodies == [b"bytes", b""] * 2
        assert not [header for header in server.headers if "checksum" in header]
        signed = [header for header in server.headers if header.startswith("authorization: ")]
        assert len(signed) == 4 and all("/eu-central-1/s3/" in header for header in signed)


def test_an_object_whose_bytes_break_off_is_an_error_worth_a_retry_and_never_half_an_object():
    with answering(lambda *_: Answer(body=b"half", size_bytes=8)) as server:
        with pytest.raises(StorageUnavailable, match="connection to object storage failed") as caught:
            server.bucket().read("inbox/Jane_Doe.png")
        assert type(caught.value) is StorageUnavailable and caught.value.__suppress_context__
        assert "Jane" not in str(caught.value) and len(server.requests) == 2


def test_a_silent_storage_is_given_up_and_asked_again(monkeypatch):
    monkeypatch.setattr(door, "_READ_TIMEOUT_S", 1)
    with answering(lambda _, number: Answer(body=b"bytes", delay_s=30 if number < 2 else 0)) as server:
        began = time.monotonic()
        assert server.bucket().read("inbox/x") == b"bytes"
        assert len(server.requests) == 3 and time.monotonic() - began < 15


def test_a_storage_that_hangs_up_is_one_sentence_without_the_key():
    with answering(lambda *_: Answer(status=0)) as server:
        with pytest.raises(StorageUnavailable, match=r"failed \(ConnectionClosedError\): run this again") as caught:
            server.bucket().read("inbox/Jane_Doe.png")
        assert "Jane" not in str(caught.value) and caught.value.__suppress_context__


def test_both_ways_wait_five_seconds_for_a_connection(s3):
    bucket = opened(s3)
    assert bucket._client.meta.config.connect_timeout == 5
    assert bucket._store.client_options["connect_timeout"] == "5s"


def test_a_large_object_may_take_an_hour_the_short_way(s3):
    """obstore would break off after half a minute, and boto3 would begin again."""
    assert opened(s3)._store.client_options["timeout"] == "1h"


def test_without_keys_of_ours_boto3_looks_for_them_and_says_so_where_there_are_none(monkeypatch, tmp_path):
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with answering(lambda *_: Answer(body=b"bytes")) as server:
        with pytest.raises(StorageUnavailable, match="no key for object storage: set FRACTURE_S3_ACCESS_KEY"):
            server.bucket(access_key=None, secret_key=None).read("inbox/x")
        assert server.requests == []
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of a role")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of a role")
        assert server.bucket(access_key=None, secret_key=None).read("inbox/x") == b"bytes"


# --- a bucket that is missing ---------------------------------------------------------------------


@pytest.mark.parametrize(("region", "told"), [("us-east-1", False), ("eu-central-1", True)])
def test_a_bucket_is_made_where_it_is_missing_in_the_region_of_the_settings(region, told):
    with answering(lambda method, _: Answer(status=404 if method == "HEAD" else 200)) as server:
        server.bucket(region=region).ensure()
        assert server.requests == ["HEAD /b", "PUT /b"]
        assert (f"<LocationConstraint>{region}<".encode() in server.bodies[1]) == told == bool(server.bodies[1])


def test_a_bucket_that_somebody_else_made_meanwhile_is_there_and_one_that_is_refused_is_an_error():
    missing = Answer(status=404)
    with answering(lambda method, _: missing if method == "HEAD" else Answer(status=409, code=code)) as server:
        code = "BucketAlreadyOwnedByYou"
        server.bucket().ensure()
        code = "AccessDenied"
        with pytest.raises(StorageUnavailable, match="FRACTURE_S3_ACCESS_KEY") as caught:
            server.bucket().ensure()
        assert caught.value.__suppress_context__


def test_a_bucket_that_may_not_be_looked_at_is_not_made():
    with answering(lambda *_: Answer(status=403)) as server:
        with pytest.raises(StorageUnavailable, match="FRACTURE_S3_ACCESS_KEY"):
            server.bucket().ensure()
        assert server.requests == ["HEAD /b"]
