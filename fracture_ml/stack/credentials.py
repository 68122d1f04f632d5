"""The secrets of one stack: generated once, in a file that only its owner can read."""

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from cryptography.fernet import Fernet

from fracture_ml.core.errors import StackError


def _token() -> str:
    return secrets.token_hex(24)  # letters and digits alone: never needs quoting in a URL, a shell or a .env file


def _secret(make: Callable[[], str] = _token):
    return field(default_factory=make, repr=False)


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Everything that is drawn at random. `stack_id` is no secret: it marks the processes of this stack."""

    stack_id: str = field(default_factory=_token)
    postgres_password: str = _secret()
    airflow_database_password: str = _secret()
    fracture_database_password: str = _secret()
    reader_database_password: str = _secret()
    s3_access_key: str = _secret()
    s3_secret_key: str = _secret()
    site_secret: str = _secret()
    admin_password: str = _secret(lambda: secrets.token_urlsafe(12))
    viewer_password: str = _secret(lambda: secrets.token_urlsafe(12))
    airflow_fernet_key: str = _secret(lambda: Fernet.generate_key().decode())
    airflow_jwt_secret: str = _secret()
    airflow_api_secret: str = _secret()


def load_credentials(path: Path) -> Credentials:
    """Read the stack's secrets, and generate those that are not there yet.

    Raises: StackError: the file is damaged; nothing is overwritten.
    """
    try:
        known = json.loads(path.read_text())
        wanted = {each.name for each in fields(Credentials)}
        credentials = Credentials(**{name: value for name, value in known.items() if name in wanted})
    except FileNotFoundError:
        known, credentials = {}, Credentials()
    except (ValueError, TypeError, AttributeError):
        raise StackError(
            f"{path} is damaged: restore it from a backup, or remove its folder to start from nothing."
        ) from None
    if asdict(credentials) != known:
        write_private(path, json.dumps(asdict(credentials), indent=2) + "\n")
    return credentials


def write_private(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a file that only its owner can use, whole or not at all."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
