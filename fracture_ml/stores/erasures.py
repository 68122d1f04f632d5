"""What is taken out for good: one study, or all of one patient's, and the record of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine

from fracture_ml.stores.database import query, rows_of, to_jsonb, transaction
from fracture_ml.stores.predictions import BLOCK_SIZE
from fracture_ml.stores.radiographs import INGEST_LOCK, bring_groups_up_to_date
from fracture_ml.stores.worklist import RANKING_LOCK

_READING_INBOX = "reading the inbox"  # shared by every ingest for as long as it runs


@dataclass(frozen=True, kw_only=True)
class LabelName:
    """By what name a label speaks of its subject, and whom it says that this is: fields of a LabelClaim."""

    subject_kind: str
    subject: str
    scope: str
    patient_key: str | None
    study_key: str | None


@dataclass(frozen=True, kw_only=True)
class Erasable:
    """Everything that is kept of whoever is to be taken out. Names in it may identify a person: never logged."""

    radiograph_ids: tuple[int, ...]
    sha256s: tuple[str, ...]  # of what came in
    stored_keys: tuple[str, ...]  # the de-identified bytes
    study_keys: tuple[str, ...]
    patient_keys: tuple[str, ...]
    others: tuple[int, ...]  # radiographs that are not among these, and that the patient's labels speak of now
    snapshots: tuple[str, ...]  # that hold one of these
    received: tuple[tuple[str, str], ...]  # (key, etag) in the inbox: images, their copies, and what was quarantined
    received_ids: tuple[int, ...]
    label_ids: tuple[int, ...]
    label_names: tuple[LabelName, ...]
    final_reads: int
    pictures: dict[str, tuple[int, ...]]  # object key of heat maps or overlays -> whose
    learned: tuple[dict[str, Any], ...]  # version, split, radiographs: which models were made with them
    near_duplicates: tuple[int, ...]  # radiographs that look the same and belong to others, or to nobody known

    def __bool__(self) -> bool:
        return bool(self.radiograph_ids or self.received_ids or self.label_ids)

    def counts(self) -> dict[str, int]:
        """For people and the record."""
        return {
            "studies": len(self.study_keys),
            "radiographs": len(self.radiograph_ids),
            "inbox_objects": len(self.received),
            "labels": len(self.label_ids),
            "final_reads": self.final_reads,
        }


class ErasureStore:
    """Whoever erases waits for ingests, scoring claims and rankings to end, and they for the erasure."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def none_meanwhile(self) -> Iterator[None]:
        """Nobody is erased while this is open: what an ingest has read before does not come back behind an erasure."""
        with transaction(self._engine) as connection:
            connection.execute(query("lock_shared"), {"purpose": _READING_INBOX})
            yield

    def names(self) -> frozenset[str]:
        """Keyed hashes of all that must not come back."""
        with transaction(self._engine) as connection:
            return frozenset(row["name_hash"] for row in rows_of(connection, "erased_names"))

    def find(
        self, *, study_key: str | None = None, patient_key: str | None = None, object_key: str | None = None
    ) -> Erasable:
        """Everything about whole studies: one, those of a patient, that of an object of the inbox, or all three."""
        with transaction(self._engine) as connection:
            return _find(connection, study_key, patient_key, object_key)

    @contextmanager
    def erasing(
        self,
        *,
        actor: str,
        reason: str,
        hashes_of: Callable[[Erasable], Sequence[str]],
        require: Callable[[Erasable], None],
        study_key: str | None = None,
        patient_key: str | None = None,
        object_key: str | None = None,
    ) -> Iterator[Erasable]:
        """Under all locks: every row about it is deleted, and yields what there was, so that its bytes can be removed.

        All or nothing: where what is done inside fails, the rows stay, and the erasure can be repeated.

        Args:   actor: who does it. reason: why, without a name. hashes_of: what must not come back, keyed.
                require: raises where what was found then must not be erased.
        Raises: DatabaseUnavailable: also where somebody holds one of the locks for five minutes more.
        """
        with transaction(self._engine) as connection:
            connection.execute(query("lock"), {"purpose": _READING_INBOX})
            before = _find(connection, study_key, patient_key, object_key)
            blocks = sorted({id_ // BLOCK_SIZE for id_ in before.radiograph_ids})
            connection.execute(query("prediction_claim_all"), {"blocks": blocks})
            for purpose in (RANKING_LOCK, INGEST_LOCK):  # in the order in which a ranking takes them
                connection.execute(query("lock"), {"purpose": purpose})
            connection.execute(query("worklist_lock_studies"), {"study_keys": [*before.study_keys]})
            found = _find(connection, study_key, patient_key, object_key)  # with what was scored and read until now
            require(found)
            details = found.counts() | {
                "radiograph_ids": found.radiograph_ids,
                "snapshots": found.snapshots,
                "learned": found.learned,
            }
            connection.execute(
                query("erasure_insert"),
                {"actor": actor, "reason": reason, "details": to_jsonb(details), "name_hashes": [*hashes_of(found)]},
            )
            connection.execute(
                query("erasure_delete"),
                {
                    "radiograph_ids": [*found.radiograph_ids],
                    "study_keys": [*found.study_keys],
                    "received_object_ids": [*found.received_ids],
                    "label_ids": [*found.label_ids],
                    "object_keys": [key for key, _ in found.received],
                },
            )
            bring_groups_up_to_date(connection, found.near_duplicates)
            yield found  # the rows could go: now the bytes


def _find(connection: Connection, study_key: str | None, patient_key: str | None, object_key: str | None) -> Erasable:
    asked = {"study_key": study_key, "patient_key": patient_key, "object_key": object_key}
    row = rows_of(connection, "erasure_find", **asked)[0]
    return Erasable(
        radiograph_ids=tuple(image["radiograph_id"] for image in row["radiographs"]),
        sha256s=tuple(image["sha256"] for image in row["radiographs"]),
        stored_keys=tuple(image["object_key"] for image in row["radiographs"]),
        study_keys=tuple(row["study_keys"]),
        patient_keys=tuple(row["patient_keys"]),
        others=tuple(row["others"]),
        snapshots=tuple(row["snapshots"]),
        received=tuple((one["object_key"], one["etag"]) for one in row["received"]),
        received_ids=tuple(one["received_object_id"] for one in row["received"]),
        label_ids=tuple(label["label_id"] for label in row["labels"]),
        label_names=tuple(
            LabelName(**{name: value for name, value in label.items() if name != "label_id"}) for label in row["labels"]
        ),
        final_reads=row["final_reads"],
        pictures={key: tuple(ids) for key, ids in row["pictures"].items()},
        learned=tuple(row["learned"]),
        near_duplicates=tuple(row["near_duplicates"]),
    )
