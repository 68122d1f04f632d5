"""The worklist: one item per study, who holds it, and what was found."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine

from fracture_ml.core.errors import Conflict, HeldByAnother, NotAllowed, UnknownItem
from fracture_ml.core.records import (
    BodyPart,
    LabelClaim,
    LabelSource,
    LabelValue,
    OperatingPoint,
    Priority,
    RankedStudy,
    StudyToRank,
    WorklistStatus,
)
from fracture_ml.stores.database import query, rows_of, to_jsonb, transaction
from fracture_ml.stores.labels import add_labels
from fracture_ml.stores.radiographs import INGEST_LOCK

RANKING_LOCK = "ranking"  # held by whoever ranks, from what is read to what is saved
_NEW, _ACKNOWLEDGED, _READING = WorklistStatus.NEW, WorklistStatus.ACKNOWLEDGED, WorklistStatus.READING
_REPORTED, _CLOSED, _REOPENED = WorklistStatus.REPORTED, WorklistStatus.CLOSED, WorklistStatus.REOPENED

_NOT_LISTED = "There is no such study on the worklist: read the list again."
_CHANGED_MEANWHILE = "Somebody else changed this item: look at it again, then repeat."
STUDIES_PER_STATEMENT = 10_000


@dataclass(frozen=True, kw_only=True)
class _Action:
    """From which statuses an action is allowed, and what it leaves behind."""

    allowed_from: tuple[WorklistStatus, ...]
    status: WorklistStatus
    event: str
    holds: bool = False  # whether the actor holds the item afterwards
    takes_over: bool = False  # of an item that somebody else holds, which admits nothing else


# The one home of what may be done when; most usual first.
_ACTIONS = {
    "acknowledge": _Action(allowed_from=(_NEW, _REOPENED), status=_ACKNOWLEDGED, event="acknowledged", holds=True),
    "start_reading": _Action(
        allowed_from=(_NEW, _ACKNOWLEDGED, _REOPENED), status=_READING, event="reading", holds=True
    ),
    "take_over": _Action(
        allowed_from=(_ACKNOWLEDGED, _READING), status=_READING, event="reading", holds=True, takes_over=True
    ),
    "report": _Action(allowed_from=(_NEW, _ACKNOWLEDGED, _READING, _REOPENED), status=_REPORTED, event="reported"),
    "close": _Action(allowed_from=(_REPORTED,), status=_CLOSED, event="closed"),
    "reopen": _Action(allowed_from=(_REPORTED, _CLOSED), status=_REOPENED, event="reopened"),
    "release": _Action(allowed_from=(_ACKNOWLEDGED, _READING), status=_NEW, event="released"),
}


def admitted_actions(status: WorklistStatus, holder: str | None, actor: str) -> list[str]:
    """What `actor` may do with an item in this status that `holder` (None: nobody) holds; most usual first."""
    held_by_another = holder is not None and holder != actor
    return [
        name
        for name, action in _ACTIONS.items()
        if status in action.allowed_from and action.takes_over == held_by_another
    ]


class WorklistStore:
    """Ranking never touches what people reported or closed; people's changes are refused when somebody was first."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- ranking ----------------------------------------------------------------------------------

    @contextmanager
    def ranking_alone(self) -> Iterator[None]:
        """Meanwhile nobody else ranks: what was read to rank by is still so when it is saved."""
        with transaction(self._engine) as connection:
            connection.execute(query("lock"), {"purpose": RANKING_LOCK})
            yield

    def outdated(
        self,
        version: int | None,
        *,
        later: Sequence[int] = (),
        ranked_by: str = "",
        list_labelled: bool = True,
        arrivals_only: bool = False,
    ) -> list[str]:
        """Keys of the studies that `studies_to_rank` may find something to do for, told apart by counts."""
        wanted = _wanted(version, later, ranked_by, list_labelled)
        with transaction(self._engine) as connection:
            rows = rows_of(connection, "worklist_outdated", arrivals_only=arrivals_only, **wanted)
        return [row["study_key"] for row in rows]

    def studies_to_rank(
        self,
        version: int | None,
        *,
        study_keys: Sequence[str] | None = None,
        later: Sequence[int] = (),
        standing: Sequence[int] = (),
        ranked_by: str = "",
        list_labelled: bool = True,
        arrivals_only: bool = False,
    ) -> list[StudyToRank]:
        """Studies that are not listed yet, have a new image or a body part that was not known, show other scores than
        those of `version`, or were placed by other rules than `ranked_by`.

        Args: study_keys: of which studies; None: all that are outdated.
              later: champions that came after `version`: what they have all outcomes of stays theirs.
              standing: champions that were not rolled back: what one of them places higher stays its own where
                  `version` has a reason in place of a score.
              list_labelled: False: `labelled` says which of them were read elsewhere; those that were kept off the list
                  are left out until they have a further image.
              arrivals_only: leave out all but what is not listed yet or has a new image.
        """
        if study_keys is None:
            study_keys = self.outdated(
                version, later=later, ranked_by=ranked_by, list_labelled=list_labelled, arrivals_only=arrivals_only
            )
        wanted = _wanted(version, later, ranked_by, list_labelled) | {"standing": list(standing)}
        rows: list[dict[str, Any]] = []
        with transaction(self._engine) as connection:
            # The keys are passed as values: as a subquery Postgres does not see how few they are, and reads all images.
            for start in range(0, len(study_keys), STUDIES_PER_STATEMENT):
                part = list(study_keys[start : start + STUDIES_PER_STATEMENT])
                rows += rows_of(connection, "worklist_studies_to_rank", study_keys=part, **wanted)
        return [_study_to_rank(row) for row in sorted(rows, key=lambda row: row["first_radiograph_id"])]

    def keep_off(self, studies: Sequence[StudyToRank]) -> None:
        """Remember that these studies, while all their images are labelled, are not to be listed."""
        rows = to_jsonb([{"study_key": study.study_key, "images": study.images} for study in studies])
        with transaction(self._engine) as connection:
            connection.execute(query("lock"), {"purpose": INGEST_LOCK})  # no label changes meanwhile
            connection.execute(query("worklist_keep_off"), {"rows": rows})

    def save_items(self, items: Sequence[RankedStudy]) -> int:
        """List or re-rank studies, each change with its event. Returns: how many rows changed.

        A study that people reported or closed stays as it is, unless it has a new image: then it is reopened.
        """
        changed = 0
        for start in range(0, len(items), STUDIES_PER_STATEMENT):
            rows = to_jsonb(items[start : start + STUDIES_PER_STATEMENT])
            with transaction(self._engine) as connection:
                connection.execute(query("lock"), {"purpose": INGEST_LOCK})  # no label moves an image meanwhile
                connection.execute(query("worklist_reopen_late"), {"rows": rows})
                changed += len(rows_of(connection, "worklist_save", rows=rows))
                connection.execute(query("worklist_note_rules"), {"rows": rows})
        return changed

    # --- what people see --------------------------------------------------------------------------

    def open_items(self, *, limit: int = 200, offset: int = 0) -> list[dict[str, Any]]:
        """The rows of fracture.worklist_open, most urgent first."""
        with transaction(self._engine) as connection:
            return rows_of(connection, "worklist_open", max_rows=limit, skip_rows=offset)

    def finished_items(self, *, limit: int = 200, offset: int = 0) -> list[dict[str, Any]]:
        """What people reported or closed, the last changed first: the columns of fracture.worklist, and the last final
        read: final_read, reader, read_at."""
        with transaction(self._engine) as connection:
            return rows_of(connection, "worklist_finished", max_rows=limit, skip_rows=offset)

    def item_of(self, study_key: str) -> dict[str, Any]:
        """A study's row, with `images` (facts, keys, `prediction` or None) and `events`. Raises: UnknownItem."""
        with transaction(self._engine) as connection:
            return _item_of(connection, study_key)

    def study_key_of(self, beginning: str) -> str:
        """The key of the one listed study whose key begins so. Raises: UnknownItem: none does, or several do."""
        with transaction(self._engine) as connection:
            found = rows_of(connection, "worklist_keys_beginning", beginning=beginning)
        if len(found) != 1:
            how_many = "Several studies on the worklist begin" if found else "No study on the worklist begins"
            raise UnknownItem(f"{how_many} so: give its whole key, as the page's address shows it.")
        return found[0]["study_key"]

    def counts(self) -> dict[str, Any]:
        """open, overdue, by_priority, by_ai (open items), by_status (all)."""
        with transaction(self._engine) as connection:
            return rows_of(connection, "worklist_counts")[0]

    # --- what people do ---------------------------------------------------------------------------

    def act(
        self, study_key: str, action: str, *, actor: str, row_version: int, details: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Change an item's status on behalf of `actor`, who saw it at `row_version`; one transaction.

        Args:    action: acknowledge (details: ACR's fields finding, found_at, told_by, told_to, told_at, told_how),
                     start_reading, take_over, report (details: value positive, negative or uncertain; radiograph_ids
                     that were shown, else all), close, reopen, release (of one that was read once: reopened again).
        Returns: the item as `item_of` does.
        Raises:  UnknownItem; Conflict: somebody changed it meanwhile; HeldByAnother: take it over first; NotAllowed:
                 not in this status, or no such action or finding. Nothing is changed then.
        """
        if action not in _ACTIONS:
            raise NotAllowed(f"There is no such action; there are {', '.join(_ACTIONS)}.")
        wanted, details = _ACTIONS[action], dict(details or {})
        if action == "report" and details.get("value") not in (
            LabelValue.POSITIVE,
            LabelValue.NEGATIVE,
            LabelValue.UNCERTAIN,
        ):
            raise NotAllowed("A final read says positive, negative or uncertain.")
        with transaction(self._engine) as connection:
            rows = rows_of(connection, "worklist_lock_item", study_key=study_key)
            if not rows:
                raise UnknownItem(_NOT_LISTED)
            item = rows[0]
            _require_allowed(item, action, wanted, actor, row_version)
            status, images_read = wanted.status, None
            if action == "release" and _was_read(connection, study_key):
                status = _REOPENED
            if action == "report":
                details |= {
                    name: item[name] for name in ("score", "ai_priority", "version", "radiograph_id", "body_part")
                }
                seen = _images_read(connection, study_key, details.get("radiograph_ids"))
                details["radiograph_ids"] = [image["radiograph_id"] for image in seen]
                read_at = datetime.now(UTC)
                images_read = len(seen)
                labels = [_final_read(image["sha256"], details["value"], actor, read_at) for image in seen]
                add_labels(connection, [(label, None) for label in labels])
            if wanted.takes_over:
                details["taken_over_from"] = item["holder"]
            changed = {
                "status": status,
                "images": images_read,
                "holder": actor if wanted.holds else None,
                "event": wanted.event,
                "actor": actor,
                "details": to_jsonb(details),
            }
            seen_at = {"study_key": study_key, "row_version": row_version}
            if not rows_of(connection, "worklist_change_status", **seen_at, **changed):
                raise Conflict(_CHANGED_MEANWHILE)
            return _item_of(connection, study_key)


def _require_allowed(item: dict[str, Any], action: str, wanted: _Action, actor: str, row_version: int) -> None:
    if item["row_version"] != row_version:
        raise Conflict(_CHANGED_MEANWHILE)
    if item["status"] not in wanted.allowed_from:
        allowed = ", ".join(wanted.allowed_from)
        raise NotAllowed(f"An item that is {item['status']} does not admit {action}: it must be {allowed}.")
    if item["holder"] == actor and wanted.takes_over:
        raise NotAllowed("You hold this item already.")
    if item["holder"] not in (None, actor) and not wanted.takes_over:
        raise HeldByAnother("Somebody else holds this item: take it over first, or wait until they release it.")


def _was_read(connection: Connection, study_key: str) -> bool:
    return any(event["event"] == "reported" for event in rows_of(connection, "worklist_events", study_key=study_key))


def _images_read(connection: Connection, study_key: str, radiograph_ids: Sequence[int] | None) -> list[dict[str, Any]]:
    """radiograph_id and sha256 of the study's images that were shown; of all where that is not said."""
    images = rows_of(connection, "study_radiographs", study_key=study_key)
    return [image for image in images if radiograph_ids is None or image["radiograph_id"] in radiograph_ids]


def _final_read(sha256: str, value: str, reader: str, read_at: datetime) -> LabelClaim:
    """Of an image, and not of the study: one that comes later was not read."""
    return LabelClaim(
        subject_kind="sha256",
        subject=sha256,
        value=LabelValue(value),
        source=LabelSource.RADIOLOGIST,
        reader=reader,
        labelled_at=read_at,
    )


def _item_of(connection: Connection, study_key: str) -> dict[str, Any]:
    rows = rows_of(connection, "worklist_item", study_key=study_key)
    if not rows:
        raise UnknownItem(_NOT_LISTED)
    images = rows_of(connection, "worklist_images", study_key=study_key)
    return {**rows[0], "images": images, "events": rows_of(connection, "worklist_events", study_key=study_key)}


def _wanted(version: int | None, later: Sequence[int], ranked_by: str, list_labelled: bool) -> dict[str, Any]:
    return {"version": version, "later": list(later), "ranked_by": ranked_by, "list_labelled": list_labelled}


def _study_to_rank(row: dict[str, Any]) -> StudyToRank:
    return StudyToRank(
        **{
            **row,
            "ordered_priority": Priority(row["ordered_priority"]),
            "body_parts": tuple(BodyPart(part) for part in row["body_parts"]),
            "scores": tuple((id_, score, OperatingPoint(point)) for id_, score, point in row["scores"]),
        }
    )
