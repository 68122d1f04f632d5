"""Object storage that refuses some objects."""

from botocore.exceptions import ClientError


class Refusing:
    """An S3 client that is refused some objects, or that fails at them."""

    def __init__(self, client, code: str, keys: set[str], *, status: int = 403) -> None:
        self._client, self._code, self._keys, self._status = client, code, keys, status

    def get_object(self, *, Bucket: str, Key: str):
        if Key in self._keys:
            fault = {"Error": {"Code": self._code}, "ResponseMetadata": {"HTTPStatusCode": self._status}}
            raise ClientError(fault, "GetObject")
        return self._client.get_object(Bucket=Bucket, Key=Key)

    def __getattr__(self, name: str):
        return getattr(self._client, name)
