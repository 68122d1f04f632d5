"""Radiographs, the objects that they came from, and the labels that speak of them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine

from fracture_ml.core.errors import InvalidSettings, UnknownRadiograph
from fracture_ml.core.records import (
    Box,
    Candidate,
    LabelClaim,
    LabelValue,
    MediaType,
    RadiographFacts,
    ReceivedObject,
    StoredRadiograph,
)
from fracture_ml.stores.database import query, rows_of, to_jsonb, transaction
from fracture_ml.stores.labels import add_labels

INGEST_LOCK = "ingest"  # held by all that adds radiographs, changes their facts or freezes them
_ROWS_PER_STATEMENT = 10_000


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A received object that is a radiograph, and whose de-identified bytes are stored already."""

    received: ReceivedObject
    facts: RadiographFacts
    object_key: str  # of the stored bytes, under the hash
    stored_sha256: str  # of the stored bytes
    claims: tuple[LabelClaim, ...] = ()


class RadiographStore:
    """What was received, and what became of it. Every write may be repeated."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- ingest -----------------------------------------------------------------------------------

    def unknown_objects(self, listed: Sequence[ReceivedObject]) -> list[ReceivedObject]:
        """Those of `listed` whose (key, etag) has no outcome yet, in the same order."""
        with transaction(self._engine) as connection:
            known = _known_objects(connection, listed)
        return [received for received in listed if (received.key, received.etag) not in known]

    def require_site_secret(self, fingerprint: str) -> None:
        """Stop who would hash with another secret than before. The first fingerprint stays. Raises: InvalidSettings."""
        with transaction(self._engine) as connection:
            known = rows_of(connection, "site_secret", fingerprint=fingerprint)[0]["fingerprint"]
        if known != fingerprint:
            raise InvalidSettings(
                "FRACTURE_SITE_SECRET is not the one that this database's identities were hashed with: put the old one "
                "back, or the same patient would be another one."
            )

    def attempts_of(self, listed: Sequence[ReceivedObject]) -> dict[ReceivedObject, int]:
        """How often a process began with each of these objects and was killed; those with 0 are left out."""
        with transaction(self._engine) as connection:
            found = {key: row["attempts"] for key, row in _rows_about(connection, "attempts_of", listed)}
        return {one: found[one.key, one.etag] for one in listed if (one.key, one.etag) in found}

    def begin_attempts(self, objects: Sequence[ReceivedObject]) -> None:
        """These objects are about to be looked at: written down, so that it is known whom a kill befell."""
        with transaction(self._engine) as connection:
            connection.execute(query("attempts_begin"), {"rows": _keys_of(objects)})

    def end_attempts(self, objects: Sequence[ReceivedObject]) -> None:
        """Whoever looked at these objects has survived it."""
        with transaction(self._engine) as connection:
            connection.execute(query("attempts_end"), {"rows": _keys_of(objects)})

    def record_quarantined(self, received: ReceivedObject, code: str, sentence: str) -> None:
        """The object cannot be used: `code` for machines, `sentence` for people.

        A label file that was read before, and is back and cannot be read now, keeps its outcome: what held goes on.
        """
        row = _received_row(received, outcome="quarantined", code=code, sentence=sentence)
        with transaction(self._engine) as connection:
            connection.execute(query("lock"), {"purpose": INGEST_LOCK})
            if not rows_of(connection, "received_insert", rows=to_jsonb([row])):
                passed_over = {"object_key": received.key, "etag": received.etag}
                connection.execute(query("label_file_pass_over"), passed_over)

    def retry_quarantined(self, code: str, listed: Sequence[ReceivedObject]) -> int:
        """Take back the outcomes of those of `listed` that were quarantined with this code: they are unknown again.

        What was said of them is kept.

        Returns: how many.
        """
        with transaction(self._engine) as connection:
            return len(rows_of(connection, "received_retry", code=code, rows=_keys_of(listed)))

    def quarantined_with(self, code: str) -> int:
        """How many objects are quarantined with this code."""
        with transaction(self._engine) as connection:
            return rows_of(connection, "quarantined_with", code=code)[0]["objects"]

    def record_labels(self, received: ReceivedObject, claims: Sequence[LabelClaim]) -> dict[str, int]:
        """Store a label file's opinions in the place of what an earlier version of it said; fill what they tell into
        radiographs that are here and in no snapshot.

        Returns: "new": opinions that nobody had told before; "kept_apart": radiographs whose study the file names too
                 late, when they were listed by themselves. Both 0 where the file holds already.
        """
        with transaction(self._engine) as connection:
            connection.execute(query("lock"), {"purpose": INGEST_LOCK})
            row = _received_row(received, outcome="labels", labels_read=len(claims))
            connection.execute(query("received_insert"), {"rows": to_jsonb([row])})
            found = rows_of(connection, "label_file_find", object_key=received.key, etag=received.etag)
            if not found or found[0]["holds"]:
                return {"new": 0, "kept_apart": 0}
            file = {"object_key": received.key, "received_object_id": found[0]["received_object_id"]}
            now = rows_of(connection, "now")[0]["now"]  # at no time does the file say nothing
            connection.execute(query("label_file_replace"), {**file, "told_from": now})
            told_by_it = [(claim, file["received_object_id"]) for claim in claims]
            new = add_labels(connection, told_by_it, told_from=now)
            told = rows_of(connection, "label_subjects_of_key", object_key=received.key)
            ids = [row["radiograph_id"] for row in told]
            _bring_up_to_labels(connection, ids)
            apart = rows_of(connection, "radiograph_kept_apart", radiograph_ids=ids)[0]["radiographs"]
            return {"new": new, "kept_apart": apart}

    def record_radiographs(self, arrivals: Sequence[Arrival], *, near_duplicate_bits: int) -> dict[str, int]:
        """Store a batch of arrivals in one transaction; one batch at a time, whoever sends it.

        Bytes that are here already, or came earlier in the batch, make a copy. The near duplicate of a radiograph is
        the nearest earlier one whose perceptual hash differs in at most `near_duplicate_bits` of 64 bits.

        Returns: how many objects became a "radiograph" and how many a "copy"; those recorded before are not counted.
        """
        with transaction(self._engine) as connection:
            connection.execute(query("lock"), {"purpose": INGEST_LOCK})
            known = _known_objects(connection, [arrival.received for arrival in arrivals])
            batch = {}
            for arrival in arrivals:
                if (arrival.received.key, arrival.received.etag) not in known:
                    batch.setdefault((arrival.received.key, arrival.received.etag), arrival)
            new = _first_of_their_bytes(connection, list(batch.values()))
            if again := [one for one in arrivals if one.facts.sha256 not in new]:
                hashes = [{"sha256": one.facts.sha256, "stored_sha256": one.stored_sha256} for one in again]
                connection.execute(query("radiograph_stored_again"), {"rows": to_jsonb(hashes)})
            if new:
                _insert_radiographs(connection, list(new.values()), near_duplicate_bits)
            rows = [
                _received_row(
                    arrival.received,
                    outcome="radiograph" if new.get(arrival.facts.sha256) is arrival else "copy",
                    sha256=arrival.facts.sha256,
                )
                for arrival in batch.values()
            ]
            ids = {
                (row["object_key"], row["etag"]): row["received_object_id"]
                for row in rows_of(connection, "received_insert", rows=to_jsonb(rows))
            }
            add_labels(connection, [(claim, ids[key]) for key, arrival in batch.items() for claim in arrival.claims])
            touched = sorted({arrival.facts.sha256 for arrival in batch.values()})
            found = rows_of(connection, "radiograph_ids", sha256s=touched)
            _bring_up_to_labels(connection, [row["radiograph_id"] for row in found])
        return dict(Counter(row["outcome"] for row in rows))

    # --- what is here -----------------------------------------------------------------------------

    def candidates(self, *, as_of: datetime) -> list[Candidate]:
        """Radiographs with a standing label, received and labelled by `as_of`, sorted by sha256."""
        with transaction(self._engine) as connection:
            rows = rows_of(connection, "candidates", as_of=as_of)
        return [
            Candidate(**{**row, "label": LabelValue(row["label"]), "boxes": boxes_of(row["boxes"])}) for row in rows
        ]

    def newest_id(self) -> int:
        """The id of the newest radiograph; 0 where there is none."""
        with transaction(self._engine) as connection:
            return rows_of(connection, "radiograph_newest")[0]["radiograph_id"]

    def stored(self, radiograph_ids: Sequence[int]) -> list[StoredRadiograph]:
        """Where these radiographs' bytes are, and what they are, in the order asked. Raises: UnknownRadiograph."""
        rows = self._about("radiographs_stored", radiograph_ids)
        return [
            StoredRadiograph(radiograph_id=id_, **{**rows[id_], "media_type": MediaType(rows[id_]["media_type"])})
            for id_ in radiograph_ids
        ]

    def some_others(self, radiograph_id: int) -> list[str]:
        """The object keys of a few radiographs beside this one, old and new ones."""
        with transaction(self._engine) as connection:
            rows = rows_of(connection, "radiographs_some_others", radiograph_id=radiograph_id)
        return [row["object_key"] for row in rows]

    def received_as(self, radiograph_ids: Sequence[int]) -> dict[int, list[str]]:
        """The keys under which each of these came into the inbox, the first one first. They may name a person."""
        keys: dict[int, list[str]] = {id_: [] for id_ in radiograph_ids}
        with transaction(self._engine) as connection:
            for row in rows_of(connection, "received_of_radiographs", radiograph_ids=list(radiograph_ids)):
                keys[row["radiograph_id"]].append(row["object_key"])
        return keys

    def subgroups_of(self, radiograph_ids: Sequence[int]) -> dict[int, dict[str, str]]:
        """Body part, view, hardware, sex, age band, manufacturer, media type, size band. Raises: UnknownRadiograph."""
        return self._about("radiograph_subgroups", radiograph_ids)

    def file_facts_of(self, radiograph_ids: Sequence[int]) -> dict[int, dict[str, float]]:
        """Facts of the file that are not the bone, as numbers. Raises: UnknownRadiograph."""
        rows = self._about("radiograph_file_facts", radiograph_ids)
        return {id_: {name: float(value) for name, value in row.items()} for id_, row in rows.items()}

    def sizes_of(self, radiograph_ids: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Width and height in pixels of the whole image. Raises: UnknownRadiograph."""
        facts = self.file_facts_of(radiograph_ids)
        return {id_: (int(of["width_px"]), int(of["height_px"])) for id_, of in facts.items()}

    def counts(self) -> dict[str, Any]:
        """What became of everything received: the columns of sql/queries/counts.sql."""
        with transaction(self._engine) as connection:
            return rows_of(connection, "counts")[0]

    def _about(self, name: str, radiograph_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        with transaction(self._engine) as connection:
            rows = rows_of(connection, name, radiograph_ids=list(radiograph_ids))
        found = {row.pop("radiograph_id"): row for row in rows}
        if missing := set(radiograph_ids) - set(found):
            raise UnknownRadiograph(
                f"There is no radiograph {min(missing)} ({len(missing)} of those asked are missing): look at "
                "fracture.radiograph."
            )
        return found


def boxes_of(drawn: Sequence[dict[str, float]]) -> tuple[Box, ...]:
    """The boxes of a jsonb column."""
    return tuple(Box(**box) for box in drawn)


def _known_objects(connection: Connection, listed: Sequence[ReceivedObject]) -> set[tuple[str, str]]:
    return {key for key, _ in _rows_about(connection, "received_known", listed)}


def _rows_about(
    connection: Connection, name: str, listed: Sequence[ReceivedObject]
) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """((key, etag), row) of what the query of this name returns of those listed, however many they are."""
    for start in range(0, len(listed), _ROWS_PER_STATEMENT):
        for row in rows_of(connection, name, rows=_keys_of(listed[start : start + _ROWS_PER_STATEMENT])):
            yield (row["object_key"], row["etag"]), row


def _keys_of(listed: Sequence[ReceivedObject]) -> str:
    return to_jsonb([{"object_key": one.key, "etag": one.etag} for one in listed])


def _first_of_their_bytes(connection: Connection, arrivals: Sequence[Arrival]) -> dict[str, Arrival]:
    """sha256 -> the first arrival with these bytes, for bytes that are not here yet."""
    sha256s = [arrival.facts.sha256 for arrival in arrivals]
    known = {row["sha256"] for row in rows_of(connection, "radiograph_ids", sha256s=sha256s)}
    first: dict[str, Arrival] = {}
    for arrival in arrivals:
        if arrival.facts.sha256 not in known:
            first.setdefault(arrival.facts.sha256, arrival)
    return first


def _insert_radiographs(connection: Connection, arrivals: Sequence[Arrival], near_duplicate_bits: int) -> None:
    packed = rows_of(connection, "radiograph_hashes")[0]
    known_ids = np.frombuffer(packed["ids"] or b"", dtype=">i8")  # (known,)
    known_hashes = np.frombuffer(packed["hashes"] or b"", dtype=">u8").astype(np.uint64)  # (known,)
    known_clusters = np.frombuffer(packed["clusters"] or b"", dtype=">i8")  # (known,)
    rows = [
        vars(arrival.facts)
        | {
            "object_key": arrival.object_key,
            "stored_sha256": arrival.stored_sha256,
            "perceptual_hash": _as_signed(arrival.facts.perceptual_hash),
            "modified_at": arrival.received.modified_at,
        }
        for arrival in arrivals
    ]
    inserted = rows_of(connection, "radiograph_insert", rows=to_jsonb(rows))
    id_of = {row["sha256"]: row["radiograph_id"] for row in inserted}
    new_ids = np.array([id_of[arrival.facts.sha256] for arrival in arrivals], dtype=np.int64)  # (arrivals,)
    new_hashes = np.array([arrival.facts.perceptual_hash for arrival in arrivals], dtype=np.uint64)  # (arrivals,)
    ids, clusters = np.concatenate([known_ids, new_ids]), np.concatenate([known_clusters, new_ids])
    before = clusters.copy()
    nearest_of = _put_into_clusters(
        clusters, np.concatenate([known_hashes, new_hashes]), len(known_hashes), near_duplicate_bits
    )
    links = [
        {
            "radiograph_id": ids[place],
            "near_duplicate_of": ids[nearest_of[place]] if place in nearest_of else None,
            "cluster_id": clusters[place],
        }
        for place in np.flatnonzero(clusters != before).tolist()
    ]
    connection.execute(query("radiograph_mark_near_duplicates"), {"rows": to_jsonb(links)})


def _put_into_clusters(
    clusters: np.ndarray, hashes: np.ndarray, first: int, near_duplicate_bits: int
) -> dict[int, int]:
    """Put what stands from place `first` on into the clusters of all that it is near to, which become one.

    Args:    clusters: int64, (N,), the id of the first picture of each one's cluster; changed in place. hashes: uint64,
             (N,), oldest first.
    Returns: place -> the place of the nearest earlier picture, the oldest of equals, where one is near.
    """
    nearest_of: dict[int, int] = {}
    for place in range(max(first, 1), len(hashes)):
        distances = np.bitwise_count(hashes[:place] ^ hashes[place])  # (place,)
        near = np.flatnonzero(distances <= near_duplicate_bits)
        if len(near):
            nearest_of[place] = int(near[distances[near].argmin()])
            joined = np.unique(clusters[near])
            clusters[place] = joined[0]
            if len(joined) > 1:
                clusters[np.isin(clusters, joined)] = joined[0]
    return nearest_of


def _as_signed(perceptual_hash: int) -> int:
    """Postgres's bigint is signed: the same 64 bits."""
    return perceptual_hash - (1 << 64) if perceptual_hash >= 1 << 63 else perceptual_hash


def _bring_up_to_labels(connection: Connection, radiograph_ids: Sequence[int]) -> None:
    """Facts, groups, and whether the study is kept off the worklist."""
    connection.execute(query("worklist_look_again"), {"radiograph_ids": list(radiograph_ids)})
    connection.execute(query("radiograph_fill_facts"), {"radiograph_ids": list(radiograph_ids)})
    bring_groups_up_to_date(connection, radiograph_ids)


def bring_groups_up_to_date(connection: Connection, radiograph_ids: Sequence[int]) -> None:
    """Theirs, and those of what nearly repeats them, by what is known now; under the ingest's lock."""
    changed = list(radiograph_ids)
    while changed:
        changed = [row["radiograph_id"] for row in rows_of(connection, "radiograph_regroup", radiograph_ids=changed)]


def _received_row(received: ReceivedObject, *, outcome: str, **facts: Any) -> dict[str, Any]:
    return {
        "object_key": received.key,
        "etag": received.etag,
        "size_bytes": received.size_bytes,
        "outcome": outcome,
        **facts,
    }
