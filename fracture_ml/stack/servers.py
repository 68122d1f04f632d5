"""Which servers the stack of a data folder has, and the settings file that tells every other command where they are."""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from dotenv import dotenv_values
from pydantic import SecretStr

from fracture_ml.core.errors import StackError
from fracture_ml.stack.airflow import Airflow
from fracture_ml.stack.credentials import Credentials, load_credentials, write_private
from fracture_ml.stack.postgres import PostgresServer, psql_path
from fracture_ml.stack.program import LOOPBACK, Program
from fracture_ml.stack.s3 import PORTS, S3Server
from fracture_ml.steps.settings import StackSettings

BUCKET = "fracture"
OWNER, READER = "fracture", "fracture_reader"
_REPOSITORY = Path(__file__).resolve().parents[2]


class Servers:
    """The servers of one data folder: embedded, or external where the environment or the settings file names them."""

    def __init__(self, environment: StackSettings):
        self._environment = environment
        self.folder = environment.stack_dir.expanduser().resolve()

    @property
    def settings_file(self) -> Path:
        return self.folder / "fracture.env"

    @cached_property
    def _written(self) -> dict[str, str]:
        """The lines of the file, as the last `make up` or a person left them."""
        return {name: value for name, value in dotenv_values(self.settings_file).items() if value}

    @cached_property
    def settings(self) -> StackSettings:
        """What the environment says, else the file: `make up` from another shell means the same servers.

        Raises: InvalidSettings: a wrong line. StackError: S3 lines that are the embedded server's in part.
        """
        own = self._own_lines(self._written)
        return self._environment.completed_by({name: self._written[name] for name in self._written.keys() - own})

    def _own_lines(self, lines: dict[str, str]) -> set[str]:
        """The lines by which `make up` named embedded servers, at whichever port. They make no server external.

        Raises: StackError: S3 lines that are the embedded server's in part.
        """
        s3 = self._s3_on(_loopback_port(lines.get("FRACTURE_S3_ENDPOINT_URL", "")))
        keys = {"FRACTURE_S3_ACCESS_KEY": s3.access_key, "FRACTURE_S3_SECRET_KEY": s3.secret_key}
        bucket = keys | {"FRACTURE_S3_BUCKET": BUCKET, "FRACTURE_S3_ENDPOINT_URL": s3.endpoint_url}
        own = {name for name, value in bucket.items() if lines.get(name) == value}
        if own != bucket.keys():
            if own & keys.keys():
                raise StackError(
                    f"In {self.settings_file}, {' and '.join(sorted(own))} are the embedded S3's and "
                    f"{' and '.join(sorted(bucket.keys() - own))} are not: replace the former too, or remove all four."
                )
            own = set()  # an address on this machine, and a bucket of this name, may be anybody's
        databases = {
            "FRACTURE_DATABASE_URL": (OWNER, self.credentials.fracture_database_password),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": ("airflow", self.credentials.airflow_database_password),
        }
        for name, (role, password) in databases.items():
            url = lines.get(name, "")
            if url == self._postgres_on(_loopback_port(url)).url(role=role, password=password, database=role):
                own.add(name)
        return own

    @cached_property
    def credentials(self) -> Credentials:
        path = self.folder / "secrets.json"
        if not path.exists() and (self.folder / "postgres" / "data").exists():
            raise StackError(
                f"{path} is missing and {self.folder / 'postgres'} cannot be opened without it: "
                "restore it from a backup, or remove the folder to start from nothing."
            )
        return load_credentials(path)

    @cached_property
    def postgres(self) -> PostgresServer | None:
        """None: both databases are external."""
        if self.settings.database_url and self.settings.airflow_database_url:
            return None
        return self._postgres_on(self.settings.stack_postgres_port)

    def _postgres_on(self, port: int) -> PostgresServer:
        return PostgresServer(folder=self.folder / "postgres", port=port, password=self.credentials.postgres_password)

    @cached_property
    def s3(self) -> S3Server | None:
        """None: the bucket is external."""
        if self.settings.s3_endpoint_url or self.settings.s3_bucket:
            return None
        return self._s3_on(self.settings.stack_s3_port)

    def _s3_on(self, port: int) -> S3Server:
        return S3Server(
            folder=self.folder / "s3",
            port=port,
            access_key=self.credentials.s3_access_key,
            secret_key=self.credentials.s3_secret_key,
        )

    @cached_property
    def airflow(self) -> Airflow:
        return Airflow(
            folder=self.folder / "airflow",
            port=self.settings.stack_ui_port,
            database_url=self._database_url(
                self.settings.airflow_database_url, "airflow", self.credentials.airflow_database_password
            ),
            repository=_REPOSITORY,
            credentials=self.credentials,
        )

    @cached_property
    def programs(self) -> list[Program]:
        servers = [server.program() for server in (self.postgres, self.s3) if server]
        return servers + self.airflow.programs()

    def _database_url(self, external: SecretStr | None, role: str, password: str) -> str:
        if external:
            return external.get_secret_value()
        return self.postgres.url(role=role, password=password, database=role)

    @cached_property
    def database_url(self) -> str:
        """Of the product's own database."""
        return self._database_url(self.settings.database_url, OWNER, self.credentials.fracture_database_password)

    def ports(self) -> Iterator[tuple[str, str, range]]:
        """What each embedded server needs: its name, the variable that moves it, its ports."""
        if self.postgres:
            yield "postgres", "FRACTURE_STACK_POSTGRES_PORT", range(self.postgres.port, self.postgres.port + 1)
        if self.s3:
            yield "s3", "FRACTURE_STACK_S3_PORT", range(self.s3.port, self.s3.port + PORTS)
        yield "api-server", "FRACTURE_STACK_UI_PORT", range(self.airflow.port, self.airflow.port + 1)

    def write_settings(self) -> None:
        """Write the variables for every other command, and for the next `make up`; lines that are not ours stay.

        Raises: StackError: another site secret than the one under which the patients are known.
        """
        settings = self.settings
        ours = {
            "FRACTURE_DATABASE_URL": self.database_url,
            "FRACTURE_S3_BUCKET": BUCKET if self.s3 else settings.s3_bucket,
            "FRACTURE_S3_ENDPOINT_URL": self.s3.endpoint_url if self.s3 else settings.s3_endpoint_url,
            "FRACTURE_S3_REGION": settings.s3_region,
            "FRACTURE_S3_ACCESS_KEY": self.s3.access_key if self.s3 else _revealed(settings.s3_access_key),
            "FRACTURE_S3_SECRET_KEY": self.s3.secret_key if self.s3 else _revealed(settings.s3_secret_key),
            "FRACTURE_SITE_SECRET": self._site_secret(),
            "FRACTURE_CACHE_DIR": str((settings.cache_dir or self.folder / "cache").expanduser().resolve()),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": _revealed(settings.airflow_database_url),
        }
        for port in ("stack_ui_port", "stack_postgres_port", "stack_s3_port"):
            if port in settings.model_fields_set:
                ours[f"FRACTURE_{port.upper()}"] = str(getattr(settings, port))
        # On one machine nobody may be there to approve; your own line or variable asks for a person.
        kept = {"FRACTURE_PROMOTION": "automatic"} | {
            name: value for name, value in self._written.items() if name not in ours
        }
        lines = ["# Written by `make up`, which keeps the lines that you add."]
        for name, value in (ours | kept).items():
            if value:
                escaped = value.replace("\\", "\\\\").replace("'", "\\'")
                lines.append(f"{name}='{escaped}'")
        write_private(self.settings_file, "\n".join(lines) + "\n")
        if self.postgres and not settings.database_url:
            password = self.credentials.reader_database_password
            entry = f"{LOOPBACK}:{self.postgres.port}:{OWNER}:{READER}:{password}\n"
            write_private(self.folder / "reader.pgpass", entry)
            audit = f"{LOOPBACK}:{self.postgres.port}:{OWNER}:{OWNER}:{self.credentials.fracture_database_password}\n"
            write_private(self.folder / "audit.pgpass", audit)
            self._write_psql("psql", READER, "reader.pgpass", "who may look at the worklist and at nothing else")
            self._write_psql("psql-audit", OWNER, "audit.pgpass", "for sql/queries; it changes nothing", read_only=True)

    def _write_psql(self, name: str, role: str, passwords: str, purpose: str, *, read_only: bool = False) -> None:
        options = "PGOPTIONS='-c default_transaction_read_only=on' " if read_only else ""
        write_private(
            self.folder / name,
            f"#!/bin/sh\n# psql as {role}, {purpose}.\n{options}PGPASSFILE='{self.folder}/{passwords}' "
            f"exec '{psql_path()}' -h {LOOPBACK} -p {self.postgres.port} -U {role} {OWNER} \"$@\"\n",
            mode=0o700,
        )

    def _site_secret(self) -> str:
        """It never changes: with another one the same patient is another group. Raises: StackError."""
        asked = _revealed(self.settings.site_secret) or self.credentials.site_secret
        if asked != self._written.get("FRACTURE_SITE_SECRET", asked):
            raise StackError(
                f"FRACTURE_SITE_SECRET is not the one in {self.settings_file}, under which the patients are known: "
                "unset it, or remove the folder to start from nothing."
            )
        return asked


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _loopback_port(address: str) -> int:
    """The port of an address on this machine; 0 for any other address."""
    found = re.search(re.escape(LOOPBACK) + r":(\d+)", address)
    return int(found[1]) if found else 0
