"""The settings file of a stack: it tells every other command, and the next `make up`, where the servers are."""

import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from dotenv import dotenv_values
from pydantic import SecretStr

from fracture_ml.core.errors import StackError
from fracture_ml.stack.credentials import Credentials, write_private
from fracture_ml.stack.postgres import OWNER, READER, PostgresServer, psql_path
from fracture_ml.stack.program import LOOPBACK
from fracture_ml.stack.s3 import BUCKET, S3Server
from fracture_ml.steps.settings import StackSettings


class SettingsFile:
    """`fracture.env` in a stack's folder, and beside it psql for those who may look."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.path = folder / "fracture.env"

    @cached_property
    def lines(self) -> dict[str, str]:
        """The lines of the file, as the last `make up` or a person left them."""
        return {name: value for name, value in dotenv_values(self.path).items() if value}

    def own_lines(
        self,
        credentials: Credentials,
        *,
        s3_on: Callable[[int], S3Server],
        postgres_on: Callable[[int], PostgresServer],
    ) -> set[str]:
        """The names of the lines by which `make up` named embedded servers. They make no server external.

        Args:    s3_on, postgres_on: the embedded server on a port, whichever it was then.
        Raises:  StackError: S3 lines that are the embedded server's in part.
        """
        s3 = s3_on(_loopback_port(self.lines.get("FRACTURE_S3_ENDPOINT_URL", "")))
        keys = {"FRACTURE_S3_ACCESS_KEY": s3.access_key, "FRACTURE_S3_SECRET_KEY": s3.secret_key}
        bucket = keys | {"FRACTURE_S3_BUCKET": BUCKET, "FRACTURE_S3_ENDPOINT_URL": s3.endpoint_url}
        own = {name for name, value in bucket.items() if self.lines.get(name) == value}
        if own != bucket.keys():
            if own & keys.keys():
                raise StackError(
                    f"In {self.path}, {' and '.join(sorted(own))} are the embedded S3's and "
                    f"{' and '.join(sorted(bucket.keys() - own))} are not: replace the former too, or remove all four."
                )
            own = set()  # an address on this machine, and a bucket of this name, may be anybody's
        databases = {
            "FRACTURE_DATABASE_URL": (OWNER, credentials.fracture_database_password),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": ("airflow", credentials.airflow_database_password),
        }
        for name, (role, password) in databases.items():
            url = self.lines.get(name, "")
            if url == postgres_on(_loopback_port(url)).url(role=role, password=password, database=role):
                own.add(name)
        return own

    def write(
        self,
        settings: StackSettings,
        credentials: Credentials,
        *,
        database_url: str,
        s3: S3Server | None,
        postgres: PostgresServer | None,
    ) -> None:
        """Write the variables for every other command, and for the next `make up`; lines that are not ours stay.

        Args:    database_url: of the product's own database. s3, postgres: None: external, as the settings say.
        Raises:  StackError: another site secret than the one under which the patients are known.
        """
        ours = {
            "FRACTURE_DATABASE_URL": database_url,
            "FRACTURE_S3_BUCKET": BUCKET if s3 else settings.s3_bucket,
            "FRACTURE_S3_ENDPOINT_URL": s3.endpoint_url if s3 else settings.s3_endpoint_url,
            "FRACTURE_S3_REGION": settings.s3_region,
            "FRACTURE_S3_ACCESS_KEY": s3.access_key if s3 else _revealed(settings.s3_access_key),
            "FRACTURE_S3_SECRET_KEY": s3.secret_key if s3 else _revealed(settings.s3_secret_key),
            "FRACTURE_SITE_SECRET": self._site_secret(settings, credentials),
            "FRACTURE_CACHE_DIR": str((settings.cache_dir or self._folder / "cache").expanduser().resolve()),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": _revealed(settings.airflow_database_url),
        }
        for port in ("stack_ui_port", "stack_postgres_port", "stack_s3_port"):
            if port in settings.model_fields_set:
                ours[f"FRACTURE_{port.upper()}"] = str(getattr(settings, port))
        # On one machine nobody may be there to approve; your own line or variable asks for a person.
        kept = {"FRACTURE_PROMOTION": "automatic"} | {
            name: value for name, value in self.lines.items() if name not in ours
        }
        lines = ["# Written by `make up`, which keeps the lines that you add."]
        for name, value in (ours | kept).items():
            if value:
                escaped = value.replace("\\", "\\\\").replace("'", "\\'")
                lines.append(f"{name}='{escaped}'")
        write_private(self.path, "\n".join(lines) + "\n")
        if postgres and not settings.database_url:
            self._write_psqls(postgres.port, credentials)

    def _site_secret(self, settings: StackSettings, credentials: Credentials) -> str:
        """It never changes: with another one the same patient is another group. Raises: StackError."""
        asked = _revealed(settings.site_secret) or credentials.site_secret
        if asked != self.lines.get("FRACTURE_SITE_SECRET", asked):
            raise StackError(
                f"FRACTURE_SITE_SECRET is not the one in {self.path}, under which the patients are known: "
                "unset it, or remove the folder to start from nothing."
            )
        return asked

    def _write_psqls(self, port: int, credentials: Credentials) -> None:
        """psql for the reader and for the audit, each with its password file."""
        entry = f"{LOOPBACK}:{port}:{OWNER}:{READER}:{credentials.reader_database_password}\n"
        write_private(self._folder / "reader.pgpass", entry)
        audit = f"{LOOPBACK}:{port}:{OWNER}:{OWNER}:{credentials.fracture_database_password}\n"
        write_private(self._folder / "audit.pgpass", audit)
        self._write_psql("psql", port, READER, "reader.pgpass", "who may look at the worklist and at nothing else")
        self._write_psql(
            "psql-audit", port, OWNER, "audit.pgpass", "for sql/queries; it changes nothing", read_only=True
        )

    def _write_psql(
        self, name: str, port: int, role: str, passwords: str, purpose: str, *, read_only: bool = False
    ) -> None:
        options = "PGOPTIONS='-c default_transaction_read_only=on' " if read_only else ""
        write_private(
            self._folder / name,
            f"#!/bin/sh\n# psql as {role}, {purpose}.\n{options}PGPASSFILE='{self._folder}/{passwords}' "
            f"exec '{psql_path()}' -h {LOOPBACK} -p {port} -U {role} {OWNER} \"$@\"\n",
            mode=0o700,
        )


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _loopback_port(address: str) -> int:
    """The port of an address on this machine; 0 for any other address."""
    found = re.search(re.escape(LOOPBACK) + r":(\d+)", address)
    return int(found[1]) if found else 0
