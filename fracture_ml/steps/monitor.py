"""A day's numbers: drift, live performance from final reads, overdue and stuck work; alerts while it lasts."""

import logging
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import binomtest

from fracture_ml.core.records import AiPriority, LabelValue, ModelVersion
from fracture_ml.evaluation.drift import summarise
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores

log = logging.getLogger(__name__)

STUCK_AFTER = timedelta(hours=12)
QUARANTINE_TOLD_FOR = timedelta(days=14)  # nobody's day off makes it go
MIN_FINAL_READS = 30
LIVE_DAYS = 90  # of final reads that count
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
    now = watch(stores, at=at)
    champion = stores.registry.find_champion()
    reads = stores.monitoring.final_reads(at - timedelta(days=LIVE_DAYS), at)
    live = live_performance(reads if champion is None else _own_where_enough(reads, champion.version))
    drifting: list[str] = []
    if champion is not None:
        measures = {**_measures(stores, champion.version, at), "live": live, "evaluated": _evaluated(stores, champion)}
        drifting = [name for name, row in measures["drift"].items() if row["level"] == "large"]
        drifted = drifting and (
            f"Scores or inputs have drifted from the training snapshot of version {champion.version}: "
            f"{', '.join(drifting)}."
        )
        _raise_or_settle(stores, {("drift", "champion"): drifted, **_too_low(champion, live, measures["evaluated"])})
        stores.monitoring.save_drift_report(at.date(), champion.version, {**measures, **now})
    alerts = stores.monitoring.open_alerts()
    for alert in alerts:
        log.warning("alert, open since %s: %s", f"{alert['raised_at']:%Y-%m-%d %H:%M}", alert["sentence"])
    return {
        "version": champion.version if champion else None,
        "alerts": len(alerts),
        "overdue": now["overdue"],
        "drifting": drifting,
        "live": live,
    }


def watch(stores: Stores, *, at: datetime) -> dict[str, Any]:
    """Raise or settle the alerts of what is so at this hour: overdue studies, work that stands still, no champion,
    objects that could not be used of late (a radiograph among them is on no list), images that could not be scored.

    Returns: {"overdue": open studies past their due time, "stuck": {what: how many}}.
    """
    overdue, stuck = stores.monitoring.overdue(), stores.monitoring.stuck(before=at - STUCK_AFTER)
    quarantined = stores.monitoring.quarantined(since=at - QUARANTINE_TOLD_FOR)
    champion = stores.registry.find_champion()
    unscored = {} if champion is None else stores.monitoring.unscored(champion.version)
    hours = f"{STUCK_AFTER.total_seconds() / 3600:.0f} hours"
    wrong = {
        ("overdue", "worklist"): overdue and f"{overdue} open studies are past their due time.",
        **{("stuck", name): count and f"{count} {_STUCK_WORDS[name]} for {hours}." for name, count in stuck.items()},
        ("quarantine", "inbox"): quarantined
        and f"Of the objects of the last {QUARANTINE_TOLD_FOR.days} days {quarantined} could not be used, and are on "
        "no list: look at fracture.quarantine.",
        ("unscored", "champion"): unscored
        and f"Images of open studies that could not be scored: {sum(unscored.values())} "
        f"({', '.join(f'{code}: {count}' for code, count in unscored.items())}). fracture.prediction has each one's "
        "reason; once that is mended, `fracture score --retry <code>` scores them.",
        ("no_champion", "registry"): champion is None and "No model is promoted: every study is 'AI unavailable'.",
    }
    _raise_or_settle(stores, wrong)
    return {"overdue": overdue, "stuck": stuck}


def _raise_or_settle(stores: Stores, wrong: Mapping[tuple[str, str], Any]) -> None:
    """`wrong`: (kind, subject) -> a sentence, or what is false where all is well."""
    for (kind, subject), sentence in wrong.items():
        if sentence:
            stores.monitoring.raise_alert(kind, subject, sentence)
        else:
            stores.monitoring.settle_alert(kind, subject)


def _too_low(champion: ModelVersion, live: dict[str, Any], evaluated: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """The target of sensitivity holds for studies too; that of specificity is of images, and a study has several."""
    points = champion.operating_points
    sensitivity = max(points.target_sensitivity, evaluated["sensitivity"]["low"] or 0.0)
    specificity = evaluated["specificity_urgent"]["low"] or 0.0
    return {
        ("live", "sensitivity"): _below("sensitivity", live, live["sensitivity"], sensitivity),
        ("live", "specificity"): _below("specificity of urgent", live, live["specificity_urgent"], specificity),
    }


def _own_where_enough(reads: list[dict[str, Any]], version: int) -> list[dict[str, Any]]:
    """The reads of studies that showed this version's score, where they are enough for a figure of each class; else
    all, since a champion of one night has few."""
    own = [read for read in reads if read["version"] == version]
    classes = Counter(read["finding"] for read in own if read["shown"] != AiPriority.UNAVAILABLE)
    enough = min(classes[LabelValue.POSITIVE], classes[LabelValue.NEGATIVE]) >= MIN_FINAL_READS
    return own if enough else reads


def _evaluated(stores: Stores, champion: ModelVersion) -> dict[str, Any]:
    """The same figures of the studies of its locked test split: what final reads are to be held against."""
    return live_performance(
        [
            {
                "version": champion.version,
                "shown": champion.operating_points.place(score).value,
                "finding": (LabelValue.POSITIVE if positive else LabelValue.NEGATIVE).value,
            }
            for score, positive in stores.monitoring.evaluated_studies(champion.version)
        ]
    )


def _below(name: str, live: dict[str, Any], measured: dict[str, Any], least: float) -> str | None:
    """A sentence where final reads exclude that it is `least` or more; None where they do not, or are too few."""
    if measured["value"] is None or measured["high"] >= least:
        return None
    return (
        f"Live {name} is {measured['value']:.3f} ({measured['low']:.3f} to {measured['high']:.3f}, {measured['n']} "
        f"studies read in {LIVE_DAYS} days with scores of version {', '.join(map(str, live['versions']))}), and at "
        f"least {least:.3f} was to be expected: look at sql/queries/missed_fractures.sql, and roll back if an earlier "
        "version did better."
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


def live_performance(reads: list[dict[str, Any]]) -> dict[str, Any]:
    """What the AI showed of studies against what people found, with exact 95 % intervals.

    Clopper and Pearson (1934). Below `MIN_FINAL_READS` of a class the figure is None: not enough data, and it is said.

    Args:    reads: "version", "shown" (urgent, suspicious, below, unavailable) and "finding" of each study.
    Returns: "final_reads", "with_a_score": of them, "versions": whose scores, "sensitivity" and "specificity" of
             "urgent or suspicious", "specificity_urgent" of "urgent" alone, and "overrides": fractures that were not
             flagged, and urgent studies without one.
    """
    scored = [read for read in reads if read["shown"] != AiPriority.UNAVAILABLE]
    positives = [read["shown"] for read in scored if read["finding"] == LabelValue.POSITIVE]
    negatives = [read["shown"] for read in scored if read["finding"] == LabelValue.NEGATIVE]
    not_urgent = [shown != AiPriority.URGENT for shown in negatives]
    return {
        "final_reads": len(reads),
        "with_a_score": len(scored),
        "versions": sorted({read["version"] for read in scored}),
        "sensitivity": _proportion([shown != AiPriority.BELOW for shown in positives]),
        "specificity": _proportion([shown == AiPriority.BELOW for shown in negatives]),
        "specificity_urgent": _proportion(not_urgent),
        "overrides": positives.count(AiPriority.BELOW) + not_urgent.count(False),
    }


def _proportion(successes: list[bool]) -> dict[str, Any]:
    n = len(successes)
    if n < MIN_FINAL_READS:
        return {"value": None, "low": None, "high": None, "n": n, "note": "not enough data"}
    interval = binomtest(sum(successes), n).proportion_ci(0.95, method="exact")
    return {"value": sum(successes) / n, "low": interval.low, "high": interval.high, "n": n}
