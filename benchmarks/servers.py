"""A real Postgres and a real S3 in a temporary folder, for as long as a benchmark runs."""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import report
from fracture_ml.stack.postgres import PostgresServer
from fracture_ml.stack.s3 import S3Server
from fracture_ml.steps.context import open_context
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores
from fracture_ml.stores.database import migrate
from tests.running import OWNER_PASSWORD, new_postgres, new_s3


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
            database_url=self.postgres.url(role="fracture", password=OWNER_PASSWORD, database=name),
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
    with tempfile.TemporaryDirectory(prefix="fracture-benchmark-") as name, ExitStack() as ending:
        folder = Path(name)
        (folder / "postgres").mkdir()
        postgres, running = new_postgres(folder / "postgres", durable=True)
        ending.callback(running.stop)
        s3, running = new_s3(folder / "s3", volume_size_mb=1024)
        ending.callback(s3.remove_sockets)
        ending.callback(running.stop)
        yield Servers(postgres=postgres, s3=s3, folder=folder)


def report_with_servers(
    parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace, Servers], dict]
) -> None:
    """Read the options, measure while both servers run, and report what came of it."""
    options = parser.parse_args()
    with running_servers() as servers:
        result = measure(options, servers)
    report(result, options.json)
