"""Which servers the stack of a data folder has."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from pydantic import SecretStr

from fracture_ml.core.errors import StackError
from fracture_ml.stack.airflow import Airflow
from fracture_ml.stack.credentials import Credentials, load_credentials
from fracture_ml.stack.postgres import OWNER, PostgresServer
from fracture_ml.stack.program import Program
from fracture_ml.stack.s3 import PORTS, S3Server
from fracture_ml.stack.settings_file import SettingsFile
from fracture_ml.steps.settings import StackSettings

_REPOSITORY = Path(__file__).resolve().parents[2]


class Servers:
    """The servers of one data folder: embedded, or external where the environment or the settings file names them."""

    def __init__(self, environment: StackSettings):
        self._environment = environment
        self.folder = environment.stack_dir.expanduser().resolve()
        self.settings_file = SettingsFile(self.folder)

    @cached_property
    def settings(self) -> StackSettings:
        """What the environment says, else the file: `make up` from another shell means the same servers.

        Raises: InvalidSettings: a wrong line. StackError: S3 lines that are the embedded server's in part.
        """
        file = self.settings_file
        own = file.own_lines(self.credentials, s3_on=self._s3_on, postgres_on=self._postgres_on)
        return self._environment.completed_by({name: file.lines[name] for name in file.lines.keys() - own})

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
        """Write the settings file. Raises: StackError: as SettingsFile.write."""
        self.settings_file.write(
            self.settings, self.credentials, database_url=self.database_url, s3=self.s3, postgres=self.postgres
        )
