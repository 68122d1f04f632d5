"""Where in an image something is, in words."""

from fracture_ml.core.records import Box

_DOWN = ("upper", "middle", "lower")
_ACROSS = ("left", "middle", "right")


def place_in_words(box: Box, width_px: int, height_px: int) -> str:
    """The ninth of the image in which the box's middle lies: "upper left", "middle", "lower middle".

    Left and right are the picture's, not the patient's.

    Args: box: in source pixels. width_px, height_px: of the source.
    """
    down = _DOWN[_third((box.y + box.height / 2) / height_px)]
    across = _ACROSS[_third((box.x + box.width / 2) / width_px)]
    return down if down == across else f"{down} {across}"


def _third(share: float) -> int:
    return min(2, max(0, int(3 * share)))
