"""The worklist: studies are put on it by urgency, people act on its items, and their final reads become labels.

What leaves here goes to a browser: hashes, facts of images and words; no patient key, object key or file name.
"""

import io
import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from PIL import Image

from fracture_ml.core.errors import ObjectNotFound
from fracture_ml.core.records import AiPriority, Box, LabelValue, Priority, WorklistStatus
from fracture_ml.imaging.decode import decode
from fracture_ml.scoring.place import place_in_words
from fracture_ml.scoring.priority import RankingRules, effective_priority, rank_study
from fracture_ml.steps.limits import decode_limits
from fracture_ml.steps.pictures import read_picture
from fracture_ml.steps.settings import Settings
from fracture_ml.steps.stored import read_stored
from fracture_ml.stores import Stores
from fracture_ml.stores.worklist import STUDIES_PER_STATEMENT, admitted_actions

log = logging.getLogger(__name__)

PICTURE_SIDE_PX = 1600
HIGHLIGHT_COLOUR = (255, 140, 40)
_HIGHLIGHT_OPACITY = 0.6
_OPEN = (WorklistStatus.NEW, WorklistStatus.ACKNOWLEDGED, WorklistStatus.READING, WorklistStatus.REOPENED)
AI_WORDS = {
    AiPriority.URGENT: "urgent",
    AiPriority.SUSPICIOUS: "suspicious",
    AiPriority.BELOW: "no finding flagged",
    AiPriority.UNAVAILABLE: "AI unavailable",
}
# Longer than the DAGs' schedules: a run may be a long one.
_HEARD_OF_WITHIN = {
    "ingest": (timedelta(minutes=40), "No ingest of new radiographs has ended"),
    "scoring": (timedelta(minutes=150), "No scoring run has ended"),
}
_LISTED = (
    *("study_key", "radiograph_id", "body_part", "images", "images_unscored", "ordered_priority"),
    *("arrived_at", "due_at", "status", "holder", "row_version", "score"),
)


def rank_worklist(
    stores: Stores, settings: Settings, *, version: int | None = None, arrivals_only: bool = False
) -> dict[str, int]:
    """Put every study that is new, or that another score, image, body part or setting changed, where it belongs.

    Without a champion the studies are listed as "AI unavailable". What people have reported or closed stays as it is.
    Where the settings say so, a study that came with a label for each of its images is kept off the list.

    Args:    version: whose scores count: those of the run that scored, also when the champion changed meanwhile, so
             that no score disappears before the new champion's is there. None, or a version that was rolled back: the
             champion's. A listed study keeps the version that it shows until this one has an outcome for each of its
             images, and keeps that of a later champion, unless that has none for an image and this one has all. And it
             keeps the one that places it higher, unless that was rolled back, where this one lacks a score.
             arrivals_only: look at new studies and new images alone: they must not wait for the scoring to be listed.
    Returns: counts: ranked, and of them by AI priority; kept_off, where there are any.
    """
    rules = RankingRules(
        prioritisation=settings.prioritisation,
        region_weights=settings.region_weights,
        minutes_stat=settings.minutes_stat,
        minutes_urgent=settings.minutes_urgent,
        minutes_routine=settings.minutes_routine,
    )
    with stores.worklist.ranking_alone():
        if version is None or stores.registry.is_withdrawn(version):
            champion = stores.registry.find_champion()
            version = champion.version if champion else None
        wanted = {
            "later": () if version is None else stores.registry.champions_after(version),
            "ranked_by": rules.id,
            "list_labelled": settings.list_labelled,
        }
        standing = stores.registry.standing()
        counts: Counter[str] = Counter(ranked=0)
        outdated = stores.worklist.outdated(version, arrivals_only=arrivals_only, **wanted)
        for start in range(0, len(outdated), STUDIES_PER_STATEMENT):  # the memory for so many, however long the list
            part = outdated[start : start + STUDIES_PER_STATEMENT]
            found = stores.worklist.studies_to_rank(version, study_keys=part, standing=standing, **wanted)
            kept_off = [study for study in found if study.labelled]
            ranked = [rank_study(study, rules=rules) for study in found if not study.labelled]
            stores.worklist.save_items(ranked)
            if kept_off:
                stores.worklist.keep_off(kept_off)
                counts["kept_off"] += len(kept_off)
            counts["ranked"] += len(ranked)
            counts.update(study.ai_priority.value for study in ranked)
    log.info("studies ranked: %s", dict(counts))
    return dict(counts)


def open_list(stores: Stores, *, limit: int, offset: int = 0) -> dict[str, Any]:
    """The open items, most urgent first; the counts of all of them; the open alerts; what has stopped (`behind`, since
    when); and when this was read."""
    return {
        "items": [
            {**row, "score": None if row["score"] is None else float(row["score"])}  # numeric is text in JSON
            for row in stores.worklist.open_items(limit=limit, offset=offset)
        ],
        "counts": stores.worklist.counts(),
        "alerts": stores.monitoring.open_alerts(),
        "behind": behind(stores),
        "as_of": datetime.now(UTC),
    }


def behind(stores: Stores) -> list[dict[str, Any]]:
    """The steps without which the list is not up to date, and that nobody has heard of for too long.

    Returns: of each "what", a sentence to be ended, and "since": when it last ended well; None: never.
    """
    done, now = stores.monitoring.last_done(), datetime.now(UTC)
    return [
        {"what": what, "since": done.get(step)}
        for step, (within, what) in _HEARD_OF_WITHIN.items()
        if step not in done or now - done[step] > within
    ]


def finished_list(stores: Stores, *, limit: int, offset: int = 0) -> dict[str, Any]:
    """What people reported or closed, the last changed first, in the words of the open list, with the final read."""
    items = []
    for row in stores.worklist.finished_items(limit=limit, offset=offset):
        ai = AiPriority(row["ai_priority"])
        facts = {name: row[name] for name in (*_LISTED, "final_read", "reader", "read_at")}
        items.append({**facts, "priority": _priority_now(row, ai, overdue=False), "ai": AI_WORDS[ai]})
    return {"items": items, "as_of": datetime.now(UTC)}


def item(stores: Stores, study_key: str, *, reader: str) -> dict[str, Any]:
    """One study with its images, its history and what `reader` may do with it now. Raises: UnknownItem."""
    return _for_people(stores, stores.worklist.item_of(study_key), reader, datetime.now(UTC))


def acknowledge(
    stores: Stores,
    study_key: str,
    *,
    actor: str,
    row_version: int,
    finding: str,
    found_at: datetime,
    told_by: str,
    told_to: str,
    told_at: datetime,
    told_how: str,
) -> dict[str, Any]:
    """Record ACR's six fields: what was found and when, who told whom, when it was received, and how.

    Returns: the item as it is now. Raises: UnknownItem, Conflict, NotAllowed.
    """
    details = {
        "finding": finding,
        "found_at": found_at.isoformat(),
        "told_by": told_by,
        "told_to": told_to,
        "told_at": told_at.isoformat(),
        "told_how": told_how,
    }
    return act(stores, study_key, "acknowledge", actor=actor, row_version=row_version, details=details)


def report(
    stores: Stores,
    study_key: str,
    *,
    actor: str,
    row_version: int,
    value: str,
    comment: str = "",
    radiograph_ids: list[int] | None = None,
) -> dict[str, Any]:
    """The final read, which becomes a label of each image that it speaks of.

    Args:   value: positive, negative or uncertain. radiograph_ids: the images that the reader was shown; None: all.
    Raises: UnknownItem, Conflict, HeldByAnother: not while another reader holds it, NotAllowed.
    """
    details = {"value": LabelValue(value).value, "comment": comment, "radiograph_ids": radiograph_ids}
    return act(stores, study_key, "report", actor=actor, row_version=row_version, details=details)


def act(stores: Stores, study_key: str, action: str, *, actor: str, **seen_and_said: Any) -> dict[str, Any]:
    """Change an item by an action of the stores; `acknowledge` and `report`, which say more, come here too.

    Args:    seen_and_said: row_version, of the item that the person saw; details, where the action has some.
    Returns: the item as it is now. Raises: UnknownItem, Conflict, HeldByAnother, NotAllowed.
    """
    row = stores.worklist.act(study_key, action, actor=actor, **seen_and_said)
    return _for_people(stores, row, actor, datetime.now(UTC))


def image_png(stores: Stores, settings: Settings, radiograph_id: int, *, longest_px: int = PICTURE_SIDE_PX) -> bytes:
    """The plain radiograph as an 8-bit grey PNG, its longer side at most `longest_px`.

    Raises: UnknownRadiograph, ObjectNotFound, StorageUnavailable. Altered: another one's would be shown, or a damaged
            one.
    """
    (radiograph,) = stores.radiographs.stored([radiograph_id])
    data = read_stored(stores.bucket, radiograph)
    pixels = decode(data, decode_limits(settings), at_least_px=longest_px, colours_checked=True)  # (H, W)
    picture = Image.fromarray(pixels)
    picture.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    return png_of(picture)


def highlighted_png(stores: Stores, version: int, radiograph_id: int) -> bytes:
    """The radiograph with the AI's attention over it and the caption burnt in, as scoring stored it: to hand on.

    Raises: ObjectNotFound: nothing was highlighted. StorageUnavailable.
    """
    return _stored_picture(stores, version, radiograph_id, "overlay_key")


def overlay_png(stores: Stores, version: int, radiograph_id: int) -> bytes:
    """The AI's attention as a transparent layer to lay over the plain radiograph: RGBA, at the source's aspect.

    It is tinted from the heat map, and not the stored overlay, whose caption and resolution would hide the plain image.

    Raises: ObjectNotFound: nothing was highlighted. StorageUnavailable.
    """
    heat_map = _stored_picture(stores, version, radiograph_id, "heat_map_key")
    attention = Image.open(io.BytesIO(heat_map)).convert("L")
    layer = Image.new("RGBA", attention.size, (*HIGHLIGHT_COLOUR, 0))
    layer.putalpha(attention.point(lambda level: round(level * _HIGHLIGHT_OPACITY)))
    return png_of(layer)


def _stored_picture(stores: Stores, version: int, radiograph_id: int, key_name: str) -> bytes:
    prediction = stores.predictions.prediction_of(version, radiograph_id)
    if prediction is None or prediction[key_name] is None:
        raise ObjectNotFound("The AI highlighted nothing in this image.")
    return read_picture(stores.bucket, prediction[key_name], radiograph_id)


def _for_people(stores: Stores, row: dict[str, Any], reader: str, now: datetime) -> dict[str, Any]:
    """A row of the worklist in the words of the list, with what the page shows `reader` beside it."""
    status, ai = WorklistStatus(row["status"]), AiPriority(row["ai_priority"])
    overdue = status in _OPEN and row["due_at"] < now
    points = None if row["version"] is None else stores.registry.version_of(row["version"]).operating_points
    return {
        **{name: row[name] for name in _LISTED},
        "priority": _priority_now(row, ai, overdue),
        "overdue": overdue,
        "ai": AI_WORDS[ai],
        "model_version": row["version"],
        "operating_points": points,
        "images": len(row["images"]),  # in the row, the images themselves
        "radiographs": [_image_for_people(image) for image in row["images"]],
        "events": row["events"],
        "actions": admitted_actions(status, row["holder"], reader),
    }


def _priority_now(row: dict[str, Any], ai: AiPriority, overdue: bool) -> Priority:
    ordered = Priority(row["ordered_priority"])
    return effective_priority(ordered, ai, raised=row["raised"], prioritised=row["prioritised"], overdue=overdue)


def _image_for_people(image: dict[str, Any]) -> dict[str, Any]:
    outcome = image["prediction"] or {}
    box = outcome.get("box")
    facts = {name: image[name] for name in ("radiograph_id", "width_px", "height_px", "laterality", "view")}
    return {
        **facts,
        "score": outcome.get("calibrated"),
        "operating_point": outcome.get("operating_point"),
        "reason": outcome.get("reason"),
        "version": outcome.get("version"),
        "box": box,
        "place": None if box is None else place_in_words(Box(**box), image["width_px"], image["height_px"]),
        "has_overlay": outcome.get("heat_map_key") is not None,
    }


def png_of(picture: Image.Image) -> bytes:
    """For the page: the network is near, so that time counts and not size."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()
