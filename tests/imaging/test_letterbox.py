import numpy as np
import pytest

from fracture_ml.core.records import Box
from fracture_ml.imaging.letterbox import LetterboxGeometry, letterbox
from tests.imaging.made_files import limb


@pytest.mark.parametrize(("height", "width"), [(454, 373), (300, 900), (64, 64), (5, 400)])
def test_a_radiograph_keeps_its_aspect_in_the_middle_of_a_black_square(height, width):
    square = letterbox(np.full((height, width), 200, np.uint8), 128)
    assert (square.shape, square.dtype) == ((128, 128), np.uint8)
    rows, columns = np.flatnonzero(square.any(axis=1)), np.flatnonzero(square.any(axis=0))
    assert rows.size / columns.size == pytest.approx(height / width, rel=0.5 if min(height, width) < 10 else 0.02)
    assert abs((rows[0] + rows[-1]) - 127) <= 1
    assert abs((columns[0] + columns[-1]) - 127) <= 1
    assert set(np.unique(square)) <= {0, 200}


def test_the_bright_shaft_is_where_the_geometry_says():
    pixels = np.zeros((400, 300), np.uint8)
    pixels[200:240, 90:120] = 255
    rows, columns = np.nonzero(letterbox(pixels, 200) > 127)
    shaft = LetterboxGeometry.of(300, 400, 200).to_square(Box(x=90, y=200, width=30, height=40))
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == pytest.approx(shaft, abs=1)


def test_a_place_beyond_the_image_is_cut_to_it_and_never_lies_in_the_margin():
    geometry = LetterboxGeometry.of(100, 200, 50)
    assert geometry.to_square(Box(x=-10, y=-10, width=150, height=300)) == (12, 0, 37, 50)
    assert geometry.to_square(Box(x=150, y=0, width=10, height=10)) == (37, 0, 37, 2.5)


def test_shrinking_is_antialiased():
    stripes = np.tile(np.array([0, 255], np.uint8), (512, 256))
    inside = letterbox(stripes, 64)[8:-8, 8:-8].astype(int)
    assert np.ptp(inside) < 20 and inside.mean() == pytest.approx(127.5, abs=5)
    assert letterbox(limb(96, 80), 96).max() > 150
