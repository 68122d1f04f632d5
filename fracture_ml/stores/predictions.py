"""Exactly one outcome per radiograph and model version."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine

from fracture_ml.core.records import Box, MediaType, OperatingPoint, StoredRadiograph
from fracture_ml.stores.database import query, rows_of, to_jsonb, transaction

BLOCK_SIZE = 256  # radiograph ids; what one worker claims, scores and commits at a time

_MARK = "scoring progress"


@dataclass(frozen=True, kw_only=True)
class PredictionRow:
    """A probability, or the reason why there is none; never both, never neither."""

    radiograph_id: int
    probability: float | None = None
    reason: str | None = None
    calibrated: float | None = None
    operating_point: OperatingPoint | None = None
    heat_map_key: str | None = None
    overlay_key: str | None = None
    box: Box | None = None  # in source pixels


class Claim:
    """A block of radiographs that nobody else scores while this transaction is open."""

    def __init__(self, connection: Connection, version: int, block: int) -> None:
        self._connection = connection
        self._version = version
        self._part = {"version": version, "first": block * BLOCK_SIZE, "last": (block + 1) * BLOCK_SIZE - 1}

    def due(self, only: Sequence[int] | None = None) -> list[StoredRadiograph]:
        """The block's radiographs without an outcome, oldest first. only: these ids; None: all."""
        rows = rows_of(self._connection, "prediction_due", **self._part)
        due = [StoredRadiograph(**{**row, "media_type": MediaType(row["media_type"])}) for row in rows]
        return due if only is None else [radiograph for radiograph in due if radiograph.radiograph_id in only]

    def pictures(self) -> set[str]:
        """Keys of the objects with the block's pictures, of those of its radiographs that have an outcome."""
        return {row["object_key"] for row in rows_of(self._connection, "prediction_block_pictures", **self._part)}

    def require_held(self) -> None:
        """Nothing, while the claim's connection lives. Raises: DatabaseUnavailable: the block may be another's now."""
        rows_of(self._connection, "now")

    def save(self, rows: Sequence[PredictionRow]) -> int:
        """Write outcomes in bulk; they are there when the claim ends. Returns: how many are new."""
        return _save(self._connection, self._version, rows)


class PredictionStore:
    """What is to do is the absence of a row; an outcome that is here stands."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def due_ranges(self, version: int, *, batch_size: int, through: int | None = None) -> list[tuple[int, int]]:
        """(first, last) radiograph ids of ranges, newest first, with at most `batch_size` that have no outcome yet.

        Args: through: the newest radiograph id to look at; None: all.
        """
        part = {"batch_size": batch_size, "through": through}
        with transaction(self._engine) as connection:
            part |= rows_of(connection, "scoring_progress_of", version=version)[0]
            rows = rows_of(connection, "prediction_due_ranges", version=version, **part)
        return [(row["first"], row["last"]) for row in rows]

    def due_blocks(self, version: int, *, first: int, last: int) -> list[int]:
        """Blocks (id // BLOCK_SIZE) with a radiograph from id `first` to `last` that has no outcome, newest first."""
        return [row["block"] for row in self._due("prediction_due_blocks", version, first, last, block_size=BLOCK_SIZE)]

    def due_siblings(self, version: int, *, first: int, last: int) -> dict[int, list[int]]:
        """block -> those of its radiographs that have no outcome, of studies of which another image is due from `first`
        to `last`. They lie outside of that range: a late view's older images, while a version scores an archive."""
        siblings: dict[int, list[int]] = {}
        for row in self._due("prediction_siblings", version, first, last):
            siblings.setdefault(row["radiograph_id"] // BLOCK_SIZE, []).append(row["radiograph_id"])
        return siblings

    def _due(self, name: str, version: int, first: int, last: int, **parameters: int) -> list[dict[str, Any]]:
        with transaction(self._engine) as connection:
            progress = rows_of(connection, "scoring_progress_of", version=version)[0]
            return rows_of(connection, name, version=version, first=first, last=last, **progress, **parameters)

    @contextmanager
    def claim(self, version: int, block: int) -> Iterator[Claim | None]:
        """The block, for this transaction alone; None where another worker holds it. Waits for nobody.

        Committed at the end; any error, and the death of the process or of its connection, lets go of it.
        Raises: DatabaseUnavailable, DatabaseRefused, also of what is done inside.
        """
        with transaction(self._engine) as connection:
            claimed = rows_of(connection, "prediction_claim", version=version, block=block)[0]["claimed"]
            yield Claim(connection, version, block) if claimed else None

    def save(self, version: int, rows: Sequence[PredictionRow]) -> int:
        """Write outcomes in bulk. Returns: how many are new; the first outcome of a radiograph stands.

        Raises: DatabaseRefused: a row with both a probability and a reason, or with neither; nothing is written.
        """
        with transaction(self._engine) as connection:
            return _save(connection, version, rows)

    def reconcile(self, version: int, *, through: int | None = None) -> dict[str, int]:
        """radiographs, scored, rejected, missing, up to the id `through` (None: all); remembers how far it is complete.

        Radiographs get their ids one batch after the other (the ingest lock), so that none can appear below that mark.
        """
        with transaction(self._engine) as connection:
            connection.execute(query("lock"), {"purpose": _MARK})  # no outcome is taken back meanwhile
            found = rows_of(connection, "prediction_reconcile", version=version, through=through)[0]
            first_missing, newest = found.pop("first_missing"), found.pop("newest")
            if newest is not None:
                mark = newest if first_missing is None else first_missing - 1
                connection.execute(query("scoring_progress_advance"), {"version": version, "complete_up_to": mark})
        return found

    def retry(self, version: int, code: str) -> int:
        """Take back the version's outcomes that are a reason with this code, so that the radiographs are due again.

        Studies that people have reported or closed are left as they were read. What was taken back, and when, stays in
        fracture.retried_prediction. Returns: how many.
        """
        with transaction(self._engine) as connection:
            connection.execute(query("lock"), {"purpose": _MARK})
            noted = rows_of(connection, "prediction_note_retried", version=version, code=code)
            ids = [row["radiograph_id"] for row in noted]
            if ids:
                taken_back = {"version": version, "radiograph_ids": ids}
                connection.execute(query("prediction_take_back"), taken_back)
                connection.execute(query("scoring_progress_go_back"), {"version": version, "due_from": min(ids)})
        return len(ids)

    def missing(self, version: int, *, through: int | None = None, limit: int) -> list[int]:
        """The first radiographs, up to the id `through` (None: all), that have no outcome of the version."""
        part = {"version": version, "through": through, "max_rows": limit}
        with transaction(self._engine) as connection:
            return [row["radiograph_id"] for row in rows_of(connection, "prediction_missing", **part)]

    def pictures_shown(self, version: int) -> set[str]:
        """Keys of the objects with those pictures of the version that the worklist shows, also of closed studies."""
        with transaction(self._engine) as connection:
            return {row["object_key"] for row in rows_of(connection, "prediction_pictures_shown", version=version)}

    def prediction_of(self, version: int, radiograph_id: int) -> dict[str, Any] | None:
        """The outcome of one radiograph by one version: the columns of fracture.prediction."""
        with transaction(self._engine) as connection:
            rows = rows_of(connection, "prediction_of", version=version, radiograph_id=radiograph_id)
        return rows[0] if rows else None


def _save(connection: Connection, version: int, rows: Sequence[PredictionRow]) -> int:
    return len(rows_of(connection, "prediction_insert", version=version, rows=to_jsonb(rows)))
