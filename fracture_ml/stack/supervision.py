"""The process manager (supervisord) of one stack, over its Unix socket."""

import http.client
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Sequence
from pathlib import Path

from supervisor.xmlrpc import SupervisorTransport

from fracture_ml.core.errors import StackError
from fracture_ml.stack.credentials import write_private
from fracture_ml.stack.program import Program
from fracture_ml.stack.system_user import ensure_system_user

_LONGEST_SOCKET_PATH = 90  # the kernel's limit is 107, and supervisord adds its pid while it binds
_ANSWER_TIMEOUT_S = 15.0


class Supervision:
    """Starts, watches and stops programs. Each is restarted when it dies."""

    def __init__(self, folder: Path, stack_id: str):
        self._folder = folder
        self._config = folder / "supervisord.conf"
        self._log = folder / "logs" / "supervisord.log"
        self._socket = folder / "supervisord.sock"
        if len(str(self._socket)) > _LONGEST_SOCKET_PATH:
            self._socket = Path(tempfile.gettempdir()) / f"fracture-{stack_id[:16]}.sock"

    def is_alive(self) -> bool:
        """Whether the process manager answers."""
        try:
            return self._call("getState")["statename"] in ("RUNNING", "RESTARTING")
        except StackError:
            return False

    def is_configured_for(self, programs: Sequence[Program]) -> bool:
        """Whether it was started for exactly these programs."""
        return self._config.exists() and self._config.read_text() == self._render(programs)

    def start(self, programs: Sequence[Program], environment: dict[str, str]) -> None:
        """Start the process manager; it starts no program by itself. Raises: StackError.

        It refuses a program whose user is not there: such a user is created.
        """
        for user in {program.user for program in programs if program.user}:
            ensure_system_user(user)
        self._log.parent.mkdir(exist_ok=True)
        self._socket.unlink(missing_ok=True)
        write_private(self._config, self._render(programs))
        command = [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(self._config)]
        result = subprocess.run(command, cwd=self._folder, env=environment, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            said = result.stderr.strip() or result.stdout.strip() or "it said nothing"
            raise StackError(f"supervisord does not start: {said}")
        deadline = time.monotonic() + _ANSWER_TIMEOUT_S
        while not self.is_alive():
            if time.monotonic() > deadline:
                raise StackError(f"supervisord does not answer; {self._log} says: {_last_lines(self._log)}")
            time.sleep(0.02)

    def start_program(self, name: str) -> None:
        """Start a program where it does not run; returns at once."""
        if self.states()[name] not in ("RUNNING", "STARTING"):
            self._call("startProcess", self._qualified(name), False)

    def states(self) -> dict[str, str]:
        """The state of every program: RUNNING, STARTING, BACKOFF, EXITED, FATAL, STOPPED..."""
        return {info["name"]: info["statename"] for info in self._call("getAllProcessInfo")}

    def started_at(self, name: str) -> float:
        """When the program was started last, in seconds since 1970."""
        return float(self._call("getProcessInfo", self._qualified(name))["start"])

    def pid(self) -> int:
        """The process id of the process manager."""
        return int(self._call("getPID"))

    def shut_down(self) -> None:
        """Stop all programs, in reverse order, and the process manager. Returns when it is gone or 60 s later."""
        self._call("shutdown")
        deadline = time.monotonic() + 60
        while self._socket.exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def log_of(self, name: str) -> Path:
        """The file with the output of a program."""
        return self._folder / "logs" / f"{name}.log"

    def last_lines(self, name: str) -> str:
        """The last lines that a program wrote."""
        return _last_lines(self.log_of(name))

    def _qualified(self, name: str) -> str:
        return name if name in ("postgres", "s3") else f"airflow:{name}"

    def _call(self, method: str, *arguments: object):
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        server = xmlrpc.client.ServerProxy("http://supervisord", transport=transport)
        try:
            return getattr(server.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            raise StackError(f"supervisord refuses {method} {arguments}: {fault.faultString}") from None
        except (OSError, http.client.HTTPException) as error:
            raise StackError(f"supervisord does not answer: {error}") from None
        finally:
            transport.close()

    def _render(self, programs: Sequence[Program]) -> str:
        sections = [
            ("unix_http_server", {"file": self._socket, "chmod": "0700"}),
            (
                "supervisord",
                {
                    "logfile": self._log,
                    "logfile_maxbytes": "5MB",
                    "logfile_backups": 1,
                    "pidfile": self._folder / "supervisord.pid",
                    "umask": "077",
                    "childlogdir": self._log.parent,
                },
            ),
            (
                "rpcinterface:supervisor",
                {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
            ),
        ]
        for place, program in enumerate(programs):
            options = {
                "command": " ".join(_quoted(part) for part in program.command),
                "directory": program.folder,
                "autostart": "false",
                "autorestart": "true",
                "startsecs": 1,
                "startretries": 5,
                "stopsignal": program.stop_signal,
                "stopwaitsecs": program.stop_wait_s,
                "stopasgroup": "true" if program.stop_as_group else "false",
                "killasgroup": "true",
                "priority": place,
                "redirect_stderr": "true",
                "stdout_logfile": self.log_of(program.name),
                "stdout_logfile_maxbytes": "10MB",
                "stdout_logfile_backups": 2,
                "environment": ",".join(f"{name}={_quoted(value)}" for name, value in program.environment.items()),
            }
            if program.user:
                options["user"] = program.user
            sections.append((f"program:{program.name}", options))
        airflow = [program.name for program in programs if program.name not in ("postgres", "s3")]
        sections.append(("group:airflow", {"programs": ",".join(airflow), "priority": 99}))
        return "\n".join(
            f"[{title}]\n" + "".join(f"{name}={str(value).replace('%', '%%')}\n" for name, value in options.items())
            for title, options in sections
        )


def _quoted(text: str) -> str:
    if '"' in text or "\n" in text:
        raise StackError("A path or a setting of the stack holds a quotation mark or a line break: change it.")
    return f'"{text}"'


def _last_lines(path: Path, count: int = 12) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "nothing"
    return "\n".join(lines[-count:]) or "nothing"
