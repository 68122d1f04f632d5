"""An embedded S3: one SeaweedFS process on the loopback, with everything switched off that is not needed."""

import hashlib
import shutil
import sysconfig
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fracture_ml.core.errors import StackError
from fracture_ml.stack.credentials import write_private
from fracture_ml.stack.program import LOOPBACK, Program, wait_until

BUCKET = "fracture"  # the product's, in the embedded server
PORTS = 8  # S3 itself, and what its parts need to speak to each other
_START_TIMEOUT_S = 30.0
_CERTIFICATE_DAYS = 36_500  # it never leaves its folder


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """One object store: its folder, the first of its eight neighbouring ports (the S3 endpoint), its one key pair."""

    folder: Path
    port: int
    access_key: str
    secret_key: str = field(repr=False)
    volume_size_mb: int = 1024  # a bucket begins with seven volumes, and the free disk over this size is all there are

    @property
    def endpoint_url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def prepare(self) -> None:
        """Make the folders, and the certificate by which the parts of the server know each other."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        if not self._certificate.exists():
            certificate, key = _draw_certificate()
            write_private(self._key, key)
            write_private(self._certificate, certificate)  # last: where it is, its key is

    def remove_sockets(self) -> None:
        """Remove what a server that was killed leaves in /tmp, where it insists on its sockets; it must not run.

        Raises: StackError: a socket of this name is another user's.
        """
        grpc_ports = {"s3": self.port + 1, "master": self.port + 3, "volume": self.port + 5, "filer": self.port + 7}
        for part, port in grpc_ports.items():
            path = Path("/tmp") / f"seaweedfs-{part}-grpc-{port}.sock"
            try:
                path.unlink(missing_ok=True)
            except PermissionError:
                raise StackError(
                    f"{path} is another user's: set FRACTURE_STACK_S3_PORT to another port, or have it removed."
                ) from None

    def program(self) -> Program:
        """The server in the foreground: master, volume, filer and S3 gateway in one process.

        What is inside (master, volume, filer) answers nobody else: HTTP is off or asks for a signed token, gRPC asks
        for the certificate. Telemetry, the consoles, WebDAV, IAM, Iceberg and Lance are off.
        """
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = range(self.port, self.port + PORTS)
        command = [_weed(), "-logtostderr=true", "-v=0", "server", f"-dir={self.folder / 'data'}"]
        command += [f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}", "-disableHttp", "-filer", "-s3"]
        command += [f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += ["-s3.iam=false", "-s3.autoCreateBucket=false", "-s3.localSocket=s3.sock"]
        command += [f"-master.port={master}", f"-master.port.grpc={master_grpc}", "-master.telemetry=false"]
        # The only master elects itself at once; the default waits 10 s for others whenever it starts again.
        command += ["-master.electionTimeout=1s"]
        command += [f"-master.volumeSizeLimitMB={self.volume_size_mb}", f"-volume.port={volume}"]
        command += [f"-volume.port.grpc={volume_grpc}"]
        command += ["-volume.max=0", "-volume.preStopSeconds=0", f"-filer.port={filer}"]
        command += [f"-filer.port.grpc={filer_grpc}", "-filer.localSocket=filer.sock"]
        command += ["-filer.exposeDirectoryData=false", "-filer.disableDirListing"]
        return Program(
            name="s3",
            command=tuple(command),
            folder=self.folder,
            environment=self._grpc_certificates()
            | {
                "AWS_ACCESS_KEY_ID": self.access_key,
                "AWS_SECRET_ACCESS_KEY": self.secret_key,
                "WEED_JWT_SIGNING_KEY": self._signing_key("volume write"),
                "WEED_JWT_SIGNING_READ_KEY": self._signing_key("volume read"),
                "WEED_JWT_FILER_SIGNING_KEY": self._signing_key("filer write"),
                "WEED_JWT_FILER_SIGNING_READ_KEY": self._signing_key("filer read"),
            },
            # Its own shutdown waits 15 s for its parts to let go of each other. Writes are in the files by then.
            stop_wait_s=2,
        )

    def is_ready(self) -> bool:
        """Whether the endpoint answers."""
        try:
            with urllib.request.urlopen(f"{self.endpoint_url}/healthz", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def wait_until_ready(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Return when the endpoint answers. Raises: StackError."""
        sentence = f"S3 does not answer on port {self.port} after {timeout_s:.0f} s."
        wait_until(self.is_ready, timeout_s=timeout_s, sentence=sentence)

    @property
    def _certificate(self) -> Path:
        return self.folder / "grpc.crt"

    @property
    def _key(self) -> Path:
        return self.folder / "grpc.key"

    def _grpc_certificates(self) -> dict[str, str]:
        certificates = {"WEED_GRPC_CA": str(self._certificate)}
        for part in ("MASTER", "VOLUME", "FILER", "S3", "CLIENT"):
            certificates[f"WEED_GRPC_{part}_CERT"] = str(self._certificate)
            certificates[f"WEED_GRPC_{part}_KEY"] = str(self._key)
        return certificates

    def _signing_key(self, purpose: str) -> str:
        return hashlib.sha256(f"{purpose}:{self.secret_key}".encode()).hexdigest()


def _draw_certificate() -> tuple[str, str]:
    """A self-signed certificate and its private key, in PEM: both sides of every connection show it to each other."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fracture-s3")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=_CERTIFICATE_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def _weed() -> str:
    found = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if found is None:
        raise StackError("The embedded S3 is not installed; run `make install`.")
    return found
