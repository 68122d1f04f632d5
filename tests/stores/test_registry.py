"""Snapshots and model versions."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from fracture_ml.core.errors import (
    AlreadyPromoted,
    Conflict,
    NoChampion,
    NotAllowed,
    StaleVerdict,
    StorageUnavailable,
    UnknownVersion,
)
from fracture_ml.core.recipe import PromotionRule, SplitPlan
from fracture_ml.core.records import Box, LabelSource, SnapshotDraft, SnapshotMember, Split, Verdict
from fracture_ml.data.splits import draft_snapshot
from fracture_ml.evaluation.metrics import evaluate
from fracture_ml.steps import promote as promotion
from fracture_ml.steps.promote import (
    find_undecided,
    judge_challenger,
    promote,
    promote_judged,
    record_refusal,
    reject,
    roll_back,
)
from tests.stores.stored_rows import POINTS, arrival, claim, freeze, receive, received, register, sha


def test_a_snapshot_is_frozen_once_and_found_again(stores):
    receive(stores, arrival("a", claims=[claim("a")]), arrival("b", claims=[claim("b", "negative")]))
    snapshot_id = freeze(stores)
    assert freeze(stores) == snapshot_id
    found = stores.snapshots.find(snapshot_id)
    assert found["plan"] == SplitPlan().to_json()
    assert found["counts"]["radiographs"] == 2 and set(found["counts"]["splits"]) == {"train", "test"}
    members = stores.snapshots.members_of(snapshot_id)
    assert [member.sha256 for member in members] == sorted(member.sha256 for member in members)
    assert {member.fold for member in members} == {0, None}
    assert stores.snapshots.find("0" * 64) is None


def test_a_snapshot_counts_the_labels_of_each_split(stores):
    values = {"a": "positive", "b": "positive", "c": "positive", "d": "negative"}
    receive(stores, *(arrival(key, claims=[claim(key, value)]) for key, value in values.items()))
    first = freeze(stores, training=4)
    assert stores.snapshots.find(first)["counts"]["splits"] == {"train": {"positive": 3, "negative": 1}}


def test_a_snapshot_freezes_the_boxes_that_labels_had_drawn_on_its_fractures_by_then(stores):
    hand, wrist, later = (Box(x=1.5, y=2.0, width=10.0 * n, height=4.25) for n in (1, 2, 3))
    receive(
        stores,
        arrival("a.png", claims=[claim("a.png", boxes=(hand,))]),
        arrival("b.png", claims=[claim("b.png", boxes=(hand,))]),
        arrival("c.png", claims=[claim("c.png")]),
    )
    second = claim("a.png", source=LabelSource.RADIOLOGIST, boxes=(hand, wrist))  # one box twice, one of its own
    stores.radiographs.record_labels(received("second.csv"), [second])
    over = claim("b.png", "negative", source=LabelSource.RADIOLOGIST)  # and what was drawn before is no fracture
    stores.radiographs.record_labels(received("over.csv"), [over])
    between = datetime.now(UTC)
    third = [claim("c.png", source=LabelSource.RADIOLOGIST, boxes=(later,))]
    stores.radiographs.record_labels(received("third.csv"), third)

    def boxes_at(as_of: datetime) -> dict[str, set[Box]]:
        drafted = draft_snapshot(stores.radiographs.candidates(as_of=as_of), SplitPlan())
        stores.snapshots.save(drafted, SplitPlan(), as_of=as_of)
        members = stores.snapshots.members_of(drafted.id)
        assert members == list(drafted.members)  # as they were drawn, to the last digit
        assert all(len(set(member.boxes)) == len(member.boxes) for member in members)
        ids.append(drafted.id)
        return {member.sha256: set(member.boxes) for member in members}

    ids: list[str] = []
    assert boxes_at(between) == {sha("a.png"): {hand, wrist}, sha("b.png"): set(), sha("c.png"): set()}
    assert boxes_at(datetime.now(UTC))[sha("c.png")] == {later}
    assert boxes_at(between)[sha("c.png")] == set()  # it stays what it was
    assert ids[0] == ids[2] != ids[1]


def test_a_group_that_changed_while_the_snapshot_was_drawn_stops_the_freeze(stores):
    (id_,) = receive(stores, arrival("inbox/a.png", claims=[claim("inbox/a.png")]))
    drawn = stores.radiographs.candidates(as_of=datetime.now(UTC))[0]
    stores.radiographs.record_labels(received("inbox/b.csv"), [claim("inbox/a.png", patient_key="p")])
    member = SnapshotMember(
        radiograph_id=id_, sha256=drawn.sha256, group_key=drawn.group_key, label=1, split=Split.TEST, fold=None
    )
    draft = SnapshotDraft(id="0" * 64, members=(member,))
    with pytest.raises(Conflict, match="freeze it again"):
        stores.snapshots.save(draft, SplitPlan(), as_of=datetime.now(UTC))
    assert stores.snapshots.find("0" * 64) is None


def test_every_look_at_a_locked_split_counts(stores, version):
    snapshot_id = stores.registry.version_of(version).snapshot_id
    for _ in range(2):
        stores.snapshots.count_look(snapshot_id, "test", "evaluation")
    assert stores.snapshots.looks_of(snapshot_id) == 2


def test_a_look_counts_for_every_snapshot_that_holds_the_same_test_radiographs(stores):
    receive(stores, arrival("a", claims=[claim("a")]), arrival("b", claims=[claim("b", "negative")]))
    yesterday = freeze(stores)
    receive(stores, arrival("c", claims=[claim("c", "negative")]))
    today = freeze(stores)
    members = {name: stores.snapshots.members_of(name) for name in (yesterday, today)}
    assert {m.sha256 for m in members[yesterday] if m.split is Split.TEST} < {
        m.sha256 for m in members[today] if m.split is Split.TEST
    }
    stores.snapshots.count_look(yesterday, "test", "evaluation")
    stores.snapshots.count_look(today, "test", "evaluation")
    assert stores.snapshots.looks_of(today) == stores.snapshots.looks_of(yesterday) == 2


def test_a_look_at_other_test_radiographs_does_not_count(stores):
    receive(stores, arrival("a", claims=[claim("a")]), arrival("b", claims=[claim("b", "negative")]))
    tested = freeze(stores)
    members = stores.snapshots.members_of(tested)
    sides = {
        member.sha256: (Split.TRAIN, 0) if member.split is Split.TEST else (Split.TEST, None) for member in members
    }
    turned = [replace(one, split=sides[one.sha256][0], fold=sides[one.sha256][1]) for one in members]
    other = SnapshotDraft(id="0" * 64, members=tuple(turned))
    stores.snapshots.save(other, SplitPlan(), as_of=datetime.now(UTC))
    stores.snapshots.count_look(tested, "test", "evaluation")
    assert (stores.snapshots.looks_of(tested), stores.snapshots.looks_of(other.id)) == (1, 0)


def test_a_snapshot_names_whose_labels_it_was_frozen_with(stores):
    as_of_now = [claim("b", "negative", meaning="abnormal"), claim("a"), claim("c")]
    receive(stores, *(arrival(one.subject, claims=[one]) for one in as_of_now))
    snapshot_id = freeze(stores)
    stores.radiographs.record_labels(received("l.csv"), [claim("a", "negative", source=LabelSource.RADIOLOGIST)])
    assert stores.snapshots.label_sources_of(snapshot_id) == [
        {"source": "dataset", "meaning": "fracture", "positive": 2, "negative": 0},
        {"source": "dataset", "meaning": "abnormal", "positive": 0, "negative": 1},
    ]


def register_measured(stores, snapshot_id: str | None = None, **options) -> int:
    """A version with all that its model card wants, over a snapshot: None: of what is here."""
    metrics = evaluate(np.array([0.1, 0.9]), np.array([0, 1]), ["a", "b"], POINTS)
    unmeasured = dict.fromkeys(("subgroups", "calibration", "shortcut_audit"))
    return register(stores, snapshot_id or freeze(stores), metrics=metrics | unmeasured, **options).version


def test_the_gate_judges_each_model_by_its_own_scores_and_thresholds_and_the_challenger_by_its_bundle(
    stores, settings, monkeypatch
):
    keys = [f"{number}" for number in range(40)]
    ids = receive(stores, *(arrival(key, claims=[claim(key, ("negative", "positive")[int(key) % 2])]) for key in keys))

    def measured(*of_label: float, t_sensitivity: float) -> int:
        scores = [(id_, place % 2, of_label[place % 2]) for place, id_ in enumerate(ids)]
        return register_measured(stores, scores=scores, points=replace(POINTS, t_sensitivity=t_sensitivity))

    champion = measured(0.5, 0.5, t_sensitivity=0.625)
    promote(stores, version=champion, actor="dr", approved=True)
    challenger, broken = (measured(0.25, 0.75, t_sensitivity=0.375) for _ in range(2))
    stores.bucket.write("bundles/one", b"bundle")  # as it was registered
    strict = settings.model_copy(update={"promotion_confidence": 0.75})
    monkeypatch.setattr(promotion, "PromotionRule", partial(PromotionRule, min_auroc=0.7, max_ece=0.5))
    assert judge_challenger(stores, strict, version=challenger)["passed"]
    measures = stores.registry.find_verdict(challenger, champion=champion).measures
    assert measures["rule"] == PromotionRule(min_auroc=0.7, max_ece=0.5, required_confidence=0.75).to_json()
    assert measures["common"] == 40
    sensitivity, auroc = measures["checks"]["sensitivity"], measures["checks"]["auroc"]
    assert (sensitivity["challenger"], sensitivity["champion"]) == (1.0, 0.0)
    assert (auroc["challenger"], auroc["champion"]) == (1.0, 0.5)
    stores.bucket.write("bundles/one", b"another bundle")
    assert not judge_challenger(stores, strict, version=broken)["passed"]
    checks = stores.registry.find_verdict(broken, champion=champion).measures["checks"]
    assert [name for name, check in checks.items() if not check["passed"]] == ["bundle"]


def test_an_approval_of_what_the_gate_did_not_pass_promotes_nothing(stores, settings):
    receive(stores, arrival("a", claims=[claim("a")]), arrival("b", claims=[claim("b", "negative")]))
    version = register_measured(stores)
    assert not judge_challenger(stores, settings, version=version)["passed"]
    for way, user in (("approval", "dr"), ("automatic", None)):
        with pytest.raises(StaleVerdict):
            promote_judged(stores, settings.model_copy(update={"promotion": way}), version=version, user=user)
    assert stores.registry.find_champion() is None


def test_nothing_is_promoted_by_an_approval_that_nobody_gave(stores):
    """A task may be marked as a success by hand, and leaves no answer then."""
    receive(stores, arrival("a", claims=[claim("a")]), arrival("b", claims=[claim("b", "negative")]))
    version = register_measured(stores)
    checks = {"checks": {"leakage": {"passed": True}}}
    stores.registry.record_verdict(version, Verdict(passed=True, reasons=(), measures=checks), champion=None)
    asks, lets_through = SimpleNamespace(promotion="approval"), SimpleNamespace(promotion="automatic")
    with pytest.raises(NotAllowed, match="Nobody has approved"):
        promote_judged(stores, asks, version=version, user=None)
    assert stores.registry.find_champion() is None
    promote_judged(stores, lets_through, version=version, user=None)
    promote_judged(stores, asks, version=version, user="dr")
    assert [event["actor"] for event in stores.registry.events_of(version) if event["event"] == "promoted"] == ["gate"]


@pytest.mark.parametrize("told", [{"patient_key": "p"}, {"study_key": "s"}], ids=["patient", "study"])
def test_the_gate_finds_whom_a_label_named_after_the_snapshot_was_frozen(stores, settings, told):
    receive(stores, arrival("a", claims=[claim("a")]), arrival("b"))
    stores.radiographs.record_labels(received("b.csv"), [claim("b", "negative")])
    version = register_measured(stores)
    # Whatever has become of their labels since: one is withdrawn.
    stores.radiographs.record_labels(received("b.csv", "e2"), [])
    claims = [claim(key, "absent", **told) for key in ("a", "b")]
    stores.radiographs.record_labels(received("patients.csv"), claims)
    verdict = judge_challenger(stores, settings, version=version)
    assert not verdict["passed"] and "stands on two sides" in verdict["summary"]
    card = stores.bucket.read("bundles/model_card.md").decode()
    assert "the test figures are void" in card


def test_a_patient_whom_a_label_named_in_two_folds_of_the_training_split_voids_no_test_figure(stores, settings):
    receive(stores, *(arrival(key, claims=[claim(key)]) for key in ("a", "b", "c")))
    places = {sha("a"): (Split.TRAIN, 0), sha("b"): (Split.TRAIN, 1), sha("c"): (Split.TEST, None)}
    members = [
        SnapshotMember(
            radiograph_id=one.radiograph_id, sha256=one.sha256, group_key=one.group_key, label=1,
            split=places[one.sha256][0], fold=places[one.sha256][1],
        )
        for one in stores.radiographs.candidates(as_of=datetime.now(UTC))
    ]  # fmt: skip
    draft = SnapshotDraft(id="0" * 64, members=tuple(members))
    stores.snapshots.save(draft, SplitPlan(), as_of=datetime.now(UTC))
    version = register_measured(stores, draft.id)
    told = [claim(key, "absent", patient_key="p") for key in ("a", "b")]
    stores.radiographs.record_labels(received("patients.csv"), told)
    judge_challenger(stores, settings, version=version)
    assert stores.registry.find_verdict(version, champion=None).measures["checks"]["leakage"]["passed"]


def test_the_same_training_run_registers_one_version_with_one_event_and_its_scores(stores, version):
    snapshot_id = stores.registry.version_of(version).snapshot_id
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: register(stores, snapshot_id, code_version="same"), range(2)))
    assert made[0] == made[1]
    assert stores.registry.find_version(snapshot_id, made[0].recipe_id, "same") == made[0]
    assert stores.registry.find_version(snapshot_id, made[0].recipe_id, "other") is None
    assert [event["event"] for event in stores.registry.events_of(made[0].version)] == ["registered"]
    assert [one.version for one in stores.registry.versions()] == [version, made[0].version]
    assert made[0].operating_points == POINTS and made[0].metrics["auroc"] == {"value": 0.9, "low": None}
    (score,) = stores.registry.evaluation_scores_of(version)
    assert score.score == 0.25 and score.group_key.startswith("image:") and score.subgroups["media_type"] == "image/png"


def test_the_first_verdict_against_each_champion_stands(stores, version):
    registry = stores.registry
    assert registry.find_verdict(version, champion=None) is None and registry.last_verdict(version) is None
    first = Verdict(passed=False, reasons=("Sensitivity fell.", "Calibration holds."), measures={"drop": 0.1})
    other = Verdict(passed=True, reasons=(), measures={})
    for champion, verdict in ((None, first), (None, other), (7, other), (7, first)):
        registry.record_verdict(version, verdict, champion=champion)
    assert registry.find_verdict(version, champion=None) == first
    assert registry.find_verdict(version, champion=7) == registry.last_verdict(version) == other
    assert [event["event"] for event in registry.events_of(version)] == ["registered", "judged", "judged"]


def test_a_version_takes_no_place_of_a_champion_that_it_was_not_judged_against(stores, version):
    registry = stores.registry
    late, quick = (register(stores, registry.version_of(version).snapshot_id).version for _ in range(2))
    passed = Verdict(passed=True, reasons=("All holds.",), measures={})
    registry.promote(version, actor="dr", reason="first")
    registry.record_verdict(late, passed, champion=version)
    registry.record_verdict(quick, passed, champion=version)
    registry.promote(quick, actor="dr", reason="better", approved=True, judged=True)
    for verdict in (None, Verdict(passed=False, reasons=("Worse.",), measures={})):
        if verdict:
            registry.record_verdict(late, verdict, champion=quick)
        with pytest.raises(StaleVerdict, match=f"promote_model with version={late}"):
            registry.promote(late, actor="dr", reason="approved days later", approved=True, judged=True)
    assert [event["event"] for event in registry.events_of(late)] == ["registered", "judged", "judged"]
    registry.roll_back(actor="dr", reason="after all")
    registry.promote(late, actor="dr", reason="better", judged=True)
    assert registry.find_champion().version == late


def test_a_version_is_undecided_until_it_is_promoted_or_rejected(stores, version):
    snapshot_id = stores.registry.version_of(version).snapshot_id
    second, third = (register(stores, snapshot_id).version for _ in range(2))
    stores.registry.record_verdict(second, Verdict(passed=True, reasons=("All holds.",), measures={}), champion=None)
    assert stores.registry.undecided() == [version, second, third]
    stores.registry.promote(version, actor="dr", reason="better")
    assert find_undecided(stores) == third
    stores.registry.reject(third, actor="dr", reason="worse")
    assert stores.registry.undecided() == [second]
    assert find_undecided(stores) is None  # an older one does not come back by itself


def test_a_reject_that_comes_after_the_version_was_promoted_fails_and_no_answer_is_only_logged(
    stores, settings, caplog
):
    receive(stores, arrival("a", claims=[claim("a")]), arrival("b", claims=[claim("b", "negative")]))
    version, later = register_measured(stores), register_measured(stores)
    asked = judge_challenger(stores, settings, version=version)["times_promoted"]
    stores.registry.promote(version, actor="dr", reason="could not wait", approved=True)

    def refuse(user: str | None) -> list[str]:
        record_refusal(stores, version=version, user=user, times_promoted=asked)
        return [event["event"] for event in stores.registry.events_of(version)]

    with pytest.raises(AlreadyPromoted, match=f"Version {version} is the champion.*run `fracture roll-back`"):
        refuse("a person")
    with pytest.raises(AlreadyPromoted):
        reject(stores, version=version, actor="gate", reason="the gate's verdict", times_promoted=asked)
    stores.registry.promote(later, actor="dr", reason="better")
    with pytest.raises(AlreadyPromoted, match=f"version {later} after it.*`fracture roll-back` may return to it"):
        refuse("a person")
    with caplog.at_level("INFO"):
        assert refuse(None) == ["registered", "judged", "approved", "promoted"]
    assert "it was decided otherwise" in caplog.text


def test_what_was_champion_before_it_was_asked_about_can_be_rejected(stores, settings):
    receive(stores, arrival("a", claims=[claim("a")]), arrival("b", claims=[claim("b", "negative")]))
    version, later = register_measured(stores), register_measured(stores)
    for promoted in (version, later):
        stores.registry.promote(promoted, actor="dr", reason="better")
    asked = judge_challenger(stores, settings, version=version)["times_promoted"]
    for _ in range(2):
        record_refusal(stores, version=version, user="a person", times_promoted=asked)
    rejected = [event for event in stores.registry.events_of(version) if event["event"] == "rejected"]
    assert [(event["actor"], event["reason"]) for event in rejected] == [("a person", "not approved")]
    stores.registry.roll_back(actor="dr", reason="after all")  # to it: that counts as a promotion
    stores.registry.promote(later, actor="dr", reason="better")
    with pytest.raises(AlreadyPromoted):
        record_refusal(stores, version=version, user="another", times_promoted=asked)


def test_nobody_s_answer_to_what_was_not_promoted_is_a_rejection(stores):
    receive(stores, arrival("a", claims=[claim("a")]), arrival("b", claims=[claim("b", "negative")]))
    version = register_measured(stores)
    record_refusal(stores, version=version, user=None, times_promoted=0)
    (event,) = [event for event in stores.registry.events_of(version) if event["event"] == "rejected"]
    assert event["actor"] == "nobody answered in time"
    assert stores.registry.undecided() == []


def test_a_refusal_that_is_said_twice_is_one_event_and_another_reason_is_another(stores, version):
    for reason in ("looks wrong", "looks wrong", "second thoughts"):
        stores.registry.reject(version, actor="dr", reason=reason)
    assert [event["event"] for event in stores.registry.events_of(version)] == ["registered", "rejected", "rejected"]


def test_the_champion_is_the_newest_promotion_and_a_roll_back_goes_one_step_back_each_time(stores, version):
    registry = stores.registry
    snapshot_id = registry.version_of(version).snapshot_id
    second, third = (register(stores, snapshot_id).version for _ in range(2))
    assert registry.find_champion() is None
    with pytest.raises(NoChampion):
        registry.roll_back(actor="dr", reason="worse")
    for promoted in (version, version, second, third):
        registry.promote(promoted, actor="dr", reason="better")
        assert registry.find_champion().version == promoted
    assert registry.roll_back(actor="dr", reason="worse").version == second
    assert registry.roll_back(actor="dr", reason="worse").version == version
    with pytest.raises(NoChampion, match="first champion"):
        registry.roll_back(actor="dr", reason="worse")
    for _ in range(2):
        assert registry.roll_back(actor="dr", reason="after all", to_version=third).version == third
    assert registry.find_champion().version == third
    assert (registry.champions_after(version), registry.champions_after(second)) == ([third], [version, third])
    registry.promote(version, actor="dr", reason="again")
    assert (registry.champions_after(version), registry.champions_after(third)) == ([], [version])
    events = [event["event"] for event in registry.events_of(third)]
    assert events == ["registered", "promoted", "rolled_back"]


def test_a_roll_back_to_what_was_never_champion_and_an_unknown_version_are_refused(stores, version):
    stores.registry.promote(version, actor="dr", reason="first")
    other = register(stores, stores.registry.version_of(version).snapshot_id).version
    with pytest.raises(NotAllowed, match="never champion"):
        stores.registry.roll_back(actor="dr", reason="x", to_version=other)
    for use in (
        lambda: stores.registry.promote(99, actor="dr", reason="x"),
        lambda: stores.registry.version_of(99),
        lambda: stores.registry.events_of(99),
        lambda: stores.registry.record_verdict(99, Verdict(passed=True, reasons=(), measures={}), champion=None),
    ):
        with pytest.raises(UnknownVersion, match="99"):
            use()


def test_a_roll_back_whose_model_card_cannot_be_written_has_happened_once(stores, monkeypatch, caplog):
    """An error would say "run this again", and again goes one version further back."""
    receive(stores, arrival("a", claims=[claim("a")]), arrival("b", claims=[claim("b", "negative")]))
    first, second = register_measured(stores), register_measured(stores)
    for version in (first, second):
        promote(stores, version=version, actor="dr", approved=True)

    def refuse(*_):
        raise StorageUnavailable("The connection to object storage failed: run this again.")

    monkeypatch.setattr(stores.bucket, "write", refuse)
    assert roll_back(stores, actor="dr", reason="worse") == first
    assert f"Version {first} is the champion; its model card does not say so yet" in caplog.text


def test_a_champion_is_judged_against_the_one_that_it_replaced(stores, settings):
    receive(stores, arrival("a", claims=[claim("a")]), arrival("b", claims=[claim("b", "negative")]))
    first, second = register_measured(stores), register_measured(stores)
    for version in (first, second):
        promote(stores, version=version, actor="dr", approved=True)
    judge_challenger(stores, settings, version=second)
    (judged,) = [event for event in stores.registry.events_of(second) if event["event"] == "judged"]
    assert judged["details"]["champion"] == first


def test_when_a_champion_was_made_is_told_from_its_last_promotion(stores, version):
    with pytest.raises(NoChampion, match="never promoted"):
        stores.registry.promoted_at(version)
    other = register_measured(stores, stores.registry.version_of(version).snapshot_id)
    moments = []
    for promoted in (version, other):
        stores.registry.promote(promoted, actor="dr", reason="better")
        moments.append(stores.registry.promoted_at(promoted))
    stores.registry.roll_back(actor="dr", reason="worse after all")
    moments.append(stores.registry.promoted_at(version))
    assert moments == sorted(set(moments)) and abs(datetime.now(UTC) - moments[-1]) < timedelta(minutes=5)
