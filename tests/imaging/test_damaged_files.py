"""Whatever the bytes are, the answer is a radiograph or one of our reasons: never another exception."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fracture_ml.core.errors import Truncated, UnusableObject
from fracture_ml.imaging.decode import DecodeLimits, decode, sniff
from fracture_ml.imaging.deidentify import deidentify
from fracture_ml.imaging.facts import read_facts
from tests.imaging.made_files import SECRET, compressed, dicom_of, jpeg_of, limb, png_of

SMALL = DecodeLimits(max_pixels=1e6)
KINDS = [
    "png",
    "png, RGB",
    "jpeg",
    "jpeg, progressive",
    "dicom",
    "dicom, RLELossless",
    "dicom, JPEGLSLossless",
    "dicom, JPEGLosslessProcess14_1",
    "dicom, JPEG2000Lossless",
]


@cache
def whole_file(kind):
    if kind == "png":
        return png_of(limb(48, 40))
    if kind == "png, RGB":
        return png_of(Image.fromarray(limb(48, 40)).convert("RGB"))
    if kind.startswith("jpeg"):
        return jpeg_of(limb(48, 40), progressive="progressive" in kind)
    plain = dicom_of(limb(48, 40).astype(np.uint16) * 16, PatientID="4711", WindowCenter=2000, WindowWidth=3000)
    if kind == "dicom":
        return plain
    with TemporaryDirectory() as folder:
        return compressed(plain, kind.removeprefix("dicom, "), Path(folder))


def outcome_of(data):
    """What becomes of `data`: read, or the code of our error. Anything else that is raised fails the test."""
    try:
        facts = read_facts(data, site_secret=SECRET, limits=SMALL)
        stored = deidentify(data, facts.media_type, site_secret=SECRET)
    except UnusableObject as fault:
        assert str(fault).endswith(".")
        return fault.code
    # What was accepted is accepted again from the store, as the same picture.
    assert np.array_equal(decode(stored, SMALL), decode(data, SMALL))
    return "read"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(choices=st.data())
def test_a_damaged_file_is_read_or_refused_with_a_reason(kind, choices):
    data = bytearray(whole_file(kind))
    for _ in range(choices.draw(st.integers(1, 8))):
        place = choices.draw(st.integers(0, len(data) - 1))
        data[place] = choices.draw(st.integers(0, 255))
    cut = choices.draw(st.integers(0, 3))
    if cut == 0:
        data = data[: choices.draw(st.integers(0, len(data)))]
    elif cut == 1:
        place = choices.draw(st.integers(0, len(data)))
        data[place:place] = choices.draw(st.binary(max_size=40))
    outcome_of(bytes(data))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_is_never_read(kind):
    data = whole_file(kind)
    assert outcome_of(data) == "read"
    # A compressed DICOM ends with an item that closes its pixels; the pixels themselves end before it.
    tail = 8 if kind.startswith("dicom,") else 0
    for end in range(0, len(data) - tail - 1, max(1, len(data) // 60)):
        assert outcome_of(data[:end]) != "read"
    with pytest.raises(Truncated):
        read_facts(data[: len(data) * 9 // 10], site_secret=SECRET, limits=SMALL)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", bytes(128) + b"DICM", b""]), st.binary(max_size=400))
def test_random_bytes_are_no_radiograph(start, rest):
    assert outcome_of(start + rest) != "read"


def test_the_name_of_every_reason_is_a_word_for_machines():
    for data in (b"", b"text", png_of(limb())[:50]):
        with pytest.raises(UnusableObject) as refusal:
            decode(data)
        assert refusal.value.code.replace("_", "").isalpha()
    assert sniff(whole_file("dicom")) == "application/dicom"
