"""The one door to object storage. Messages never hold a key: the keys of the inbox may name a person.

Bytes take the short way, obstore, which needs a fifth of boto3's processor time for an object and does not hold the
interpreter meanwhile. Everything else, and whatever fails on the short way, is boto3's: it retries, it finds keys in
roles and profiles, and it tells what is wrong.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from botocore.exceptions import EndpointConnectionError as CannotConnect
from botocore.utils import parse_timestamp
from obstore.exceptions import BaseError as ShortWayFault
from obstore.store import S3Store

from fracture_ml.core.errors import InvalidSettings, ObjectNotFound, RequestFailed, RequestRefused, StorageUnavailable
from fracture_ml.core.records import ReceivedObject

_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 60
# obstore reports by its own errors and by built-in ones: a key with an empty part, an object that is not there.
_SHORT_WAY_FAULTS = (ShortWayFault, OSError, ValueError)
_LARGE_BYTES = 8 * 2**20
_NOT_FOUND = {"NoSuchKey", "404", "NotFound"}
_WHAT_TO_LOOK_AT = {
    "InvalidAccessKeyId": "Object storage does not know the access key: look at FRACTURE_S3_ACCESS_KEY.",
    "SignatureDoesNotMatch": "Object storage refuses the secret key: look at FRACTURE_S3_SECRET_KEY.",
    "AccessDenied": "The access key may not do this: look at FRACTURE_S3_ACCESS_KEY and at the rights it has.",
    "403": "Object storage refuses the access: look at FRACTURE_S3_ACCESS_KEY and FRACTURE_S3_SECRET_KEY.",
    "AuthorizationHeaderMalformed": "Object storage expects another region: look at FRACTURE_S3_REGION.",
    "PermanentRedirect": "The bucket lives in another region: look at FRACTURE_S3_REGION and FRACTURE_S3_ENDPOINT_URL.",
    "NoSuchBucket": "There is no such bucket: look at FRACTURE_S3_BUCKET.",
    "RequestTimeTooSkewed": "This machine's clock and that of object storage differ too much: set the clock.",
}
_MAY_BE_THIS_OBJECT = {"AccessDenied", "403"}  # of another owner, or encrypted with another key


class Bucket:
    """One bucket. Client and store are passed in; they may be used from several threads.

    Args: store: the same bucket through obstore; None: everything takes boto3's way.
    """

    def __init__(self, client: Any, name: str, store: S3Store | None = None) -> None:
        self._client = client
        self._store = store
        self.name = name

    def read(self, key: str) -> bytes:
        """The bytes under `key`.

        Raises: ObjectNotFound, StorageUnavailable; ObjectWithheld: perhaps of it alone.
        """
        if self._store is not None and _is_taken_literally(key):
            with suppress(*_SHORT_WAY_FAULTS):  # asked again below
                return self._store.get(key).bytes().to_bytes()
        with _errors_as_ours():
            return self._client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def write(self, key: str, data: bytes, media_type: str = "application/octet-stream") -> None:
        """Put `data` under `key`, whole or not at all. Raises: StorageUnavailable."""
        if self._store is not None and _is_taken_literally(key) and len(data) < _LARGE_BYTES:
            with suppress(*_SHORT_WAY_FAULTS):  # written again below: the same bytes under the same key
                self._store.put(key, data, attributes={"Content-Type": str(media_type)}, use_multipart=False)
                return
        with _errors_as_ours():
            self._client.put_object(Bucket=self.name, Key=key, Body=data, ContentType=media_type)

    def find(self, key: str) -> bytes | None:
        """The bytes under `key`; None where nothing is. Raises: StorageUnavailable, ObjectWithheld."""
        try:
            return self.read(key)
        except ObjectNotFound:
            return None

    def list(self, prefix: str) -> Iterator[ReceivedObject]:
        """The objects whose key begins with `prefix`, in the order of their keys. Raises: StorageUnavailable."""
        with _errors_as_ours():
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
                for found in page.get("Contents", ()):
                    if not found["Key"].endswith("/"):  # what consoles write for a folder
                        yield ReceivedObject(
                            key=found["Key"],
                            etag=found["ETag"].strip('"'),
                            size_bytes=found["Size"],
                            modified_at=found["LastModified"],
                        )

    def delete(self, key: str) -> None:
        """Remove what is under `key`, if anything is. Raises: StorageUnavailable."""
        with _errors_as_ours():
            self._client.delete_object(Bucket=self.name, Key=key)

    def ensure(self) -> None:
        """Create the bucket where it is missing. Raises: StorageUnavailable."""
        try:
            with _errors_as_ours():
                self._client.head_bucket(Bucket=self.name)
        except ObjectNotFound:
            with _errors_as_ours():
                self._create()

    def _create(self) -> None:
        region = self._client.meta.region_name
        elsewhere = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            self._client.create_bucket(Bucket=self.name, **elsewhere)
        except self._client.exceptions.BucketAlreadyOwnedByYou:
            return  # somebody else was quicker: what was asked for is there


def open_bucket(
    *, name: str, endpoint_url: str | None, region: str, access_key: str | None, secret_key: str | None
) -> Bucket:
    """A bucket behind a client with time-outs and retries. Connects to nothing yet.

    Args:   endpoint_url: None for Amazon's own.
            access_key, secret_key: None for boto3's own search (a role, a profile).
    Raises: InvalidSettings: the endpoint is not a URL.
    """
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 4},
        s3={"addressing_style": "path"},
        max_pool_connections=32,
        # Checksums of Amazon's own kind only where an operation asks for one: other servers may not know them.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    session = botocore.session.get_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time_of)
    try:
        client = boto3.session.Session(botocore_session=session).client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=config,
        )
    except (ValueError, BotoCoreError):
        raise InvalidSettings(
            "Object storage cannot be opened with these settings: look at FRACTURE_S3_ENDPOINT_URL and "
            "FRACTURE_S3_REGION, and set both FRACTURE_S3_ACCESS_KEY and FRACTURE_S3_SECRET_KEY or neither."
        ) from None
    store = None
    if endpoint_url is not None and access_key is not None:
        store = S3Store(
            name,
            endpoint=endpoint_url,
            region=region,
            access_key_id=access_key,
            secret_access_key=secret_key,
            virtual_hosted_style_request=False,
            client_options={
                "allow_http": True,
                "connect_timeout": f"{_CONNECT_TIMEOUT_S}s",
                "read_timeout": f"{_READ_TIMEOUT_S}s",
                "timeout": "1h",  # of a whole request, however large; a silent server ends it before
            },
            retry_config={"max_retries": 0},
        )
    return Bucket(client, name, store)


def _time_of(value: Any) -> datetime:
    """As botocore has it. Listings tell times as ISO 8601, and to guess at that takes most of a listing's time."""
    with suppress(TypeError, ValueError):  # a header's time, seconds since 1970
        return datetime.fromisoformat(value)
    return parse_timestamp(value)


def _is_taken_literally(key: str) -> bool:
    """Whether obstore asks for exactly this key. It leaves out slashes at the ends."""
    return not (key.startswith("/") or key.endswith("/"))


@contextmanager
def _errors_as_ours() -> Iterator[None]:
    """The driver's messages quote URLs with keys in them: each is replaced by a sentence that says what to do."""
    try:
        yield
    except ClientError as error:
        raise _translated(error) from None
    except (NoCredentialsError, PartialCredentialsError):
        raise StorageUnavailable(
            "There is no key for object storage: set FRACTURE_S3_ACCESS_KEY and FRACTURE_S3_SECRET_KEY."
        ) from None
    except CannotConnect:
        raise StorageUnavailable(
            "Object storage cannot be reached: is it running (`make up`)? Otherwise look at FRACTURE_S3_ENDPOINT_URL."
        ) from None
    except BotoCoreError as error:  # time-outs, broken connections, certificates
        raise StorageUnavailable(
            f"The connection to object storage failed ({type(error).__name__}): run this again, and look at "
            "FRACTURE_S3_ENDPOINT_URL if it stays."
        ) from None


def _translated(error: ClientError) -> ObjectNotFound | StorageUnavailable:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _NOT_FOUND:
        return ObjectNotFound("There is no such object in the bucket: it was removed, or never written.")
    if sentence := _WHAT_TO_LOOK_AT.get(code):
        return RequestRefused(sentence) if code in _MAY_BE_THIS_OBJECT else StorageUnavailable(sentence)
    if status == 507 or code in ("InsufficientStorage", "XMinioStorageFull", "QuotaExceeded"):
        return StorageUnavailable("Object storage has no space left: make room behind FRACTURE_S3_ENDPOINT_URL.")
    if status >= 500 or status in (408, 429) or code == "RequestTimeout":  # too slow, too often: no object's fault
        kind = RequestFailed if status == 500 else StorageUnavailable
        return kind(
            f"Object storage fails ({code or status}): it is overloaded, starting or its disk is full; run this again."
        )
    return RequestRefused(f"Object storage refuses a request ({code or status}): look at FRACTURE_S3_BUCKET.")
