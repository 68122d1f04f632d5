"""What a model depends on except its data: frozen, validated at birth, named by the hash of its JSON."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from fracture_ml.core.errors import InvalidRecipe

OPTIMIZERS = ("adam", "adamw")
SCHEDULERS = ("cosine", "step", "constant")
BALANCES = ("none", "weighted_loss", "balanced_sampling")
SELECTION_METRICS = ("accuracy", "balanced_accuracy", "auroc")


def hash_of_json(value: Any) -> str:
    """sha256 (hex, 64 characters) of `value` as canonical JSON: sorted keys, no white space."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise InvalidRecipe(sentence)


def _require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    _require(value in allowed, f"{name}={value!r}: must be one of {', '.join(allowed)}")


@dataclass(frozen=True, kw_only=True)
class _Described:
    """Shared by everything whose JSON is stored beside what it decided."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Raises: InvalidRecipe: unknown or out-of-bounds fields."""
        unknown = set(value) - {field.name for field in fields(cls)}
        _require(not unknown, f"{cls.__name__}: unknown fields {', '.join(sorted(unknown))}")
        return cls(**value)

    @property
    def id(self) -> str:
        """sha256 of the JSON, 64 hex characters."""
        return hash_of_json(self.to_json())


_RETIRED = (("ema_decay", 0.0),)  # a field of stored recipes, and the value at which it did nothing


@dataclass(frozen=True, kw_only=True)
class TrainRecipe(_Described):
    """Everything that decides the trained weights except the data. Stored as JSON beside them."""

    image_size_px: int = 224
    smallest_image_size_px: int = 0  # of the first epochs; later ones see more (loop.image_size); 0: no growth
    batch_size: int = 32
    peak_lr: float = 1e-3
    scheduler: str = "cosine"
    warmup_epochs: int = 1
    epochs: int = 30
    optimizer: str = "adam"
    weight_decay: float = 1e-4  # adam: a penalty in the loss; adamw: apart from it, of weights alone
    balance: str = "none"
    location_weight: float = 0.0  # in the loss: of the places of drawn fractures, which inner layers learn (places.py)
    gradient_clip_norm: float = 1.0
    early_stopping_epochs: int = 0
    selection_metric: str = "accuracy"
    initial_weights: str = "auto"  # as the settings say; a tuned or trained recipe names what was really used
    # Augmentation, drawn anew for each image of each batch.
    rotation_degrees: float = 15.0
    scale_range: float = 0.15
    shift_fraction: float = 0.08
    brightness_range: float = 0.2
    contrast_range: float = 0.2
    flip_probability: float = 0.5
    mirrored_scoring: bool = False  # an image's score is that of itself and its mirror image together: twice the cost
    # Operating points, chosen on validation data.
    target_sensitivity: float = 0.95
    target_specificity: float = 0.95
    seed: int = 0

    def __post_init__(self):
        _require(
            self.image_size_px % 32 == 0 and 32 <= self.image_size_px <= 1024,
            f"image_size_px={self.image_size_px}: must be a multiple of 32 from 32 to 1024",
        )
        _require(
            self.smallest_image_size_px % 32 == 0 and 0 <= self.smallest_image_size_px <= 1024,
            f"smallest_image_size_px={self.smallest_image_size_px}: must be 0, or a multiple of 32 up to 1024",
        )
        _require(1 <= self.batch_size <= 1024, f"batch_size={self.batch_size}: must be from 1 to 1024")
        _require(0 < self.peak_lr <= 1, f"peak_lr={self.peak_lr}: must be above 0 and at most 1")
        _require(1 <= self.epochs <= 1000, f"epochs={self.epochs}: must be from 1 to 1000")
        _require(0 <= self.warmup_epochs <= self.epochs, f"warmup_epochs={self.warmup_epochs}: 0 to epochs")
        _require_one_of("optimizer", self.optimizer, OPTIMIZERS)
        _require(0 <= self.weight_decay <= 10, f"weight_decay={self.weight_decay}: must be from 0 to 10")
        _require_one_of("scheduler", self.scheduler, SCHEDULERS)
        _require_one_of("balance", self.balance, BALANCES)
        _require_one_of("selection_metric", self.selection_metric, SELECTION_METRICS)
        for name in (
            "scale_range",
            "shift_fraction",
            "brightness_range",
            "contrast_range",
        ):
            _require(0 <= getattr(self, name) < 1, f"{name}={getattr(self, name)}: must be from 0 to below 1")
        _require(0 <= self.flip_probability <= 1, f"flip_probability={self.flip_probability}: must be from 0 to 1")
        _require(0 <= self.rotation_degrees <= 180, f"rotation_degrees={self.rotation_degrees}: must be from 0 to 180")
        _require(0 <= self.location_weight <= 10, f"location_weight={self.location_weight}: must be from 0 to 10")
        _require(0 <= self.seed < 2**32, f"seed={self.seed}: must be from 0 to {2**32 - 1}")
        for name in ("target_sensitivity", "target_specificity"):
            _require(0.5 <= getattr(self, name) < 1, f"{name}={getattr(self, name)}: must be from 0.5 to below 1")

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Raises: InvalidRecipe: unknown or out-of-bounds fields. A field of older recipes may stand at its default."""
        return super().from_json({name: it for name, it in value.items() if (name, it) not in _RETIRED})

    def with_changes(self, **changes: Any) -> "TrainRecipe":
        return replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class StudyPlan(_Described):
    """What a night's tuning may try, and how long. The seed project's grid is the default."""

    batch_sizes: tuple[int, ...] = (16, 32, 64)
    peak_lrs: tuple[float, ...] = (1e-3, 1e-4, 1e-5)
    schedulers: tuple[str, ...] = SCHEDULERS
    trials: int = 27
    folds: int = 5
    epochs: int = 30
    image_size_px: int = 224
    metric: str = "accuracy"
    prune: bool = True
    time_budget_s: float = 6 * 3600

    def __post_init__(self):
        # JSON turns tuples into lists: take both, keep tuples.
        for name in ("batch_sizes", "peak_lrs", "schedulers"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            _require(len(getattr(self, name)) > 0, f"{name}: at least one value")
        for scheduler in self.schedulers:
            _require_one_of("schedulers", scheduler, SCHEDULERS)
        _require(1 <= self.trials <= 1000, f"trials={self.trials}: must be from 1 to 1000")
        _require(2 <= self.folds <= 5, f"folds={self.folds}: must be from 2 to 5")
        _require(1 <= self.epochs <= 1000, f"epochs={self.epochs}: must be from 1 to 1000")
        _require_one_of("metric", self.metric, SELECTION_METRICS)
        _require(self.time_budget_s > 0, f"time_budget_s={self.time_budget_s}: must be above 0")


@dataclass(frozen=True, kw_only=True)
class SplitPlan(_Described):
    """Shares of the groups on each side. Part of a snapshot's id.

    A group's side depends on its key and these shares alone, so that it never changes as data arrive.
    """

    test_share: float = 0.20
    validation_share: float = 0.15
    vault_share: float = 0.0
    folds: int = 5
    seed: int = 0

    def __post_init__(self):
        shares = (self.test_share, self.validation_share, self.vault_share)
        _require(all(0 <= share < 1 for share in shares), "shares: each must be from 0 to below 1")
        _require(sum(shares) < 0.9, "shares: at least a tenth of the groups must be left for training")
        _require(2 <= self.folds <= 20, f"folds={self.folds}: must be from 2 to 20")


@dataclass(frozen=True, kw_only=True)
class PreprocessSpec(_Described):
    """How 8-bit letterboxed pixels become the network's input: (x / 255 - mean) / std. Part of the bundle."""

    image_size_px: int
    mean: float
    std: float

    def __post_init__(self):
        _require(self.std > 0, f"std={self.std}: must be above 0")


@dataclass(frozen=True, kw_only=True)
class PromotionRule(_Described):
    """What the gate asks of a challenger. Travels with each version's verdict."""

    sensitivity_margin: float = 0.02
    min_auroc: float = 0.60
    max_auroc_drop: float = 0.02
    max_ece: float = 0.15
    subgroup_min_positives: int = 20
    max_subgroup_auroc_drop: float = 0.10
    # The share of resamples in which a drop must stay within its bound: 0.5 is "more likely than not", 0.95 a
    # non-inferiority trial (see evaluation/gate.py for why it is not the default).
    required_confidence: float = 0.5
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self):
        for name in ("sensitivity_margin", "min_auroc", "max_auroc_drop", "max_ece", "max_subgroup_auroc_drop"):
            _require(0 <= getattr(self, name) <= 1, f"{name}={getattr(self, name)}: must be from 0 to 1")
        _require(
            0.5 <= self.required_confidence < 1,
            f"required_confidence={self.required_confidence}: must be from 0.5 to below 1",
        )
        _require(self.resamples >= 100, f"resamples={self.resamples}: must be at least 100")
