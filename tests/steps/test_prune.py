"""What is pruned is what nobody can see."""

from datetime import UTC, datetime, timedelta

import pytest

from fracture_ml.steps.prune import KEPT_FOR, prune
from fracture_ml.steps.worklist import rank_worklist
from tests.plugins.drawn import Drawn, predict, promote_champion, receive


@pytest.fixture
def later() -> datetime:
    return datetime.now(UTC) + KEPT_FOR + timedelta(hours=1)


def objects(bucket) -> set[str]:
    return {found.key for folder in ("attention/", "training/") for found in bucket.list(folder)}


def act(stores, study: Drawn, action: str, **details) -> None:
    row_version = stores.worklist.item_of(study.study_key)["row_version"]
    stores.worklist.act(study.study_key, action, actor="reader", row_version=row_version, details=details)


def test_pictures_that_no_study_shows_go_and_those_of_closed_studies_and_two_champions_stay(
    stores, settings, bucket, later
):
    closed, open_ = Drawn(name="closed", scores=(0.9,)), Drawn(name="open", scores=(0.9,))
    ids = {study.name: receive(stores, study) for study in (closed, open_)}
    of_version = {}
    for seed in range(4):
        version = promote_champion(stores, seed=seed)
        before = objects(bucket)
        for study in (closed, open_):
            predict(stores, version, ids[study.name], study.scores)
        of_version[version] = objects(bucket) - before
        rank_worklist(stores, settings)
        if seed == 0:
            act(stores, closed, "report", value="negative")
            act(stores, closed, "close")
    first, second, third, fourth = of_version
    everything = objects(bucket)
    assert [len(found) for found in of_version.values()] == [4, 4, 4, 4]
    assert prune(stores, at=datetime.now(UTC))["pictures"] == 0  # too young
    counts = prune(stores, at=later, dry_run=True)
    assert counts["pictures"] == 6 and counts["bytes"] > 0 and objects(bucket) == everything
    assert prune(stores, at=later) == counts
    # Of the first version what the closed study shows; of the second nothing, since the open one shows the fourth.
    shown = {stores.predictions.prediction_of(first, ids["closed"][0])[key] for key in ("heat_map_key", "overlay_key")}
    assert objects(bucket) == shown | of_version[third] | of_version[fourth]
    assert prune(stores, at=later)["pictures"] == 0
    assert second not in {version for version in of_version if of_version[version] & objects(bucket)}


def test_checkpoints_that_were_given_up_go_and_what_a_training_made_stays(stores, bucket, later):
    for name in ("one/checkpoint.pt", "one/history.json", "two/trained.json"):
        bucket.write(f"training/{name}", b"bytes")
    assert prune(stores, at=datetime.now(UTC))["checkpoints"] == 0
    assert prune(stores, at=later) == {"pictures": 0, "checkpoints": 1, "bytes": 5}
    assert objects(bucket) == {"training/one/history.json", "training/two/trained.json"}
