"""Exactly one outcome per radiograph and version."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from fracture_ml.core.errors import DatabaseRefused, DatabaseUnavailable
from fracture_ml.core.records import Box, OperatingPoint
from fracture_ml.stores.database import transaction
from fracture_ml.stores.predictions import PredictionRow
from tests.stores.stored_rows import arrival, receive, register, rejected, scored


def due_of(stores, version: int) -> list[int]:
    """What is due of the first block, oldest first."""
    with stores.predictions.claim(version, 0) as claim:
        return [one.radiograph_id for one in claim.due()]


def test_ranges_hold_at_most_a_batch_of_what_has_no_outcome(stores, version):
    receive(stores, *(arrival(f"{number}") for number in range(5)))
    everything = due_of(stores, version)
    assert len(everything) == 7
    assert stores.predictions.due_ranges(version, batch_size=3) == [
        (everything[4], everything[6]),
        (everything[1], everything[3]),
        (everything[0], everything[0]),
    ]
    stores.predictions.save(version, [scored(id_) for id_ in everything[1:4]])
    assert stores.predictions.due_ranges(version, batch_size=100) == [(everything[0], everything[-1])]
    assert due_of(stores, version) == [everything[0], *everything[4:]]


def test_what_is_complete_is_not_looked_at_again_and_what_comes_later_is_due(stores, version):
    ids = due_of(stores, version)
    assert stores.predictions.reconcile(version) == {"radiographs": 2, "scored": 0, "rejected": 0, "missing": 2}
    stores.predictions.save(version, [scored(ids[0])])
    assert stores.predictions.reconcile(version)["missing"] == 1
    assert stores.predictions.due_ranges(version, batch_size=10) == [(ids[1], ids[1])]
    stores.predictions.save(version, [rejected(ids[1])])
    for _ in range(2):
        assert stores.predictions.reconcile(version) == {"radiographs": 2, "scored": 1, "rejected": 1, "missing": 0}
        assert stores.predictions.due_ranges(version, batch_size=10) == []
    (later,) = receive(stores, arrival("later"))
    assert stores.predictions.due_ranges(version, batch_size=10) == [(later, later)]
    other = register(stores, stores.registry.version_of(version).snapshot_id).version
    assert stores.predictions.due_ranges(other, batch_size=10) == [(ids[0], later)]


def test_a_run_looks_no_further_than_the_radiograph_that_was_newest_when_it_began(stores, version):
    through = stores.radiographs.newest_id()
    due = due_of(stores, version)
    receive(stores, arrival("came meanwhile"))
    assert stores.predictions.due_ranges(version, batch_size=10, through=through) == [(due[0], due[-1])]
    stores.predictions.save(version, [scored(id_) for id_ in due])
    assert stores.predictions.reconcile(version, through=through)["missing"] == 0
    assert stores.predictions.reconcile(version)["missing"] == 1
    assert len(stores.predictions.due_ranges(version, batch_size=10)) == 1


def test_the_first_outcome_of_a_radiograph_stands(stores, version):
    (id_,) = receive(stores, arrival("a"))
    box = Box(x=1, y=2, width=3, height=4)
    row = PredictionRow(
        radiograph_id=id_,
        probability=0.8,
        calibrated=0.75,
        operating_point=OperatingPoint.URGENT,
        heat_map_key="heat/a",
        box=box,
    )
    assert stores.predictions.save(version, [row]) == 1
    assert stores.predictions.save(version, [rejected(id_)]) == 0
    assert stores.predictions.save(version, []) == 0
    found = stores.predictions.prediction_of(version, id_)
    assert (found["probability"], found["calibrated"], found["reason"]) == (0.8, 0.75, None)
    assert Box(**found["box"]) == box and found["heat_map_key"] == "heat/a"
    assert stores.predictions.prediction_of(version, 999) is None


def test_two_savings_of_the_same_predictions_at_once_leave_one_row_each(stores, version):
    ids = receive(stores, *(arrival(f"{number}") for number in range(50)))
    together = threading.Barrier(2)

    def save(order: int) -> int:
        together.wait()
        return stores.predictions.save(version, [scored(id_) for id_ in ids[::order]])

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(save, (1, -1))) == 50
    assert stores.predictions.reconcile(version)["scored"] == 50


def test_blocks_are_named_by_their_ids_and_those_without_work_are_not(stores, version):
    ids = receive(stores, *(arrival(f"{number}") for number in range(600)))
    last = max(ids)
    assert stores.predictions.due_blocks(version, first=1, last=last) == [2, 1, 0]
    assert stores.predictions.due_blocks(version, first=300, last=400) == [1]
    with stores.predictions.claim(version, 1) as claim:
        due = [one.radiograph_id for one in claim.due()]
        assert due == list(range(256, 512))
        assert claim.save([scored(id_) for id_ in due]) == 256
    assert stores.predictions.due_blocks(version, first=1, last=last) == [2, 0]
    other = register(stores, stores.registry.version_of(version).snapshot_id).version
    assert stores.predictions.due_blocks(other, first=1, last=last) == [2, 1, 0], "it has scored none of them"


def test_a_claimed_block_is_nobody_elses_until_the_claim_ends_and_an_error_writes_nothing(stores, version):
    with stores.predictions.claim(version, 0) as claim, stores.predictions.claim(version, 0) as second:
        assert claim is not None and second is None
        with stores.predictions.claim(version, 1) as other_block, stores.predictions.claim(version + 1, 0) as other:
            assert other_block is not None and other is not None
    with pytest.raises(ZeroDivisionError), stores.predictions.claim(version, 0) as claim:
        claim.save([scored(1)])
        raise ZeroDivisionError
    with stores.predictions.claim(version, 0) as claim:
        assert [one.radiograph_id for one in claim.due()] == [1, 2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"probability": 0.5, "reason": "both", "calibrated": 0.5, "operating_point": "below"},
        {},
        {"probability": 0.5},
        {"probability": 1.5, "calibrated": 0.5, "operating_point": "below"},
        {"probability": float("nan"), "calibrated": 0.5, "operating_point": "below"},
    ],
)
def test_a_row_with_both_or_neither_is_refused_and_so_is_its_batch(stores, version, wrong):
    first, second = receive(stores, arrival("a"), arrival("b"))
    with pytest.raises(DatabaseRefused, match="prediction_"):
        stores.predictions.save(version, [scored(first), PredictionRow(radiograph_id=second, **wrong)])
    assert stores.predictions.reconcile(version)["scored"] == 0


def test_a_claim_whose_connection_is_gone_says_so(stores, version):
    with pytest.raises(DatabaseUnavailable), stores.predictions.claim(version, 0) as claim:
        claim.require_held()
        with transaction(stores.engine) as other:
            other.execute(text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"))
        claim.require_held()
