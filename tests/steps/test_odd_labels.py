"""A label file that names images which never came: nothing is lost, and nothing is invented."""

from datetime import UTC, datetime

from numpy.random import default_rng
from PIL import Image

from fracture_ml.core.recipe import SplitPlan
from fracture_ml.data.splits import draft_snapshot
from fracture_ml.steps import ingest
from tests.running import environment_of, settings_of


def test_labels_of_unknown_images_wait_for_them_and_train_nothing(stores, s3, bucket, database_url, tmp_path):
    settings = settings_of(environment_of(database_url, s3, bucket, tmp_path))

    def put_image(name: str) -> None:
        path = tmp_path / name
        Image.fromarray(default_rng(ord(name[0])).integers(0, 255, (64, 64), dtype="uint8")).save(path)
        bucket.write(f"inbox/odd/{name}", path.read_bytes())

    def labelled() -> list[str | None]:
        candidates = stores.radiographs.candidates(as_of=datetime.now(UTC))
        return [member.label for member in draft_snapshot(candidates, SplitPlan()).members]

    put_image("here.png")
    rows = [
        "object_key,label",
        "here.png,positive",
        "late.png,negative",
        *(f"never{n}.png,positive" for n in range(50)),
    ]
    bucket.write("inbox/odd/manifest.csv", "\n".join(rows).encode())
    counts = ingest.ingest_inbox(stores, settings)
    assert (counts["radiograph"], counts["labels"], counts["quarantined"]) == (1, 1, 0)
    assert labelled() == [1]
    put_image("late.png")
    ingest.ingest_inbox(stores, settings)
    assert sorted(labelled()) == [0, 1]
