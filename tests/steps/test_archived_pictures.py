"""Heat maps and overlays in the bucket, on a real S3."""

import pytest

from fracture_ml.core.errors import ObjectNotFound
from fracture_ml.steps.pictures import read_picture, write_pictures


def test_each_radiograph_gets_its_own_picture_out_of_the_archive(bucket):
    write_pictures(bucket, "attention/1/0/7-heat_maps.zip", {7: b"seven", 1007: b"thousand and seven"})
    assert read_picture(bucket, "attention/1/0/7-heat_maps.zip", 7) == b"seven"
    assert read_picture(bucket, "attention/1/0/7-heat_maps.zip", 1007) == b"thousand and seven"


def test_the_same_pictures_are_the_same_object(bucket):
    for key in ("attention/1", "attention/2"):
        write_pictures(bucket, key, {1: b"one", 2: b"two"})
    assert bucket.read("attention/1") == bucket.read("attention/2")


def test_a_picture_that_is_a_png_of_its_own_is_still_read(bucket):
    bucket.write("attention/1/0/7-heat_map.png", b"seven", "image/png")
    assert read_picture(bucket, "attention/1/0/7-heat_map.png", 7) == b"seven"


def test_an_archive_without_the_radiograph_is_told(bucket):
    write_pictures(bucket, "attention/1/0/7-heat_maps.zip", {7: b"seven"})
    with pytest.raises(ObjectNotFound, match="picture"):
        read_picture(bucket, "attention/1/0/7-heat_maps.zip", 8)
