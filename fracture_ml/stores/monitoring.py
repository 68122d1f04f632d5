"""What the daily watch reads and writes: live scores and facts against the training's, final reads, alerts."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import Engine

from fracture_ml.stores.database import query, rows_of, to_jsonb, transaction


class MonitoringStore:
    """Days are in UTC; a live day is the 24 hours before a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- what is compared -------------------------------------------------------------------------

    def training_scores(self, version: int) -> list[float]:
        """A version's calibrated scores (0 to 1) on its evaluated split."""
        return self._scores("monitoring_training_scores", version=version)

    def live_scores(self, version: int, until: datetime) -> list[float]:
        """A version's calibrated scores (0 to 1) of the radiographs that were received in the day before `until`."""
        return self._scores("monitoring_live_scores", version=version, until=until)

    def training_facts(self, version: int) -> dict[str, list[Any]]:
        """fact -> one value per radiograph of the version's training split.

        width_px, height_px, size_bytes and bits_stored are numbers; body_part, view, manufacturer, media_type words.
        """
        return self._columns("monitoring_training_facts", version=version)

    def live_facts(self, until: datetime) -> dict[str, list[Any]]:
        """The same facts of the radiographs that were received in the day before `until`."""
        return self._columns("monitoring_live_facts", until=until)

    def final_reads(self, since: datetime, until: datetime) -> list[dict[str, Any]]:
        """version, shown (the AI's priority) and finding of each study whose last final read lies in [since, until)."""
        with transaction(self._engine) as connection:
            return rows_of(connection, "monitoring_final_reads", since=since, until=until)

    def evaluated_studies(self, version: int) -> list[tuple[float, bool]]:
        """(highest calibrated score, whether there is a fracture) of each study of the version's evaluated split."""
        with transaction(self._engine) as connection:
            rows = rows_of(connection, "monitoring_evaluated_studies", version=version)
        return [(row["score"], row["positive"]) for row in rows]

    def minutes_to_read(self, until: datetime) -> dict[str, list[float]]:
        """Ordered priority -> minutes from arrival to the first final read, of studies first read in the day before."""
        minutes: dict[str, list[float]] = {}
        with transaction(self._engine) as connection:
            for row in rows_of(connection, "monitoring_minutes_to_read", until=until):
                minutes.setdefault(row["ordered_priority"], []).append(row["minutes"])
        return minutes

    def overdue(self) -> int:
        """How many open studies are past their due time."""
        with transaction(self._engine) as connection:
            return rows_of(connection, "monitoring_overdue")[0]["overdue"]

    def stuck(self, *, before: datetime) -> dict[str, int]:
        """What has stood still since `before`: held studies, radiographs on no list, versions that were not judged."""
        with transaction(self._engine) as connection:
            return rows_of(connection, "monitoring_stuck", before=before)[0]

    def quarantined(self, *, since: datetime) -> int:
        """How many objects were quarantined since then, and are still."""
        with transaction(self._engine) as connection:
            return rows_of(connection, "monitoring_quarantined", since=since)[0]["quarantined"]

    def unscored(self, champion: int) -> dict[str, int]:
        """code -> how many images of open studies have this reason in place of a score, of the champion or of the
        version that the study shows."""
        with transaction(self._engine) as connection:
            rows = rows_of(connection, "monitoring_unscored", champion=champion)
        return {row["code"]: row["radiographs"] for row in rows}

    def note_done(self, step: str) -> None:
        """This step has done its work to the end, now."""
        with transaction(self._engine) as connection:
            connection.execute(query("step_done"), {"step": step})

    def last_done(self) -> dict[str, datetime]:
        """When each step last did its work to the end; a step that never did is left out."""
        with transaction(self._engine) as connection:
            return {row["step"]: row["done_at"] for row in rows_of(connection, "steps_done")}

    # --- what is said -----------------------------------------------------------------------------

    def save_drift_report(self, day: date, version: int, measures: dict[str, Any]) -> None:
        """A day's numbers; a later run of the same day replaces them."""
        with transaction(self._engine) as connection:
            row = {"day": day, "version": version, "measures": to_jsonb(measures)}
            connection.execute(query("drift_report_save"), row)

    def raise_alert(self, kind: str, subject: str, sentence: str) -> bool:
        """Ask a person to look; an open alert of this kind and subject says this now. Returns: whether it is new."""
        with transaction(self._engine) as connection:
            rows = rows_of(connection, "alert_raise", kind=kind, subject=subject, sentence=sentence)
            return any(row["is_new"] for row in rows)

    def settle_alert(self, kind: str, subject: str) -> bool:
        """It is no longer so. Returns: whether such an alert was open."""
        with transaction(self._engine) as connection:
            return bool(rows_of(connection, "alert_settle", kind=kind, subject=subject))

    def open_alerts(self) -> list[dict[str, Any]]:
        """alert_id, kind, subject, sentence, raised_at; oldest first."""
        with transaction(self._engine) as connection:
            return rows_of(connection, "alerts_open")

    def _scores(self, name: str, **parameters: Any) -> list[float]:
        with transaction(self._engine) as connection:
            return [row["score"] for row in rows_of(connection, name, **parameters)]

    def _columns(self, name: str, **parameters: Any) -> dict[str, list[Any]]:
        with transaction(self._engine) as connection:
            result = connection.execute(query(name), parameters)
            names, rows = list(result.keys()), result.all()
        return {name: [row[place] for row in rows] for place, name in enumerate(names)}
