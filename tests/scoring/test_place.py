"""A place in an image, in words."""

import pytest

from fracture_ml.core.records import Box
from fracture_ml.scoring.place import place_in_words


@pytest.mark.parametrize(
    ("box", "words"),
    [
        (Box(x=0, y=0, width=30, height=30), "upper left"),
        (Box(x=280, y=0, width=20, height=40), "upper right"),
        (Box(x=140, y=10, width=20, height=40), "upper middle"),
        (Box(x=10, y=280, width=20, height=40), "middle left"),
        (Box(x=140, y=290, width=20, height=20), "middle"),
        (Box(x=200, y=280, width=99, height=40), "middle right"),
        (Box(x=0, y=500, width=60, height=100), "lower left"),
        (Box(x=0, y=0, width=300, height=600), "middle"),
        (Box(x=270, y=570, width=60, height=60), "lower right"),  # its middle lies on the corner
    ],
)
def test_a_boxs_middle_is_told_by_ninths_of_the_picture(box, words):
    assert place_in_words(box, 300, 600) == words
