"""Where labels drew fractures, in the square that a network sees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracture_ml.core.records import Box
from fracture_ml.data.boxes import WHOLE, boxes_in_square
from fracture_ml.imaging.letterbox import LetterboxGeometry


@given(
    size=st.tuples(*[st.integers(20, 4000)] * 2),
    corner=st.tuples(*[st.floats(0.0, 0.8)] * 2),
    sides=st.tuples(*[st.floats(0.05, 0.2)] * 2),
)
def test_a_box_covers_the_same_part_of_the_image_in_the_square(size, corner, sides):
    width, height = size
    box = Box(x=corner[0] * width, y=corner[1] * height, width=sides[0] * width, height=sides[1] * height)
    geometry = LetterboxGeometry.of(width, height, 224)
    left, top, right, bottom = geometry.to_square(box)
    assert 0 <= left < right <= 224 and 0 <= top < bottom <= 224
    across = [(x - geometry.left_px) / geometry.inner_width_px for x in (left, right)]
    down = [(y - geometry.top_px) / geometry.inner_height_px for y in (top, bottom)]
    assert across == pytest.approx([corner[0], corner[0] + sides[0]])
    assert down == pytest.approx([corner[1], corner[1] + sides[1]])


def test_boxes_are_shares_of_the_letterboxed_square_whatever_its_size():
    box = Box(x=100, y=50, width=100, height=100)
    (square,) = boxes_in_square([(1, (box,), 400, 200)])  # black above and below: a quarter of the square each
    assert square.dtype == np.float32
    assert square == pytest.approx(np.array([[0.25, 0.375, 0.5, 0.625]]), abs=1e-6)


def test_a_box_is_cut_to_its_image_and_one_that_lies_beside_it_is_none():
    over = Box(x=-50, y=-50, width=150, height=150)
    none = (
        Box(x=500, y=0, width=10, height=10),
        Box(x=0, y=500, width=10, height=10),
        Box(x=5, y=5, width=0, height=9),
        Box(x=5, y=5, width=9, height=0),
    )
    (square,) = boxes_in_square([(1, (over, *none), 200, 200)])
    assert square == pytest.approx(np.array([[0, 0, 0.5, 0.5]]))
    assert boxes_in_square([(1, none, 200, 200)]).tolist() == [[list(WHOLE)]]


def test_a_fracture_that_nobody_drew_may_be_anywhere_and_an_image_without_one_has_no_box():
    box = Box(x=0, y=0, width=10, height=20)
    square = boxes_in_square([(1, (), 100, 100), (0, (box,), 100, 100), (1, (box, box, box), 100, 100)])
    assert square.shape == (3, 3, 4)
    assert square[0].tolist() == [list(WHOLE), [0] * 4, [0] * 4]
    assert not square[1].any()
    assert square[2] == pytest.approx(np.tile([0, 0, 0.1, 0.2], (3, 1)))
    assert boxes_in_square([(0, (), 5, 5)]).tolist() == [[[0, 0, 0, 0]]]
