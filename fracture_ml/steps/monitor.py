"""A day's numbers: drift, live performance from final reads, overdue and stuck work; alerts while it lasts."""

import logging
from datetime import datetime, timedelta
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import binomtest

from fracture_ml.core.records import AiPriority, LabelValue
from fracture_ml.evaluation.drift import summarise
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores

log = logging.getLogger(__name__)

STUCK_AFTER = timedelta(hours=12)
MIN_FINAL_READS = 30
LIVE_DAYS = 90  # of final reads that count, whichever version the readers saw: a champion of one night has few
_STUCK_WORDS = {
    "held": "studies have been held without a final read",
    "unlisted": "radiographs have been on no list",
    "unjudged": "model versions have waited for the gate",
}


def write_report(stores: Stores, settings: Settings, *, at: datetime) -> dict[str, Any]:
    """Write the report of the 24 hours before `at`, raise the alerts that it calls for, settle those that are over.

    Returns: {"version", "alerts": how many are open, "overdue", "drifting": features, "live": of `live_performance`}.
             Without a champion there is no report, and the alert "no_champion" is open.
    """
    champion = stores.registry.find_champion()
    overdue = stores.monitoring.overdue()
    stuck = stores.monitoring.stuck(before=at - STUCK_AFTER)
    wrong = {
        ("overdue", "worklist"): overdue and f"{overdue} open studies are past their due time.",
        **{
            ("stuck", name): count
            and f"{count} {_STUCK_WORDS[name]} for {STUCK_AFTER.total_seconds() / 3600:.0f} hours."
            for name, count in stuck.items()
        },
        ("no_champion", "registry"): champion is None and "No model is promoted: every study is 'AI unavailable'.",
    }
    live = live_performance(stores.monitoring.final_reads(at - timedelta(days=LIVE_DAYS), at))
    drifting: list[str] = []
    if champion is not None:
        measures = {**_measures(stores, champion.version, at), "live": live}
        points = champion.operating_points
        wrong[("live", "sensitivity")] = _below("sensitivity", live["sensitivity"], points.target_sensitivity)
        wrong[("live", "specificity")] = _below("specificity", live["specificity_urgent"], points.target_specificity)
        drifting = [name for name, row in measures["drift"].items() if row["level"] == "large"]
        wrong[("drift", "champion")] = drifting and (
            f"Scores or inputs have drifted from the training snapshot of version {champion.version}: "
            f"{', '.join(drifting)}."
        )
        stores.monitoring.save_drift_report(
            at.date(), champion.version, {**measures, "overdue": overdue, "stuck": stuck}
        )
    for (kind, subject), sentence in wrong.items():
        if sentence:
            stores.monitoring.raise_alert(kind, subject, sentence)
        else:
            stores.monitoring.settle_alert(kind, subject)
    alerts = stores.monitoring.open_alerts()
    for alert in alerts:
        log.warning("alert, open since %s: %s", f"{alert['raised_at']:%Y-%m-%d %H:%M}", alert["sentence"])
    return {
        "version": champion.version if champion else None,
        "alerts": len(alerts),
        "overdue": overdue,
        "drifting": drifting,
        "live": live,
    }


def _below(name: str, measured: dict[str, Any], target: float) -> str | None:
    """A sentence where final reads exclude that the target is met; None where they do not, or are too few."""
    if measured["value"] is None or measured["high"] >= target:
        return None
    return (
        f"Live {name} is {measured['value']:.3f} ({measured['low']:.3f} to {measured['high']:.3f}, {measured['n']} "
        f"final reads of {LIVE_DAYS} days), and the operating point was chosen for {target:.2f}: look at the studies "
        "that were read otherwise (sql/queries/missed_fractures.sql), and roll back if an earlier version did better."
    )


def _measures(stores: Stores, version: int, at: datetime) -> dict[str, Any]:
    reference = {name: np.asarray(values) for name, values in stores.monitoring.training_facts(version).items()}
    current = {name: np.asarray(values) for name, values in stores.monitoring.live_facts(at).items()}
    reference["score"] = np.asarray(stores.monitoring.training_scores(version))
    current["score"] = np.asarray(stores.monitoring.live_scores(version, at))
    return {
        "drift": summarise(reference, current),
        "median_minutes_to_read": {
            priority: median(minutes) for priority, minutes in stores.monitoring.minutes_to_read(at).items()
        },
    }


def live_performance(final_reads: list[tuple[str, str]]) -> dict[str, Any]:
    """What the AI showed against what people found, with exact 95 % intervals.

    Clopper and Pearson (1934). Below `MIN_FINAL_READS` of a class the figure is None: not enough data, and it is said.

    Args:    final_reads: (what the AI showed, finding) of each study that was read.
    Returns: "final_reads", "with_a_score": of them, "sensitivity" and "specificity" of "urgent or suspicious",
             "specificity_urgent" of "urgent" alone, and "overrides": fractures that were not flagged, and urgent
             studies without one.
    """
    scored = [(shown, finding) for shown, finding in final_reads if shown != AiPriority.UNAVAILABLE]
    positives = [shown for shown, finding in scored if finding == LabelValue.POSITIVE]
    negatives = [shown for shown, finding in scored if finding == LabelValue.NEGATIVE]
    missed, not_urgent = positives.count(AiPriority.BELOW), [shown != AiPriority.URGENT for shown in negatives]
    return {
        "final_reads": len(final_reads),
        "with_a_score": len(scored),
        "sensitivity": _proportion([shown != AiPriority.BELOW for shown in positives]),
        "specificity": _proportion([shown == AiPriority.BELOW for shown in negatives]),
        "specificity_urgent": _proportion(not_urgent),
        "overrides": missed + not_urgent.count(False),
    }


def _proportion(successes: list[bool]) -> dict[str, Any]:
    n = len(successes)
    if n < MIN_FINAL_READS:
        return {"value": None, "low": None, "high": None, "n": n, "note": "not enough data"}
    interval = binomtest(sum(successes), n).proportion_ci(0.95, method="exact")
    return {"value": sum(successes) / n, "low": interval.low, "high": interval.high, "n": n}
