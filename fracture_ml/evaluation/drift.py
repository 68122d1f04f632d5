"""Do today's scores and images still look like those that the model was made with?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import chi2_contingency, ks_2samp

PSI_MODERATE = 0.10
PSI_LARGE = 0.25
_P_VALUE = 0.01
_EMPTY_SHARE = 1e-4


def psi(reference: np.ndarray, current: np.ndarray, bins: int = 10) -> float:
    """Population stability index: the sum over bins of (q - p) * ln(q / p), with the shares p before and q now.

    Numbers are cut at the reference's quantiles (ties make fewer bins), words are their own bins. Empty bins count as
    1e-4. Two samples of the same population give about (bins - 1) * (1/n + 1/m), which is why `summarise` asks for a
    test as well. Convention: below 0.1 stable, from 0.25 large.

    Args:    reference: (n,), current: (m,), numbers or strings; both with at least one.
    """
    before, now = _counts(np.asarray(reference), np.asarray(current), bins)
    p = np.maximum(before / before.sum(), _EMPTY_SHARE)
    q = np.maximum(now / now.sum(), _EMPTY_SHARE)
    return float(np.sum((q - p) * np.log(q / p)))


def ks(reference: np.ndarray, current: np.ndarray) -> tuple[float, float]:
    """The two-sample Kolmogorov-Smirnov statistic (0 to 1) and its p-value."""
    found = ks_2samp(reference, current, method="asymp")
    return float(found.statistic), float(found.pvalue)


def summarise(
    reference: Mapping[str, np.ndarray], current: Mapping[str, np.ndarray], *, min_n: int = 50
) -> dict[str, dict[str, Any]]:
    """One row for each feature that both sides have: n on each side, PSI, p-value and a level.

    The level is "large" or "moderate" where the PSI says so and the test (KS for numbers, chi-squared for words) finds
    it at p < 0.01; else "stable". With fewer than `min_n` on a side it is "not enough data", without figures.

    Args:    reference, current: feature -> (n,) numbers (NaN: not known, left out) or strings.
    """
    rows = {}
    for feature in sorted(set(reference) & set(current)):
        before, now = _known(reference[feature]), _known(current[feature])
        row: dict[str, Any] = {"n_reference": len(before), "n_current": len(now)}
        if min(len(before), len(now)) < min_n:
            rows[feature] = {**row, "psi": None, "ks": None, "p_value": None, "level": "not enough data"}
            continue
        index = psi(before, now)
        if _is_numeric(before) and _is_numeric(now):
            statistic, p_value = ks(before, now)
        else:
            statistic, p_value = None, _p_of_counts(*_counts(before, now, 0))
        level = "stable"
        if p_value < _P_VALUE and index >= PSI_MODERATE:
            level = "large" if index >= PSI_LARGE else "moderate"
        rows[feature] = {**row, "psi": index, "ks": statistic, "p_value": p_value, "level": level}
    return rows


def _known(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    return values[~np.isnan(values.astype(np.float64))] if _is_numeric(values) else values


def _is_numeric(values: np.ndarray) -> bool:
    return np.issubdtype(values.dtype, np.number) or values.dtype == bool


def _counts(reference: np.ndarray, current: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """How many fall into each bin, before and now: two of (B,)."""
    if _is_numeric(reference) and _is_numeric(current):
        inner = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1]))
        if reference.min() == inner[0]:  # many ties at the minimum: what is below it now is not the same
            inner = np.r_[np.nextafter(inner[0], -np.inf), inner]
        before, now = (np.searchsorted(inner, values, side="left") for values in (reference, current))
        size = len(inner) + 1
    else:
        words, place = np.unique(np.concatenate([reference.astype(str), current.astype(str)]), return_inverse=True)
        before, now = place[: len(reference)], place[len(reference) :]
        size = len(words)
    return np.bincount(before, minlength=size), np.bincount(now, minlength=size)


def _p_of_counts(before: np.ndarray, now: np.ndarray) -> float:
    """Pearson's chi-squared test of two rows of counts; 1 where there is one bin only."""
    return 1.0 if len(before) < 2 else float(chi2_contingency(np.stack([before, now])).pvalue)
