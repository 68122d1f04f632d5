"""The page's memory of rendered pictures."""

import pytest
from fracture_worklist.pictures import Pictures


def test_a_picture_is_rendered_once_and_the_least_recently_used_goes_first():
    rendered = []

    def render(name: str) -> bytes:
        rendered.append(name)
        return b"x" * 40

    pictures = Pictures(max_bytes=100)
    for name in ("a", "b", "a", "c", "a", "b"):
        assert pictures.get(name, lambda name=name: render(name)) == b"x" * 40
    assert rendered == ["a", "b", "c", "b"]


def test_a_picture_larger_than_the_memory_and_a_failed_one_are_not_kept():
    pictures = Pictures(max_bytes=10)
    assert pictures.get("large", lambda: b"x" * 11) == b"x" * 11
    assert pictures.get("large", lambda: b"again") == b"again"
    with pytest.raises(ZeroDivisionError):
        pictures.get("failed", lambda: bytes(1 // 0))
    assert pictures.get("failed", lambda: b"now") == b"now"
