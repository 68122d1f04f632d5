"""Model versions: immutable rows, and the history of what was done with them. The champion is the newest promotion."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine

from fracture_ml.core.errors import AlreadyPromoted, NoChampion, NotAllowed, StaleVerdict, UnknownVersion
from fracture_ml.core.records import EvaluationScore, ModelVersion, OperatingPoints, Split, Verdict
from fracture_ml.stores.database import query, rows_of, to_jsonb, transaction

_LOCK = "registry"
_GATE = "gate"


class Registry:
    """Every version, its scores on the locked test split, and its events."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- versions ---------------------------------------------------------------------------------

    def register(
        self,
        *,
        snapshot_id: str,
        recipe_id: str,
        recipe: dict[str, Any],
        study_name: str | None,
        bundle_key: str,
        bundle_sha256: str,
        metrics: dict[str, Any],
        operating_points: OperatingPoints,
        code_version: str,
        scores: Sequence[tuple[int, int, float]],
        actor: str,
    ) -> ModelVersion:
        """Register a challenger with its first event. The first registration of an id stands.

        Args: scores: (radiograph_id, label, calibrated score) of each radiograph of the test split.
        """
        row = {
            "snapshot_id": snapshot_id,
            "recipe_id": recipe_id,
            "recipe": to_jsonb(recipe),
            "study_name": study_name,
            "bundle_key": bundle_key,
            "bundle_sha256": bundle_sha256,
            "metrics": to_jsonb(metrics),
            "operating_points": to_jsonb(operating_points),
            "code_version": code_version,
        }
        id_ = {"snapshot_id": snapshot_id, "recipe_id": recipe_id, "code_version": code_version}
        measured = [{"radiograph_id": id_of, "label": label, "score": score} for id_of, label, score in scores]
        with transaction(self._engine) as connection:
            connection.execute(query("lock"), {"purpose": _LOCK})
            known = rows_of(connection, "version_find", **id_)
            if not known:
                version = rows_of(connection, "version_insert", **row)[0]["version"]
                rows = {"version": version, "split": Split.TEST, "rows": to_jsonb(measured)}
                connection.execute(query("evaluation_score_insert"), rows)
                _add_event(connection, version, "registered", actor, "trained and evaluated", {})
                known = rows_of(connection, "version_find", **id_)
        return _model_version(known[0])

    def find_version(self, snapshot_id: str, recipe_id: str, code_version: str) -> ModelVersion | None:
        """The version that this snapshot, recipe and code made."""
        id_ = {"snapshot_id": snapshot_id, "recipe_id": recipe_id, "code_version": code_version}
        with transaction(self._engine) as connection:
            rows = rows_of(connection, "version_find", **id_)
        return _model_version(rows[0]) if rows else None

    def version_of(self, version: int) -> ModelVersion:
        """Raises: UnknownVersion."""
        with transaction(self._engine) as connection:
            return _version_of(connection, version)

    def versions(self) -> list[ModelVersion]:
        """All of them, oldest first."""
        with transaction(self._engine) as connection:
            return [_model_version(row) for row in rows_of(connection, "versions")]

    def evaluation_scores_of(self, version: int) -> list[EvaluationScore]:
        """The calibrated scores on the evaluated split, with groups and subgroups. Raises: UnknownVersion."""
        with transaction(self._engine) as connection:
            _version_of(connection, version)
            return [EvaluationScore(**row) for row in rows_of(connection, "evaluation_scores", version=version)]

    # --- the gate ---------------------------------------------------------------------------------

    def undecided(self) -> list[int]:
        """Versions that were neither promoted nor rejected, oldest first."""
        with transaction(self._engine) as connection:
            return [row["version"] for row in rows_of(connection, "versions_undecided")]

    def find_verdict(self, version: int, *, champion: int | None) -> Verdict | None:
        """What the gate said of this version against that champion (None: there was none)."""
        with transaction(self._engine) as connection:
            return _find_verdict(connection, version, champion)

    def last_verdict(self, version: int) -> Verdict | None:
        """What the gate said last of this version. Raises: UnknownVersion."""
        judged = [event["details"] for event in self.events_of(version) if event["event"] == "judged"]
        return _as_verdict(judged[-1]) if judged else None

    def record_verdict(self, version: int, verdict: Verdict, *, champion: int | None) -> None:
        """The first verdict against that champion (None: there is none) stands. Raises: UnknownVersion."""
        reason = ": ".join(["passed" if verdict.passed else "failed", *verdict.reasons[:1]])
        details = {
            "passed": verdict.passed,
            "reasons": list(verdict.reasons),
            "measures": verdict.measures,
            "champion": champion,
        }
        with transaction(self._engine) as connection:
            connection.execute(query("lock"), {"purpose": _LOCK})
            _version_of(connection, version)
            _add_event(connection, version, "judged", _GATE, reason, details)

    # --- the champion -----------------------------------------------------------------------------

    def find_champion(self) -> ModelVersion | None:
        """The version in use, if any was ever promoted."""
        with transaction(self._engine) as connection:
            return _find_champion(connection)

    def is_champion(self, version: int) -> bool:
        """Whether it is the version in use."""
        champion = self.find_champion()
        return champion is not None and champion.version == version

    def promote(self, version: int, *, actor: str, reason: str, approved: bool = False, judged: bool = False) -> None:
        """Make this version the champion; nothing happens where it is already.

        Args:   approved: a person said yes, which goes into the history too. judged: only where the gate passed it
                    against the champion whose place it takes.
        Raises: UnknownVersion, StaleVerdict.
        """
        with transaction(self._engine) as connection:
            connection.execute(query("lock"), {"purpose": _LOCK})
            _version_of(connection, version)
            champion = _find_champion(connection)
            if champion is not None and champion.version == version:
                return
            if judged:
                _require_passed(connection, version, champion.version if champion else None)
            if approved:
                _add_event(connection, version, "approved", actor, reason, {})
            _add_event(connection, version, "promoted", actor, reason, {})

    def roll_back(self, *, actor: str, reason: str, to_version: int | None = None) -> ModelVersion:
        """Make an earlier champion the champion again: `to_version`, or the one before the present one.

        With `to_version` it may be repeated; without, each call goes one step further back.

        Raises: NoChampion: there is none, or none before it; UnknownVersion; NotAllowed: `to_version` never
            was champion.
        """
        with transaction(self._engine) as connection:
            connection.execute(query("lock"), {"purpose": _LOCK})
            promotions = rows_of(connection, "promotions")
            if not promotions:
                raise NoChampion("No model has been promoted yet: there is nothing to roll back.")
            if to_version is None:
                line = _line_of_champions(promotions)
                if len(line) < 2:
                    raise NoChampion(
                        f"Version {line[-1]} is the first champion: there is no earlier one to go back to."
                    )
                to_version = line[-2]
            target = _version_of(connection, to_version)
            if to_version not in {row["version"] for row in promotions}:
                raise NotAllowed(f"Version {to_version} was never champion: promote it instead.")
            if promotions[-1]["version"] != to_version:
                details = {"from_version": promotions[-1]["version"]}
                _add_event(connection, to_version, "rolled_back", actor, reason, details)
            return target

    def times_promoted(self, version: int) -> int:
        """How often this version was made champion, by a roll-back too. Raises: UnknownVersion."""
        with transaction(self._engine) as connection:
            _version_of(connection, version)
            return [row["version"] for row in rows_of(connection, "promotions")].count(version)

    def promoted_at(self, version: int) -> datetime:
        """When this version last became the champion. Raises: UnknownVersion; NoChampion: it never did."""
        moments = [one["happened_at"] for one in self.events_of(version) if one["event"] in ("promoted", "rolled_back")]
        if not moments:
            raise NoChampion(f"Version {version} was never promoted: run `fracture promote`.")
        return moments[-1]

    def line_of_champions(self) -> list[ModelVersion]:
        """The champions that a roll-back can return to, oldest first, the present one last; [] before the first."""
        with transaction(self._engine) as connection:
            versions = _line_of_champions(rows_of(connection, "promotions"))
            return [_version_of(connection, version) for version in versions]

    def standing(self) -> list[int]:
        """The numbers of that line: the champions that were not rolled back."""
        with transaction(self._engine) as connection:
            return _line_of_champions(rows_of(connection, "promotions"))

    def champions_after(self, version: int) -> list[int]:
        """The champions of that line that came after `version`; all of it where `version` is not in it."""
        line = self.standing()
        return line[len(line) - line[::-1].index(version) :] if version in line else line

    def is_withdrawn(self, version: int) -> bool:
        """Whether it was champion and a roll-back went past it: nothing of it is to be shown or handed on."""
        with transaction(self._engine) as connection:
            promotions = rows_of(connection, "promotions")
        return any(row["version"] == version for row in promotions) and version not in _line_of_champions(promotions)

    # --- history ----------------------------------------------------------------------------------

    def reject(self, version: int, *, actor: str, reason: str, times_promoted: int | None = None) -> None:
        """Record that this version will not be promoted; said twice it is one event.

        Args:   times_promoted: the version's, when it was asked whether to reject it; None: that is not known.
        Raises: UnknownVersion; AlreadyPromoted: it is the champion, or was made champion since.
        """
        with transaction(self._engine) as connection:
            connection.execute(query("lock"), {"purpose": _LOCK})
            _version_of(connection, version)
            _require_not_promoted(connection, version, times_promoted)
            _add_event(connection, version, "rejected", actor, reason, {})

    def events_of(self, version: int) -> list[dict[str, Any]]:
        """event, actor, reason, details, happened_at of one version, oldest first. Raises: UnknownVersion."""
        with transaction(self._engine) as connection:
            _version_of(connection, version)
            return rows_of(connection, "model_events", version=version)


def _line_of_champions(promotions: Sequence[dict[str, Any]]) -> list[int]:
    """The champions that a roll-back can return to, the present one last: a roll-back forgets those it went past."""
    line: list[int] = []
    for row in promotions:
        if row["event"] == "rolled_back" and row["version"] in line:
            last = len(line) - 1 - line[::-1].index(row["version"])
            line = line[: last + 1]
        else:
            line.append(row["version"])
    return line


def _version_of(connection: Connection, version: int) -> ModelVersion:
    rows = rows_of(connection, "version_by_number", version=version)
    if not rows:
        raise UnknownVersion(f"There is no model version {version}: sql/queries/model_history.sql lists all there are.")
    return _model_version(rows[0])


def _find_champion(connection: Connection) -> ModelVersion | None:
    rows = rows_of(connection, "champion")
    return _model_version(rows[0]) if rows else None


def _model_version(row: dict[str, Any]) -> ModelVersion:
    names = ModelVersion.__dataclass_fields__
    points = OperatingPoints(**row["operating_points"])
    return ModelVersion(**{name: row[name] for name in names if name != "operating_points"}, operating_points=points)


def _add_event(
    connection: Connection, version: int, event: str, actor: str, reason: str, details: dict[str, Any]
) -> None:
    row = {"version": version, "event": event, "actor": actor, "reason": reason, "details": to_jsonb(details)}
    connection.execute(query("model_event_insert"), row)


def _find_verdict(connection: Connection, version: int, champion: int | None) -> Verdict | None:
    for event in rows_of(connection, "model_events", version=version):
        if event["event"] == "judged" and event["details"].get("champion") == champion:
            return _as_verdict(event["details"])
    return None


def _require_passed(connection: Connection, version: int, champion: int | None) -> None:
    verdict = _find_verdict(connection, version, champion)
    if verdict is None or not verdict.passed:
        against = "no champion" if champion is None else f"version {champion}, the champion now"
        raise StaleVerdict(
            f"The gate has not passed version {version} against {against}: run promote_model with version={version}, "
            "which judges it anew."
        )


def _require_not_promoted(connection: Connection, version: int, times_before: int | None) -> None:
    promoted = [row["version"] for row in rows_of(connection, "promotions")]
    if promoted[-1:] == [version]:
        raise AlreadyPromoted(
            f"Version {version} is the champion, and a rejection does not change that: run `fracture roll-back` if it "
            "is not to score any more."
        )
    if times_before is not None and promoted.count(version) > times_before:
        raise AlreadyPromoted(
            f"Version {version} was made champion meanwhile, and version {promoted[-1]} after it: a rejection changes "
            "nothing. `fracture roll-back` may return to it: look at sql/queries/model_history.sql, and name another."
        )


def _as_verdict(said: dict[str, Any]) -> Verdict:
    return Verdict(passed=said["passed"], reasons=tuple(said["reasons"]), measures=said["measures"])
