"""PNGs of our own packing, read by Pillow."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from fracture_ml.imaging.png import read_png_structure
from fracture_ml.scoring.png import png_of

_PICTURES = arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)))


@given(_PICTURES)
def test_greys_come_back_bit_for_bit(pixels):
    with Image.open(io.BytesIO(png_of(pixels))) as picture:
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture), pixels)


@given(_PICTURES)
def test_entries_show_the_palettes_colours(pixels):
    palette = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(png_of(pixels, palette.tobytes()))) as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture.convert("RGB")), palette[pixels])


@pytest.mark.parametrize("palette", [None, bytes(range(256)) * 3])
def test_a_strict_reader_finds_it_whole(palette):
    structure = read_png_structure(png_of(np.eye(300, 200, dtype=np.uint8), palette))
    structure.require_whole()
    assert (structure.width_px, structure.height_px) == (200, 300)


def test_the_same_picture_is_the_same_bytes_and_is_packed():
    pixels = np.tile(np.arange(200, dtype=np.uint8), (300, 1))
    assert png_of(pixels) == png_of(pixels.copy())
    assert len(png_of(pixels)) < pixels.size / 10
