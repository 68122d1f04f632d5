"""A real Postgres and a real S3 in a temporary folder, for as long as a benchmark runs."""

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fracture_ml.stack.postgres import PostgresServer
from fracture_ml.stack.program import find_free_ports
from fracture_ml.stack.s3 import PORTS, S3Server
from fracture_ml.steps.context import open_context
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores
from fracture_ml.stores.database import migrate
from tests.running import Running

_PASSWORD = "owner-password"


@dataclass(frozen=True, kw_only=True)
class Servers:
    """Both servers, and what a process needs to know to use them."""

    postgres: PostgresServer
    s3: S3Server
    folder: Path

    def settings(self, name: str, *, device: str = "auto") -> Settings:
        """Settings for a database and a bucket of this name; `create` makes them."""
        return Settings(
            _env_file=None,
            database_url=self.postgres.url(role="fracture", password=_PASSWORD, database=name),
            s3_bucket=name,
            s3_endpoint_url=self.s3.endpoint_url,
            s3_access_key=self.s3.access_key,
            s3_secret_key=self.s3.secret_key,
            site_secret="a secret for the benchmarks",
            cache_dir=self.folder / "cache",
            device=device,
        )

    def create(self, name: str) -> Stores:
        """A migrated database and a bucket of this name, both empty. Letters and digits."""
        self.postgres.run_script(f"CREATE DATABASE {name} OWNER fracture;\n")
        settings = self.settings(name)
        migrate(settings.database_url.get_secret_value())
        stores = open_context(settings)
        stores.bucket.ensure()
        return stores


@contextmanager
def running_servers() -> Iterator[Servers]:
    """Both, on free ports, with Postgres as durable as in production."""
    with tempfile.TemporaryDirectory(prefix="fracture-benchmark-") as name:
        folder = Path(name)
        (folder / "postgres").mkdir()
        postgres = PostgresServer(
            folder=folder / "postgres", port=find_free_ports(1)[0], password=secrets.token_urlsafe(12)
        )
        s3 = S3Server(
            folder=folder / "s3",
            port=find_free_ports(PORTS)[0],
            access_key="benchmark",
            secret_key=secrets.token_urlsafe(24),
        )
        running: list[Running] = []
        try:
            for server in (postgres, s3):
                server.prepare()
                running.append(Running(server.program()))
                server.wait_until_ready()
            roles = "CREATE ROLE fracture LOGIN PASSWORD :'password';\n"
            postgres.run_script(f"\\getenv password OWNER_PASSWORD\n{roles}", {"OWNER_PASSWORD": _PASSWORD})
            postgres.run_script("CREATE ROLE fracture_reader LOGIN;\n")
            yield Servers(postgres=postgres, s3=s3, folder=folder)
        finally:
            for program in running:
                program.stop()
            s3.remove_sockets()
