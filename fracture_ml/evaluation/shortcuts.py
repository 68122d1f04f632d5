"""How well do facts that are not the bone predict the label? A model is reported beside that number."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import KFold
from sklearn.preprocessing import TargetEncoder

from fracture_ml.core.errors import NotEnoughData
from fracture_ml.evaluation.metrics import auroc, interval_of, resampled_weights, weighted_auroc


def audit(
    facts: np.ndarray,
    names: Sequence[str],
    labels: np.ndarray,
    train_rows: np.ndarray,
    test_rows: np.ndarray,
    *,
    tags: np.ndarray | None = None,
    tag_names: Sequence[str] = (),
    groups: Sequence[str] | None = None,
    model_scores: np.ndarray | None = None,
    strata: int = 4,
    seed: int = 0,
) -> dict[str, Any]:
    """Predict the label of the test rows from facts that are not the bone, learnt on the training rows.

    Args:    facts: float, (N, F), NaN where not known, for example image size, file size, colour mode. names: (F,).
             tags: str, (N, T), for example body part, view, hardware, which are known before the pixels are looked at.
             tag_names: (T,). Each is taken as the share of fractures among the training images with its value.
             labels: 0 or 1, (N,). train_rows, test_rows: indices into N.
             groups: (N,), for the intervals; None: each row is its own group.
             model_scores: the network's scores of the test rows; then its AUROC within strata of equal shortcut is
             given too: what is left of it where the shortcut says nothing.
    Returns: "auroc" of all facts together, with tags also "auroc_of_tags" and "auroc_of_both", each with its interval;
             "by_fact": AUROC of each fact and tag alone (0.5 to 1, either direction); n;
             "model_auroc_within_strata": of all that was given, over pairs in the same stratum, or None.
    Raises:  NotEnoughData: one class only on a side.
    """
    facts, labels = np.asarray(facts, dtype=np.float64), np.asarray(labels).astype(np.int64)
    y_train, y_test = labels[train_rows], labels[test_rows]
    if len(set(y_train)) < 2 or len(set(y_test)) < 2:
        raise NotEnoughData(
            "The shortcut audit needs both classes in the training and in the test split: "
            "add labelled radiographs of the other class."
        )
    of_test = [str(row) for row in test_rows] if groups is None else [groups[row] for row in test_rows]
    weights = resampled_weights(of_test, 1000, seed)
    of_facts, of_facts_test = facts[train_rows], facts[test_rows]

    def predicted(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        booster = HistGradientBoostingClassifier(
            max_iter=60, max_depth=3, learning_rate=0.1, min_samples_leaf=10, early_stopping=False, random_state=seed
        )
        return booster.fit(train, y_train).predict_proba(test)[:, 1]

    def measured(shortcut: np.ndarray) -> dict[str, float | None]:
        return interval_of(auroc(shortcut, y_test), weighted_auroc(shortcut, y_test, weights))

    shortcut = predicted(of_facts, of_facts_test)
    result: dict[str, Any] = {"auroc": measured(shortcut)}
    alone, alone_names = of_facts_test, list(names)
    if tags is not None:
        encoder = TargetEncoder(target_type="binary", cv=KFold(min(5, len(y_train)), shuffle=True, random_state=seed))
        of_tags, of_tags_test = encoder.fit_transform(tags[train_rows], y_train), encoder.transform(tags[test_rows])
        result["auroc_of_tags"] = measured(predicted(of_tags, of_tags_test))
        alone, alone_names = np.hstack([of_facts_test, of_tags_test]), [*names, *tag_names]
        shortcut = predicted(np.hstack([of_facts, of_tags]), alone)
        result["auroc_of_both"] = measured(shortcut)
    return {
        **result,
        "by_fact": {
            name: _either_way(alone[:, column], y_test)
            for column, name in enumerate(alone_names)
            if not np.isnan(alone[:, column]).all()
        },
        "n_train": len(y_train),
        "n_test": len(y_test),
        "strata": strata,
        "model_auroc_within_strata": None
        if model_scores is None
        else auroc_within_strata(model_scores, y_test, shortcut, strata),
    }


def auroc_within_strata(scores: np.ndarray, labels: np.ndarray, shortcut: np.ndarray, strata: int) -> float | None:
    """AUROC of `scores` (N,) over pairs whose shortcut scores (N,) fall between the same quantiles.

    None where no stratum holds both classes.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    inner = np.unique(np.quantile(shortcut, np.linspace(0, 1, strata + 1)[1:-1]))
    place = np.searchsorted(inner, shortcut, side="right")
    found, pairs = [], []
    for stratum in np.unique(place):
        inside = place == stratum
        value = auroc(scores[inside], labels[inside])
        if value is not None:
            found.append(value)
            pairs.append(int(labels[inside].sum()) * int((1 - labels[inside]).sum()))
    return float(np.average(found, weights=pairs)) if found else None


def _either_way(fact: np.ndarray, labels: np.ndarray) -> float | None:
    known = ~np.isnan(fact)
    value = auroc(fact[known], labels[known])
    return None if value is None else max(value, 1 - value)
