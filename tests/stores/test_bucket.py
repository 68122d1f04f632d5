"""Object storage, against a real S3."""

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fracture_ml.core.errors import InvalidSettings, ObjectNotFound, StorageUnavailable
from fracture_ml.core.records import MediaType
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


def test_what_is_written_is_read_listed_and_deleted_and_each_may_be_repeated(bucket):
    for _ in range(2):
        bucket.write("inbox/a b/ü.png", b"bytes", "image/png")
        bucket.write("other/c", b"")
        bucket.ensure()
    assert bucket.read("inbox/a b/ü.png") == b"bytes"
    assert bucket.find("inbox/a b/ü.png") is not None and bucket.find("inbox/none") is None
    listed = list(bucket.list("inbox/"))
    assert [(one.key, one.size_bytes) for one in listed] == [("inbox/a b/ü.png", 5)]
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
        ({"endpoint_url": "http://127.0.0.1:1"}, "FRACTURE_S3_ENDPOINT_URL"),
    ],
)
def test_a_wrong_setting_is_named(s3, changes, setting):
    bucket = opened(s3, **changes)
    began = time.monotonic()
    for use in (
        lambda: bucket.read("inbox/Jane_Doe.png"),
        lambda: bucket.write("inbox/Jane_Doe.png", b"x"),
        lambda: list(bucket.list("inbox/Jane")),
    ):
        with pytest.raises(StorageUnavailable, match=setting) as caught:
            use()
        assert "Jane" not in str(caught.value) and "wrong" not in str(caught.value)
    assert time.monotonic() - began < 60


def test_an_endpoint_that_is_no_url_and_half_a_key_are_refused_at_once(s3):
    with pytest.raises(InvalidSettings, match="FRACTURE_S3_ENDPOINT_URL"):
        opened(s3, endpoint_url="not a url")
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


def test_a_written_object_says_what_it_is_and_has_one_part_however_large(bucket):
    for size_bytes in (1000, 9 * 2**20):
        data = bytes(size_bytes)
        bucket.write("radiographs/x.png", data, MediaType.PNG)
        head = bucket._client.head_object(Bucket=bucket.name, Key="radiographs/x.png")
        assert head["ContentType"] == "image/png"
        assert head["ETag"].strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()
        assert bucket.read("radiographs/x.png") == data


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [("InsufficientStorage", 507, "no space left"), ("InternalError", 500, "run this again")],
)
def test_a_full_or_failing_storage_says_so(s3, code, status, says):
    """Its disk cannot be filled here: another server answers like one whose disk is full."""
    body = f"<Error><Code>{code}</Code><Message>inbox/Jane_Doe.png</Message></Error>".encode()

    class Full(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Full) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            full = opened(s3, endpoint_url=f"http://127.0.0.1:{server.server_port}")
            with pytest.raises(StorageUnavailable, match=says) as caught:
                full.write("radiographs/x", b"x")
            assert "Jane" not in str(caught.value)
        finally:
            server.shutdown()
            serving.join()
