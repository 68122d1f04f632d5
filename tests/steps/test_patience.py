"""How long a server that is away is waited for."""

import pytest

from fracture_ml.core.errors import BundleMismatch, StorageUnavailable
from fracture_ml.steps import patience
from fracture_ml.steps.patience import patiently


class Clock:
    """Time that passes by sleeping and by work."""

    def __init__(self) -> None:
        self.now = 1000.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tenacity.time.monotonic", lambda: clock.now)
    monkeypatch.setattr("tenacity.nap.time.sleep", clock.sleep)
    return clock


def test_a_server_that_stays_away_is_given_up_after_two_minutes(clock):
    tries = []

    def do() -> None:
        tries.append(clock.now)
        raise StorageUnavailable("away")

    with pytest.raises(StorageUnavailable):
        patiently(do)
    assert 120 <= tries[-1] - tries[0] < 120 + patience._LONGEST_WAIT_S and len(tries) > 8


def test_work_that_fails_after_an_hour_is_done_once_more(clock):
    tries = []

    def do() -> str:
        tries.append(clock.now)
        clock.sleep(3600)
        if len(tries) == 1:
            raise StorageUnavailable("away")
        return "done"

    assert patiently(do) == "done" and len(tries) == 2


def test_what_no_waiting_mends_is_not_tried_again(clock):
    tries = []

    def do() -> None:
        tries.append(clock.now)
        raise BundleMismatch("another hash")

    with pytest.raises(BundleMismatch):
        patiently(do)
    assert len(tries) == 1
