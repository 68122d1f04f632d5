import io

import numpy as np
from PIL import Image

from fracture_ml.imaging.decode import decode
from fracture_ml.imaging.fingerprint import NEAR_DUPLICATE_BITS, perceptual_hash
from tests.imaging.made_files import jpeg_of, limb


def distance(one, other):
    return (perceptual_hash(one) ^ perceptual_hash(other)).bit_count()


def test_the_hash_has_64_unsigned_bits():
    assert 0 <= perceptual_hash(limb()) < 2**64


def test_a_copy_that_was_resized_recompressed_or_brightened_is_a_near_duplicate():
    original = limb(454, 373)
    for copy in (
        original,
        np.asarray(Image.fromarray(original).resize((186, 227))),
        decode(jpeg_of(original, quality=30)),
        decode(jpeg_of(original), at_least_px=200),
        (original * 1.1).clip(0, 255).astype(np.uint8),
        (original * 0.85).astype(np.uint8),
    ):
        assert distance(original, copy) <= NEAR_DUPLICATE_BITS


def test_different_limbs_are_no_near_duplicates():
    hashes = np.array([perceptual_hash(limb(seed=seed)) for seed in range(40)], np.uint64)
    for place, value in enumerate(hashes):
        assert np.delete(np.bitwise_count(hashes ^ value), place).min() > NEAR_DUPLICATE_BITS


def test_of_the_real_radiographs_the_same_pictures_are_linked_and_different_ones_hardly_ever(real_data):
    """Pairs are called the same picture where they correlate at 32 x 32 by more than 0.99. Every third file."""
    hashes, pictures = [], []
    for path in sorted((real_data / "fracatlas" / "images").glob("*/IMG000[01]*.jpg"))[::3]:
        pixels = decode(path.read_bytes(), at_least_px=256)
        hashes.append(np.uint64(perceptual_hash(pixels)))
        small = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BOX), np.float64).ravel()
        pictures.append((small - small.mean()) / np.linalg.norm(small - small.mean()))
    alike = np.array(pictures) @ np.array(pictures).T
    near = np.bitwise_count(np.bitwise_xor.outer(hashes, hashes)) <= NEAR_DUPLICATE_BITS
    pairs = np.triu_indices(len(hashes), 1)
    assert len(hashes) > 300
    assert np.count_nonzero(near[pairs] & (alike[pairs] < 0.99)) <= 1


def test_a_real_radiograph_is_found_again_after_recompression(real_data):
    for path in sorted((real_data / "fracatlas" / "images" / "Fractured").glob("*.jpg"))[:40]:
        original = decode(path.read_bytes())
        buffer = io.BytesIO()
        Image.fromarray(original).resize((original.shape[1] // 2, original.shape[0] // 2)).save(
            buffer, "JPEG", quality=60
        )
        assert distance(original, decode(buffer.getvalue())) <= NEAR_DUPLICATE_BITS
