"""From logits to a probability that means what it says."""

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from fracture_ml.core.errors import TrainingDiverged

BINS = 10
_LOG_TEMPERATURE = (np.log(0.05), np.log(20.0))
_BIAS = (-10.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """P(fracture) = sigmoid(margin / temperature + bias), with margin = logit of fracture - logit of none.

    Two parameters, not one: a temperature alone leaves the 0.5 decision where the network put it, and training with
    a weighted loss or balanced sampling moves that by a constant in log odds, which only the bias takes back. The
    temperature is positive, so that the order of the scores, and with it the AUROC, never changes.
    """

    temperature: float = 1.0
    bias: float = 0.0

    def to_json(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(temperature=float(value["temperature"]), bias=float(value["bias"]))

    def calibrated(self, logits: np.ndarray) -> np.ndarray:
        """P(fracture), float32 (N,), 0 to 1, of logits (N, 2): no fracture, fracture. NaN stays NaN."""
        logits = np.asarray(logits, dtype=np.float64)
        return expit((logits[:, 1] - logits[:, 0]) / self.temperature + self.bias).astype(np.float32)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Fit temperature and bias by maximum likelihood on validation data, or on pooled out-of-fold logits.

    The targets are Platt's (1999): (P + 1) / (P + 2) and 1 / (N + 2) instead of 1 and 0, which keeps the fit finite
    where few images separate perfectly. With one class only there is nothing to fit: the identity is returned.

    Args:    logits: float, (N, 2). labels: 0 or 1, (N,).
    Raises:  TrainingDiverged: a logit is NaN or infinite.
    """
    logits = np.asarray(logits, dtype=np.float64)
    positive = np.asarray(labels).astype(bool)
    if not np.isfinite(logits).all():
        raise TrainingDiverged("The network's output on the validation data is not finite: lower the learning rate")
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if positives == 0 or negatives == 0:
        return Calibration()
    margin = logits[:, 1] - logits[:, 0]
    target = np.where(positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss_and_slope(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = margin * np.exp(-parameters[0])
        odds = scaled + parameters[1]
        residual = expit(odds) - target
        return float(np.mean(np.logaddexp(0, odds) - target * odds)), np.array(
            [np.mean(residual * -scaled), np.mean(residual)]
        )

    fit = minimize(loss_and_slope, np.zeros(2), jac=True, method="L-BFGS-B", bounds=(_LOG_TEMPERATURE, _BIAS))
    return Calibration(temperature=float(np.exp(fit.x[0])), bias=float(fit.x[1]))


def bin_of(scores: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The index, 0 to bins - 1, of the equally wide bin that each score (0 to 1) falls into."""
    return np.minimum((np.asarray(scores, dtype=np.float64) * bins).astype(np.int64), bins - 1)


def reliability(scores: np.ndarray, labels: np.ndarray, bins: int = BINS) -> list[dict[str, float | int]]:
    """A row per bin that holds a score: its bounds, n, the mean score and the share of positives."""
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    place = bin_of(scores, bins)
    return [
        {
            "low": index / bins,
            "high": (index + 1) / bins,
            "n": int((place == index).sum()),
            "mean_score": float(scores[place == index].mean()),
            "share_positive": float(labels[place == index].mean()),
        }
        for index in range(bins)
        if (place == index).any()
    ]


def calibration_error(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Expected calibration error (ECE): the mean over the images of |mean score - share of positives| of their bin.

    Args:    scores, labels: (N,). weights: (R, N), how often each image counts in each resample.
    Returns: float64, (R,), 0 to 1.
    """
    scores = np.asarray(scores, dtype=np.float64)
    in_bin = np.eye(bins)[bin_of(scores, bins)]  # (N, bins)
    surplus = weights @ (in_bin * (scores - labels)[:, None])  # (R, bins)
    return np.abs(surplus).sum(axis=1) / weights.sum(axis=1)
