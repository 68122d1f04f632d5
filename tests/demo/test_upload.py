"""The demo's way into the bucket: what is new or changed goes up, and nothing else."""

import io

from rich.console import Console

from fracture_ml.demo.run import upload
from fracture_ml.stores import Stores


def sent(stores: Stores, folder) -> str:
    told = io.StringIO()
    upload(Console(file=told, width=200), stores, folder, prefix="inbox/set/")
    return told.getvalue().strip()


def test_a_corrected_file_of_the_same_size_goes_up_and_an_unchanged_one_does_not(stores, tmp_path):
    (tmp_path / "manifest.csv").write_text("object_key,label\na.png,0\n")
    (tmp_path / "a.png").write_bytes(b"not looked at")
    assert sent(stores, tmp_path) == "2 files, 2 of them new in the bucket"
    assert sent(stores, tmp_path) == "2 files, 0 of them new in the bucket"
    (tmp_path / "manifest.csv").write_text("object_key,label\na.png,1\n")
    assert sent(stores, tmp_path) == "2 files, 1 of them new in the bucket"
    assert stores.bucket.read("inbox/set/manifest.csv").endswith(b"a.png,1\n")
