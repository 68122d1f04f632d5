"""What a place decides: URLs, secrets, device, policies. Read from FRACTURE_* environment variables, here alone."""

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fracture_ml.core.errors import InvalidSettings
from fracture_ml.core.recipe import PromotionRule
from fracture_ml.core.records import BodyPart
from fracture_ml.scoring.priority import RankingRules


class Settings(BaseSettings):
    """Every setting of the product. The environment comes first, then the file that `make up` writes."""

    model_config = SettingsConfigDict(env_prefix="FRACTURE_", extra="ignore", frozen=True, env_ignore_empty=True)

    database_url: SecretStr = Field(description="postgresql+psycopg2://user:password@host:port/database")
    s3_bucket: str
    s3_endpoint_url: str | None = None  # None: Amazon's own
    s3_region: str = "us-east-1"
    s3_access_key: SecretStr | None = None  # None: boto3's own search (a role, a profile)
    s3_secret_key: SecretStr | None = None
    inbox_prefix: str = "inbox/"
    site_secret: SecretStr = Field(min_length=16, description="keys every hash of an identity; never changes")

    cache_dir: Path = Path(".fracture/cache")
    cache_max_gib: float = Field(default=20.0, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(default=0, ge=0)  # 0: all cores
    tuning_workers: int = Field(default=1, ge=1, le=100)  # tasks that share a night's tuning: one per GPU
    checkpoint_seconds: float = Field(default=120.0, ge=0)  # of training that a kill may cost
    initial_weights: str = "auto"  # auto | imagenet | none | a file | s3:<key>

    promotion: Literal["approval", "automatic"] = "approval"
    promotion_confidence: float = Field(default=PromotionRule.required_confidence, ge=0.5, lt=1)
    prioritisation: bool = RankingRules.prioritisation
    list_labelled: bool = True  # False: a study that came with a label for each of its images is not listed
    region_weights: frozenset[BodyPart] = RankingRules.region_weights
    minutes_stat: int = Field(default=RankingRules.minutes_stat, gt=0)
    minutes_urgent: int = Field(default=RankingRules.minutes_urgent, gt=0)
    minutes_routine: int = Field(default=RankingRules.minutes_routine, gt=0)
    vault_share: float = Field(default=0.0, ge=0, le=0.3)  # of the groups: never trained on, never tested on
    prevalence: float | None = Field(default=None, gt=0, lt=1)  # of fractures at the site; None: the data's own

    max_object_mib: float = Field(default=200.0, gt=0)
    max_pixels: int = Field(default=100_000_000, gt=0)
    admit_secondary_capture: bool = False
    admit_for_processing: bool = False

    @property
    def site_secret_bytes(self) -> bytes:
        """As keyed hashes take it."""
        return self.site_secret.get_secret_value().encode()

    @field_validator("database_url")
    @classmethod
    def _names_the_driver(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith("postgresql+psycopg2://"):
            raise ValueError("must begin with postgresql+psycopg2://")
        return url


@cache
def load_settings() -> Settings:
    """Read the settings once per process.

    Raises: InvalidSettings: one sentence that names every missing or wrong variable.
    """
    try:
        return Settings(_env_file=load_stack_settings().env_file)
    except ValidationError as error:
        raise InvalidSettings(
            f"Set these variables, or start the embedded servers with `make up`: {_faults(error)}"
        ) from None


class StackSettings(BaseSettings):
    """Where the embedded servers live, and which of them external ones replace. The environment comes first."""

    model_config = SettingsConfigDict(env_prefix="FRACTURE_", extra="ignore", frozen=True, env_ignore_empty=True)

    stack_dir: Path = Path(".fracture")
    stack_ui_port: int = Field(default=8080, ge=1, le=65535)
    stack_postgres_port: int = Field(default=15432, ge=1, le=65535)
    stack_s3_port: int = Field(default=18333, ge=1, le=65528)  # and the seven ports above it

    database_url: SecretStr | None = None  # None: the embedded Postgres
    airflow_database_url: SecretStr | None = Field(
        default=None, validation_alias="AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
    )  # None: the embedded Postgres
    s3_bucket: str | None = None  # None: the embedded S3
    s3_endpoint_url: str | None = None
    s3_region: str = "us-east-1"
    s3_access_key: SecretStr | None = None
    s3_secret_key: SecretStr | None = None
    site_secret: SecretStr | None = Field(default=None, min_length=16)  # None: generated once
    cache_dir: Path | None = None  # None: in the stack's folder

    @property
    def env_file(self) -> Path:
        """The FRACTURE_* variables that `make up` wrote for every other command."""
        return self.stack_dir / "fracture.env"

    def completed_by(self, lines: Mapping[str, str]) -> Self:
        """These settings, and where they leave something open, what these lines of the file say.

        Raises: InvalidSettings: one sentence that names every wrong line.
        """
        ours = {f"FRACTURE_{name.upper()}": name for name in type(self).model_fields}
        try:
            said = type(self)(**{ours.get(name, name): value for name, value in lines.items()})
        except ValidationError as error:
            raise InvalidSettings(f"Correct these lines of {self.env_file}: {_faults(error)}") from None
        return said.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})


def load_stack_settings() -> StackSettings:
    """Read what the environment says of the stack. Raises: InvalidSettings: names every wrong variable."""
    try:
        return StackSettings()
    except ValidationError as error:
        raise InvalidSettings(f"Correct these variables: {_faults(error)}") from None


def reach_loopback_directly() -> None:
    """Take this machine itself out of what a proxy is asked for, for this process and those that it starts.

    A hospital's `http_proxy` knows nothing of the embedded servers.
    """
    names = ("no_proxy", "NO_PROXY")
    hosts = [host.strip() for name in names for host in os.environ.get(name, "").split(",")]
    direct = ",".join(dict.fromkeys([*filter(None, hosts), "127.0.0.1", "localhost"]))
    os.environ.update(dict.fromkeys(names, direct))


def inherited_environment() -> dict[str, str]:
    """The environment of this process, for processes that it starts."""
    return dict(os.environ)


def _faults(error: ValidationError) -> str:
    names = [str(fault["loc"][0]).upper() for fault in error.errors()]
    names = [name if name.startswith("AIRFLOW__") else f"FRACTURE_{name}" for name in names]
    return "; ".join(f"{name} ({fault['msg']})" for name, fault in zip(names, error.errors(), strict=True))
