"""What was received, and what became of it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fracture_ml.core.errors import UnknownRadiograph
from fracture_ml.core.recipe import SplitPlan
from fracture_ml.core.records import Box, LabelSource, LabelValue, MediaType
from fracture_ml.data.splits import draft_snapshot
from fracture_ml.stores.database import transaction
from tests.stores.stored_rows import act, arrival, claim, freeze, list_studies, ranked, receive, received, sha


def facts(stores, radiograph_id: int):
    with stores.engine.connect() as connection:
        rows = connection.exec_driver_sql(f"SELECT * FROM fracture.radiograph WHERE radiograph_id = {radiograph_id}")
        return rows.mappings().one()


def standing(stores) -> dict[int, str]:
    now = datetime.now(UTC)
    return {one.radiograph_id: str(one.label) for one in stores.radiographs.candidates(as_of=now)}


# --- one outcome per object -----------------------------------------------------------------------


def test_every_received_object_has_one_outcome_and_the_counts_add_up_when_all_is_sent_twice(stores):
    for _ in range(2):
        receive(stores, arrival("inbox/a.png"), arrival("inbox/b.png", "a different one"))
        receive(stores, arrival("inbox/copy of a.png", "inbox/a.png"))
        stores.radiographs.record_labels(received("inbox/labels.csv"), [claim("inbox/a.png")])
        stores.radiographs.record_quarantined(received("inbox/broken.png"), "truncated", "The file ends early.")
    counts = stores.radiographs.counts()
    assert counts == {
        "received": 5,
        "radiographs": 2,
        "copies": 1,
        "label_files": 1,
        "quarantined": 1,
        "quarantined_by_code": {"truncated": 1},
        "near_duplicates": 0,
        "labelled": {"positive": 1},
        "contradicted": 0,
    }


def test_an_object_is_unknown_until_it_has_an_outcome_and_again_when_its_bytes_change(stores):
    listed = [received("inbox/a.png"), received("inbox/b.png"), received("inbox/a.png", etag="e2")]
    assert stores.radiographs.unknown_objects(listed) == listed
    receive(stores, arrival("inbox/a.png"))
    assert stores.radiographs.unknown_objects(listed) == listed[1:]
    assert stores.radiographs.unknown_objects([]) == []


def test_bytes_that_come_twice_in_one_batch_make_one_radiograph_and_one_copy(stores):
    batch = [arrival("inbox/a.png", "same"), arrival("inbox/b.png", "same")]
    told = [stores.radiographs.record_radiographs(batch, near_duplicate_bits=4) for _ in range(2)]
    assert told == [{"radiograph": 1, "copy": 1}, {}]
    counts = stores.radiographs.counts()
    assert (counts["radiographs"], counts["copies"]) == (1, 1)


def test_two_ingests_that_record_the_same_bytes_at_once_make_one_radiograph_and_one_copy(stores):
    together = threading.Barrier(2)

    def ingest(name: str) -> None:
        together.wait()
        for number in range(5):
            one = arrival(f"inbox/{name}{number}.png", f"bytes {number}")
            stores.radiographs.record_radiographs([one], near_duplicate_bits=4)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(ingest, ("first", "second")))
    counts = stores.radiographs.counts()
    assert (counts["received"], counts["radiographs"], counts["copies"]) == (10, 5, 5)


def test_two_ingests_of_the_same_object_leave_one_row(stores):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: receive(stores, arrival("inbox/a.png")), range(2)))
    counts = stores.radiographs.counts()
    assert (counts["received"], counts["radiographs"], counts["copies"]) == (1, 1, 0)


# --- groups ---------------------------------------------------------------------------------------


def test_the_group_is_the_patient_else_the_study_else_the_near_duplicate_else_the_image(stores):
    base = 0xFFFF_0000_FFFF_0000
    ids = receive(
        stores,
        arrival("a", patient_key="p", study_key="s", bits=base),
        arrival("b", study_key="t", bits=0x1234_5678_9ABC_DEF0),
        arrival("c", bits=base ^ 0b101),
        arrival("d", bits=base ^ 0b111),
        arrival("e", bits=0x0F0F_0F0F_0F0F_0F0F),
    )
    groups = [facts(stores, id_)["group_key"] for id_ in ids]
    assert groups == ["patient:p", "study:t", "patient:p", "patient:p", f"image:{sha('e')}"]
    near = [facts(stores, id_)["near_duplicate_of"] for id_ in ids]
    assert near == [None, None, ids[0], ids[2], None]  # d is nearer to c than to a
    assert [facts(stores, id_)["study_key"] for id_ in ids] == ["s", "t", sha("c"), sha("d"), sha("e")]


def test_near_duplicates_are_one_cluster_though_the_picture_that_ties_them_has_no_label(stores):
    base = 0xFFFF_0000_FFFF_0000
    receive(
        stores,
        arrival("a", study_key="s", bits=base, claims=[claim("a")]),
        arrival("b", study_key="t", bits=base ^ 0b1),
        arrival("c", study_key="u", bits=base ^ 0b11, claims=[claim("c")]),
        arrival("d", study_key="v", bits=0x0F0F_0F0F_0F0F_0F0F, claims=[claim("d")]),
    )
    candidates = {one.study_key: one for one in stores.radiographs.candidates(as_of=datetime.now(UTC))}
    assert {key: one.near_duplicate_of for key, one in candidates.items()} == {"s": None, "u": sha("a"), "v": None}
    for seed in range(20):  # whatever the sides of their studies are
        members = draft_snapshot(list(candidates.values()), SplitPlan(seed=seed)).members
        places = {(one.split, one.fold) for one in members if one.sha256 in (sha("a"), sha("c"))}
        assert len(places) == 1


def test_hashes_that_differ_in_all_64_bits_or_begin_with_one_are_told_apart(stores):
    ids = receive(stores, arrival("a", bits=0), arrival("b", bits=2**64 - 1), arrival("c", bits=2**63))
    assert [facts(stores, id_)["near_duplicate_of"] for id_ in ids] == [None, None, ids[0]]


def test_pictures_are_near_duplicates_up_to_the_bits_that_were_asked_for(stores):
    base = 0xFFFF_0000_FFFF_0000
    ids = receive(
        stores, arrival("a", bits=base), arrival("b", bits=base ^ 0b1111), arrival("c", bits=base ^ 0b1_1111 << 9)
    )
    assert [facts(stores, id_)["near_duplicate_of"] for id_ in ids] == [None, ids[0], None]


def test_labels_that_name_the_patient_later_move_the_group_and_its_near_duplicates_along(stores):
    first, repeated = receive(stores, arrival("inbox/a.png", bits=7), arrival("inbox/b.png", bits=6))
    told = [claim("inbox/a.png", patient_key="p", body_part="hand", hardware=True)]
    for _ in range(2):
        stores.radiographs.record_labels(received("inbox/labels.csv"), told)
        row = facts(stores, first)
        assert (row["group_key"], row["body_part"], row["hardware"]) == ("patient:p", "hand", True)
        assert facts(stores, repeated)["group_key"] == "patient:p"


def test_labels_that_were_here_first_fill_what_the_file_did_not_carry_and_nothing_else(stores):
    told = [claim("a.png", kind="file_name", scope="inbox/x/", view="lateral", body_part="hip", study_key="s")]
    assert stores.radiographs.record_labels(received("inbox/x/labels.csv"), told)["new"] == 1
    inside, outside = receive(
        stores,
        arrival("inbox/x/images/a.png", view="frontal", media_type=MediaType.DICOM),
        arrival("inbox/y/a.png", "another"),
    )
    row = facts(stores, inside)
    assert (row["view"], row["body_part"], row["study_key"], row["group_key"]) == ("frontal", "hip", "s", "study:s")
    assert facts(stores, outside)["body_part"] == "unknown"


def test_a_radiograph_in_a_snapshot_keeps_its_group_and_facts(stores):
    (frozen,) = receive(stores, arrival("inbox/a.png", claims=[claim("inbox/a.png")]))
    freeze(stores)
    before = facts(stores, frozen)
    told = claim("inbox/a.png", patient_key="p", study_key="s", body_part="hip", view="lateral", hardware=True)
    stores.radiographs.record_labels(received("inbox/labels.csv"), [told])
    assert facts(stores, frozen) == before and before["group_key"] == f"image:{sha('inbox/a.png')}"
    (candidate,) = stores.radiographs.candidates(as_of=datetime.now(UTC))
    assert (candidate.patient_key, candidate.study_key) == ("p", "s"), "what is known of it now ties it to others"


def test_a_picture_between_two_others_makes_one_cluster_of_them(stores):
    base = 0xFFFF_0000_FFFF_0000
    keys = ("a", "b", "between", "far")
    bits = (base, base ^ 0b11_1111, base ^ 0b111, 0x1234_5678_9ABC_DEF0)
    receive(stores, *(arrival(key, bits=b, claims=[claim(key)]) for key, b in zip(keys, bits, strict=True)))
    found = {one.sha256: one.near_duplicate_of for one in stores.radiographs.candidates(as_of=datetime.now(UTC))}
    assert found == {sha("a"): None, sha("b"): sha("a"), sha("between"): sha("a"), sha("far"): None}


def test_what_a_file_tells_of_itself_is_kept(stores):
    told = {"laterality": "R", "view": "lateral", "sex": "F", "age_band": "40-49", "manufacturer": "ACME"}
    told |= {"body_part": "hip", "ordered_priority": "URGENT", "photometric": "RGB", "bits_stored": 12}
    (id_,) = receive(stores, arrival("a", media_type=MediaType.DICOM, **told))
    row = facts(stores, id_)
    assert {name: row[name] for name in told} == told


# --- labels ---------------------------------------------------------------------------------------


def test_the_newest_label_of_the_highest_ranking_source_stands(stores):
    (id_,) = receive(stores, arrival("inbox/a.png", study_key="s", claims=[claim("inbox/a.png", "positive")]))
    assert standing(stores) == {id_: "positive"}
    day = datetime(2026, 1, 1, tzinfo=UTC)
    for number, (value, source, at) in enumerate(
        [
            ("negative", LabelSource.RADIOLOGIST, day),
            ("positive", LabelSource.REPORT, day + timedelta(days=2)),
            ("absent", LabelSource.ADJUDICATION, day),
        ]
    ):
        later = claim("s", value, kind="study_key", source=source, labelled_at=at)
        stores.radiographs.record_labels(received(f"inbox/{number}.csv"), [later])
        assert standing(stores) == {id_: "negative"}
    newer = [
        claim(sha("inbox/a.png"), kind="sha256", source=LabelSource.RADIOLOGIST, labelled_at=day + timedelta(days=1))
    ]
    stores.radiographs.record_labels(received("inbox/newer.csv"), newer)
    assert standing(stores) == {id_: "positive"}


def test_labels_of_equal_rank_that_disagree_leave_uncertain_and_are_counted(stores):
    ids = receive(
        stores,
        arrival("Fractured/a.png", "same", claims=[claim("Fractured/a.png", "positive")]),
        arrival("Non_fractured/a.png", "same", claims=[claim("Non_fractured/a.png", "negative")]),
    )
    assert standing(stores) == {ids[0]: "uncertain"}
    assert stores.radiographs.counts()["contradicted"] == 1


def test_a_dated_label_stands_against_one_of_its_rank_that_nobody_dated(stores):
    (id_,) = receive(stores, arrival("a"))
    dated = claim("a", "negative", source=LabelSource.RADIOLOGIST, labelled_at=datetime(2020, 1, 1, tzinfo=UTC))
    stores.radiographs.record_labels(received("l.csv"), [dated, claim("a", source=LabelSource.RADIOLOGIST)])
    assert standing(stores) == {id_: "negative"}


def test_labels_that_agree_speak_of_a_fracture_where_one_of_them_does(stores):
    receive(stores, arrival("a", claims=[claim("a", meaning="abnormal"), claim("a", meaning="fracture")]))
    (candidate,) = stores.radiographs.candidates(as_of=datetime.now(UTC))
    assert (candidate.label, candidate.meaning) == (LabelValue.POSITIVE, "fracture")


def test_what_an_opinion_that_is_not_positive_drew_is_no_fracture(stores):
    box = Box(x=1, y=2, width=3, height=4)
    receive(stores, arrival("a", claims=[claim("a", "uncertain", boxes=(box,))]))
    stores.radiographs.record_labels(received("l.csv"), [claim("a", source=LabelSource.RADIOLOGIST)])
    (candidate,) = stores.radiographs.candidates(as_of=datetime.now(UTC))
    assert (candidate.label, candidate.boxes) == (LabelValue.POSITIVE, ())


def test_what_a_label_file_said_at_a_time_stays_what_it_said_then(stores):
    receive(stores, arrival("a"))
    times = []
    for etag, value in (("e1", "positive"), ("e2", "negative"), ("e1", "positive"), ("e3", "uncertain")):
        stores.radiographs.record_labels(received("l.csv", etag), [claim("a", value)])
        times.append((datetime.now(UTC), value))
    for at, value in times:
        assert [one.label for one in stores.radiographs.candidates(as_of=at)] == [value]


def test_the_same_opinion_in_two_files_is_one_label(stores):
    assert stores.radiographs.record_labels(received("inbox/a.csv"), [claim("x")])["new"] == 1
    assert stores.radiographs.record_labels(received("inbox/b.csv"), [claim("x"), claim("y")])["new"] == 1


def test_a_corrected_label_file_takes_the_place_of_what_it_said_before_and_may_be_taken_back(stores):
    keys = ("inbox/a.png", "inbox/b.png", "inbox/c.png")
    ids = receive(stores, *map(arrival, keys))
    box = Box(x=1, y=2, width=3, height=4)
    first, second = received("inbox/labels.csv", "e1"), received("inbox/labels.csv", "e2")
    wrong = [claim(keys[0], boxes=(box,)), claim(keys[1], "negative"), claim(keys[2])]
    right = [claim(keys[0], boxes=(replace(box, x=9),)), claim(keys[1])]
    stores.radiographs.record_labels(first, wrong)
    before = datetime.now(UTC)
    assert stores.radiographs.record_labels(second, right) == {"new": 2, "kept_apart": 0}
    assert standing(stores) == {ids[0]: "positive", ids[1]: "positive"}, "c is not in the file any more"
    now = {one.radiograph_id: one for one in stores.radiographs.candidates(as_of=datetime.now(UTC))}
    assert now[ids[0]].boxes == (replace(box, x=9),)
    then = {one.radiograph_id: one for one in stores.radiographs.candidates(as_of=before)}
    assert [str(then[id_].label) for id_ in ids] == ["positive", "negative", "positive"]
    assert then[ids[0]].boxes == (box,)
    # The same version again changes nothing; an earlier one that is back in the bucket is new, and holds.
    assert stores.radiographs.unknown_objects([second]) == []
    assert stores.radiographs.unknown_objects([first]) == [first]
    stores.radiographs.record_labels(first, wrong)
    assert standing(stores) == {ids[0]: "positive", ids[1]: "negative", ids[2]: "positive"}
    assert stores.radiographs.unknown_objects([first]) == []
    assert stores.radiographs.counts()["label_files"] == 2


def test_a_corrected_file_corrects_what_it_told_beside_the_finding_and_a_dicom_keeps_its_own(stores):
    by_file, by_header = receive(
        stores,
        arrival("inbox/a.png"),
        arrival("inbox/b.dcm", media_type=MediaType.DICOM, patient_key="its own", view="frontal", study_key="t"),
    )
    for etag, person, part in (("e1", "wrong", "hip"), ("e2", "right", "knee")):
        told = {"patient_key": person, "body_part": part, "view": "lateral", "study_key": f"of {person}"}
        claims = [claim(key, **told) for key in ("inbox/a.png", "inbox/b.dcm")]
        stores.radiographs.record_labels(received("inbox/l.csv", etag), claims)
    row = facts(stores, by_file)
    assert (row["patient_key"], row["body_part"], row["view"]) == ("right", "knee", "lateral")
    assert (row["study_key"], row["group_key"]) == ("of right", "patient:right")
    row = facts(stores, by_header)
    assert (row["patient_key"], row["view"], row["study_key"]) == ("its own", "frontal", "t")


def test_a_label_file_that_is_back_and_cannot_be_read_now_leaves_what_holds(stores):
    (id_,) = receive(stores, arrival("inbox/a.png"))
    first, second, third = (received("inbox/l.csv", etag) for etag in ("e1", "e2", "e3"))
    stores.radiographs.record_labels(first, [claim("inbox/a.png")])
    stores.radiographs.record_labels(second, [claim("inbox/a.png", "negative")])
    assert stores.radiographs.unknown_objects([first]) == [first]
    stores.radiographs.record_quarantined(first, "too_large", "It is too large.")
    assert stores.radiographs.unknown_objects([first]) == [], "it was looked at"
    assert standing(stores) == {id_: "negative"}
    stores.radiographs.record_labels(third, [claim("inbox/a.png", "uncertain")])
    assert standing(stores) == {id_: "uncertain"}


def test_at_no_time_does_a_file_that_is_replaced_say_nothing(stores):
    count = 300
    ids = receive(stores, *(arrival(f"inbox/{n}.png") for n in range(count)))
    for etag, value in (("e1", "positive"), ("e2", "negative")):
        stores.radiographs.record_labels(
            received("inbox/l.csv", etag), [claim(f"inbox/{n}.png", value) for n in range(count)]
        )
    with stores.engine.connect() as connection:
        times = connection.exec_driver_sql("SELECT DISTINCT told_from, told_until FROM fracture.label_told").all()
    (replaced,) = [row.told_until for row in times if row.told_until]
    assert len(times) == 2 and {row.told_from for row in times if not row.told_until} == {replaced}
    assert len(stores.radiographs.candidates(as_of=replaced)) == len(ids)


def test_what_another_file_or_a_folder_says_too_stays_when_a_file_no_longer_says_it(stores):
    (a, b) = receive(stores, arrival("fracture/a.png", claims=[claim("fracture/a.png")]), arrival("b.png"))
    both = [claim("fracture/a.png"), claim("b.png")]
    stores.radiographs.record_labels(received("one.csv", "e1"), both)
    stores.radiographs.record_labels(received("two.csv"), both)
    stores.radiographs.record_labels(received("one.csv", "e2"), [])
    assert standing(stores) == {a: "positive", b: "positive"}
    stores.radiographs.record_labels(received("two.csv", "e2"), [])
    assert standing(stores) == {a: "positive"}


def test_a_final_read_speaks_of_the_images_that_were_there_to_be_read(stores):
    (seen,) = receive(stores, arrival("a", study_key="s"))
    list_studies(stores, None)
    act(stores, "s", "report", value="negative")
    (late,) = receive(stores, arrival("b", study_key="s"))
    assert standing(stores) == {seen: "negative"}
    act(stores, "s", "reopen")
    act(stores, "s", "report", value="uncertain", radiograph_ids=[seen])  # it is here, and was not shown
    assert standing(stores) == {seen: "uncertain"}
    list_studies(stores, None)
    act(stores, "s", "report", value="positive", radiograph_ids=[seen, late])
    assert standing(stores) == {seen: "positive", late: "positive"}
    # An image that is told to belong to the study afterwards was not read either.
    (moved,) = receive(stores, arrival("inbox/c.png"))
    stores.radiographs.record_labels(received("l.csv"), [claim("inbox/c.png", "negative", study_key="s")])
    assert facts(stores, moved)["study_key"] == "s" and standing(stores)[moved] == "negative"


def test_a_final_read_is_a_radiologists_word_that_a_later_report_does_not_overrule(stores):
    (id_,) = receive(stores, arrival("a", study_key="s"))
    list_studies(stores, None)
    act(stores, "s", "report", value="negative")
    later = datetime.now(UTC) + timedelta(days=1)
    for source, value in ((LabelSource.REPORT, "negative"), (LabelSource.RADIOLOGIST, "positive")):
        told = claim("a", "positive", source=source, labelled_at=later)
        stores.radiographs.record_labels(received(f"{source}.csv"), [told])
        assert standing(stores) == {id_: value}


def test_a_study_that_was_kept_off_the_list_is_looked_at_again_when_its_labels_change(stores):
    receive(stores, arrival("inbox/a.png", study_key="s", claims=[claim("inbox/a.png", "negative")]))
    (study,) = stores.worklist.studies_to_rank(None, list_labelled=False)
    assert study.labelled
    stores.worklist.keep_off([study])
    assert stores.worklist.studies_to_rank(None, list_labelled=False) == []
    stores.radiographs.record_labels(received("inbox/labels.csv"), [claim("inbox/a.png", "uncertain")])
    (again,) = stores.worklist.studies_to_rank(None, list_labelled=False)
    assert not again.labelled
    stores.worklist.keep_off([study])  # decided by what was read before the label changed
    assert stores.worklist.studies_to_rank(None, list_labelled=False) == [again]


def test_only_what_is_still_in_the_inbox_is_tried_again(stores):
    here, gone = received("inbox/here.png"), received("inbox/gone.png")
    for one in (here, gone):
        stores.radiographs.record_quarantined(one, "too_large", "It is too large.")
    assert stores.radiographs.retry_quarantined("too_large", [here, received("inbox/new.png")]) == 1
    assert stores.radiographs.unknown_objects([here, gone]) == [here]
    assert stores.radiographs.quarantined_with("too_large") == 1


def test_candidates_leave_out_what_came_after_the_time_that_was_asked_for(stores):
    receive(stores, arrival("inbox/a.png", claims=[claim("inbox/a.png", "negative")]))
    between = datetime.now(UTC)
    stores.radiographs.record_labels(
        received("inbox/b.csv"), [claim("inbox/a.png", "positive", source=LabelSource.RADIOLOGIST)]
    )
    receive(stores, arrival("inbox/b.png", claims=[claim("inbox/b.png")]))
    assert [one.label for one in stores.radiographs.candidates(as_of=between)] == [LabelValue.NEGATIVE]
    assert len(stores.radiographs.candidates(as_of=datetime.now(UTC))) == 2
    assert stores.radiographs.candidates(as_of=between - timedelta(days=1)) == []
    # A label that was here before its image makes no candidate of what was not.
    stores.radiographs.record_labels(received("inbox/c.csv"), [claim("inbox/c.png")])
    before = datetime.now(UTC)
    receive(stores, arrival("inbox/c.png"))
    assert len(stores.radiographs.candidates(as_of=before)) == 2
    assert len(stores.radiographs.candidates(as_of=datetime.now(UTC))) == 3


# --- what is told about radiographs ---------------------------------------------------------------


def test_radiographs_are_told_about_in_the_order_asked_and_a_missing_one_is_an_error(stores):
    ids = receive(stores, arrival("a"), arrival("b"), arrival("c", width_px=3000, photometric="RGB", sex="F"))
    asked = [ids[2], ids[0]]
    assert [one.radiograph_id for one in stores.radiographs.stored(asked)] == asked
    assert stores.radiographs.stored([]) == []
    told = stores.radiographs.subgroups_of(asked)[ids[2]]
    assert told == {
        "body_part": "unknown",
        "view": "unknown",
        "hardware": "unknown",
        "sex": "F",
        "age_band": "unknown",
        "manufacturer": "unknown",
        "media_type": "image/png",
        "size_band": "2048 px and more",
    }
    numbers = stores.radiographs.file_facts_of(asked)[ids[2]]
    assert numbers["is_rgb"] == 1.0 and numbers["width_px"] == 3000.0
    with pytest.raises(UnknownRadiograph):
        stores.radiographs.stored([ids[0], 999])


def test_a_study_that_is_on_the_worklist_keeps_its_key(stores):
    (id_,) = receive(stores, arrival("inbox/a.png"))
    stores.worklist.save_items([ranked(study) for study in stores.worklist.studies_to_rank(None)])
    stores.radiographs.record_labels(received("inbox/b.csv"), [claim("inbox/a.png", study_key="s", patient_key="p")])
    row = facts(stores, id_)
    assert (row["study_key"], row["group_key"]) == (sha("inbox/a.png"), "patient:p")


def test_how_many_images_a_label_file_came_too_late_for_is_told(stores):
    keys = ("inbox/a.png", "inbox/b.png")
    receive(stores, arrival(keys[0]))
    stores.worklist.save_items([ranked(study) for study in stores.worklist.studies_to_rank(None)])
    receive(stores, arrival(keys[1]))
    told = [claim(key, study_key="s") for key in keys]
    assert stores.radiographs.record_labels(received("inbox/labels.csv"), told)["kept_apart"] == 1


def test_a_batch_that_fails_leaves_nothing_behind(stores):
    with pytest.raises(Exception, match="radiograph_media_type_check"):
        receive(stores, arrival("a"), arrival("b", media_type="image/gif"))
    with transaction(stores.engine) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM fracture.received_object").scalar_one() == 0
