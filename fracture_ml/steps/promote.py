"""The gate judges a challenger; a person or a setting promotes it; the history is kept."""

import logging
import re

from fracture_ml.core.errors import AlreadyPromoted, LeakageFound, NotAllowed, StorageUnavailable
from fracture_ml.core.recipe import PromotionRule
from fracture_ml.core.records import ModelVersion, Verdict
from fracture_ml.data.splits import check_no_leakage
from fracture_ml.evaluation.gate import judge
from fracture_ml.steps.champion import bundle_is_whole
from fracture_ml.steps.model_card import write_model_card
from fracture_ml.steps.settings import Settings
from fracture_ml.stores import Stores

log = logging.getLogger(__name__)

_MARKDOWN, _ESCAPED = re.compile(r"([\\`*_\[\]<>])"), r"\\\1"


def find_undecided(stores: Stores) -> int | None:
    """The newest version, where it was neither promoted nor rejected; older ones are left behind."""
    newest = max((model.version for model in stores.registry.versions()), default=None)
    return newest if newest in stores.registry.undecided() else None


def judge_challenger(stores: Stores, settings: Settings, *, version: int) -> dict:
    """The gate's verdict of `version` against the champion, written once for each champion: a retry gets the first one.

    The champion itself is judged against the one that it replaced.

    Returns: {"version", "passed", "summary", "times_promoted"}; the summary is a sentence a line; how often it was made
             champion before, which tells a promotion that comes while its approval waits.
    Raises:  UnknownVersion.
    """
    times_promoted = stores.registry.times_promoted(version)
    challenger, champion = stores.registry.version_of(version), stores.registry.find_champion()
    if champion is not None and champion.version == version:
        *earlier, _ = stores.registry.line_of_champions()
        champion = earlier[-1] if earlier else None
    verdict = stores.registry.find_verdict(version, champion=champion.version if champion else None)
    if verdict is None:
        verdict = judge(
            stores.registry.evaluation_scores_of(version),
            stores.registry.evaluation_scores_of(champion.version) if champion else None,
            challenger_points=challenger.operating_points,
            champion_points=champion.operating_points if champion else None,
            rule=PromotionRule(required_confidence=settings.promotion_confidence),
            bundle_verified=bundle_is_whole(stores, challenger),
            leakage_clean=_leakage_is_clean(stores, challenger),
        )
        stores.registry.record_verdict(version, verdict, champion=champion.version if champion else None)
    write_model_card(stores, version)  # also after a kill between the two
    log.info("version %d: %s. %s", version, "passed" if verdict.passed else "failed", " ".join(verdict.reasons))
    summary = _summary(version, verdict)
    return {"version": version, "passed": verdict.passed, "summary": summary, "times_promoted": times_promoted}


def promote(stores: Stores, *, version: int, actor: str, approved: bool, judged: bool = False) -> int:
    """Make `version` the champion. Returns the version.

    Args:   approved: a person said yes. judged: only where the gate passed it against the champion of now: while an
                approval waits for days, another version may have taken its place.
    Raises: UnknownVersion, StaleVerdict.
    """
    reason = "approved by a person" if approved else "the gate passed, and promotion is automatic"
    stores.registry.promote(version, actor=actor, reason=reason, approved=approved, judged=judged)
    write_model_card(stores, version)
    log.info("version %d is the champion: %s", version, reason)
    return version


def promote_judged(stores: Stores, settings: Settings, *, version: int, user: str | None) -> int:
    """Promote what the gate passed: `user` approved it, or (None) the setting lets it through. Returns the version.

    Raises: UnknownVersion, StaleVerdict; NotAllowed: nobody answered, as where the question was marked as a success.
    """
    if user is None and settings.promotion != "automatic":
        raise NotAllowed("Nobody has approved this version: answer the question under Required Actions.")
    return promote(stores, version=version, actor=user or "gate", approved=user is not None, judged=True)


def reject(stores: Stores, *, version: int, actor: str, reason: str, times_promoted: int | None = None) -> None:
    """Record that `version` will not be promoted.

    Args:   times_promoted: as `judge_challenger` said it.
    Raises: UnknownVersion; AlreadyPromoted: it is the champion, or was made champion since it was judged.
    """
    stores.registry.reject(version, actor=actor, reason=reason, times_promoted=times_promoted)
    write_model_card(stores, version)
    log.info("version %d is rejected: %s", version, reason)


def record_refusal(stores: Stores, *, version: int, user: str | None, times_promoted: int | None = None) -> None:
    """Record a person's Reject, or that nobody answered in time (`user` is None), unless it was decided otherwise.

    Raises: UnknownVersion; AlreadyPromoted, where a person says Reject: what they want takes a roll-back.
    """
    actor = user or "nobody answered in time"
    try:
        reject(stores, version=version, actor=actor, reason="not approved", times_promoted=times_promoted)
    except AlreadyPromoted as decided:
        if user is not None:
            raise
        log.info("version %d: nobody answered in time, and it was decided otherwise: %s", version, decided)


def roll_back(stores: Stores, *, actor: str, reason: str, to_version: int | None = None) -> int:
    """Make an earlier version the champion again (the one before, if none is named). Returns it.

    Its card is of less weight: an error because of it would be answered by a second roll-back, one version further.
    """
    version = stores.registry.roll_back(actor=actor, reason=reason, to_version=to_version).version
    try:
        write_model_card(stores, version)
    except StorageUnavailable as error:
        log.warning("Version %d is the champion; its model card does not say so yet: %s", version, error)
    return version


def _leakage_is_clean(stores: Stores, version: ModelVersion) -> bool:
    try:
        # Against what is known now: a label may have named a patient since the snapshot was frozen.
        members, ties = stores.snapshots.members_of(version.snapshot_id), stores.snapshots.ties_of(version.snapshot_id)
        check_no_leakage(members, ties, across_folds=False)
    except LeakageFound as leak:
        log.error("version %d: %s", version.version, leak)
        return False
    return True


def _summary(version: int, verdict: Verdict) -> str:
    lines = [f"- {_MARKDOWN.sub(_ESCAPED, reason)}" for reason in verdict.reasons]  # a tag may be in it, of any text
    head = f"**Version {version}: the gate {'passed' if verdict.passed else 'failed'}.**"
    card = f"[Its model card](/fracture-worklist/models/{version}/model_card.html)"
    return "\n".join([head, "", *lines, "", card])
