import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from fracture_ml.core.errors import (
    BurnedInIdentity,
    Corrupt,
    EmptyObject,
    NotAnImage,
    NotARadiograph,
    TooLarge,
    Truncated,
)
from fracture_ml.core.records import MediaType
from fracture_ml.imaging.decode import DecodeLimits, decode, read_picture, sniff, stretched
from fracture_ml.imaging.dicom_shades import usual_range
from fracture_ml.imaging.png import SIGNATURE, chunk
from tests.imaging.made_files import colour_photograph, dicom_of, jpeg_of, limb, png_of


def test_the_first_bytes_decide_what_an_object_is():
    assert sniff(png_of(limb())) is MediaType.PNG
    assert sniff(jpeg_of(limb())) is MediaType.JPEG
    assert sniff(dicom_of()) is MediaType.DICOM


def test_no_bytes_are_called_empty_and_text_is_called_no_image():
    with pytest.raises(EmptyObject):
        decode(b"")
    for data in (b"this text is named hand.png", b"GIF89a" + bytes(200), b"%PDF-1.7", b"\0" * 500):
        with pytest.raises(NotAnImage):
            decode(data)


def test_a_grey_png_comes_back_as_it_was():
    assert np.array_equal(decode(png_of(limb())), limb())


def test_a_palette_and_an_rgb_with_equal_channels_are_the_same_radiograph():
    grey = Image.fromarray(limb())
    assert np.array_equal(decode(png_of(grey.convert("P"))), limb())
    assert np.array_equal(decode(png_of(grey.convert("RGB"))), limb())
    assert read_picture(png_of(grey.convert("RGB"))).photometric == "RGB"


def test_an_interlaced_png_is_read_and_its_missing_rows_are_found():
    adam7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b""
    for first_row, first_column, row_step, column_step in adam7:
        lines = limb(51, 45)[first_row::row_step, first_column::column_step]
        rows += b"".join(b"\0" + line.tobytes() for line in lines)
    header = chunk(b"IHDR", (45).to_bytes(4) + (51).to_bytes(4) + bytes([8, 0, 0, 0, 1]))
    start, end = SIGNATURE + header, chunk(b"IEND", b"")
    assert np.array_equal(decode(start + chunk(b"IDAT", zlib.compress(rows)) + end), limb(51, 45))
    with pytest.raises(Truncated):
        decode(start + chunk(b"IDAT", zlib.compress(rows[:-1])) + end)


def test_transparent_parts_of_a_png_are_black_and_hide_nothing():
    alpha = np.full_like(limb(), 255)
    alpha[:, :10] = 0
    expected = limb()
    expected[:, :10] = 0
    picture = Image.merge("LA", [Image.fromarray(expected), Image.fromarray(alpha)])
    assert np.array_equal(decode(png_of(picture)), expected)
    erased = Image.merge("LA", [Image.fromarray(np.maximum(limb(), 1)), Image.fromarray(alpha)])
    with pytest.raises(BurnedInIdentity, match="hide pixels"):
        decode(png_of(erased))


def test_a_marker_of_a_few_pixels_does_not_make_the_bone_black():
    deep = limb(200, 160).astype(np.uint16) * 16  # 12 bits
    marked = deep.copy()
    marked[:3, :3] = 65535
    for picture in (decode(png_of(marked)), decode(dicom_of(marked, bits=16))):
        assert abs(picture[5:].mean() - decode(png_of(deep))[5:].mean()) < 3


def test_sixteen_bits_of_a_png_are_stretched_from_darkest_to_brightest():
    deep = limb().astype(np.uint16) * 13 + 500
    pixels = decode(png_of(deep))
    assert (pixels.dtype, pixels.min(), pixels.max()) == (np.uint8, 0, 255)
    assert np.corrcoef(pixels.ravel(), limb().ravel())[0, 1] > 0.9999
    assert read_picture(png_of(deep)).bits_stored == 16


@pytest.mark.parametrize("colour_type", [2, 4, 6])
def test_sixteen_bits_in_colour_or_with_transparency_are_refused_and_not_shown_black(colour_type):
    deep = limb().astype(">u2") * 16  # 12 bits
    samples = np.repeat(deep[..., None], {2: 3, 4: 2, 6: 4}[colour_type], axis=2)
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", deep.shape[1], deep.shape[0], 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    with pytest.raises(NotARadiograph, match="16-bit grey"):
        decode(SIGNATURE + b"".join(chunk(kind, content) for kind, content in chunks))


def test_a_colour_photograph_is_refused_and_a_tinted_or_annotated_radiograph_is_not():
    for data in (png_of(colour_photograph()), jpeg_of(colour_photograph())):
        with pytest.raises(NotARadiograph, match="colour"):
            decode(data)
    tinted = np.stack([limb() * 0.92, limb() * 0.96, limb() * 1.0], axis=2).astype(np.uint8)
    annotated = np.repeat(limb()[..., None], 3, axis=2)
    annotated[5:15, 5:30] = (255, 220, 0)
    for picture in (tinted, annotated):
        assert decode(jpeg_of(picture)).shape == limb().shape


def test_a_cmyk_jpeg_and_an_animated_png_are_refused():
    with pytest.raises(NotARadiograph, match="CMYK"):
        decode(jpeg_of(Image.fromarray(limb()).convert("CMYK")))
    frames = [Image.fromarray(limb(seed=seed)) for seed in range(3)]
    with pytest.raises(NotARadiograph, match="animated"):
        decode(png_of(frames[0], save_all=True, append_images=frames[1:]))


def test_a_blank_and_a_tiny_picture_are_refused():
    with pytest.raises(NotARadiograph, match="blank"):
        decode(png_of(np.full((64, 64), 77, np.uint8)))
    with pytest.raises(NotARadiograph, match="too small"):
        decode(png_of(limb(31, 64)))


def test_a_decompression_bomb_is_refused_from_its_header():
    header = chunk(b"IHDR", (60_000).to_bytes(4) + (60_000).to_bytes(4) + bytes([8, 0, 0, 0, 0]))
    bomb = SIGNATURE + header + chunk(b"IDAT", bytes(9)) + chunk(b"IEND", b"")
    with pytest.raises(TooLarge):
        decode(bomb)
    jpeg = bytearray(jpeg_of(limb()))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(TooLarge):
        decode(bytes(jpeg))
    with pytest.raises(TooLarge):
        decode(dicom_of(), DecodeLimits(max_pixels=1000))
    with pytest.raises(TooLarge):
        decode(png_of(limb()), DecodeLimits(max_bytes=100))


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_jpeg_that_ends_early_is_truncated_wherever_it_was_cut(options):
    data = jpeg_of(limb(), **options)
    for end in [*range(3, len(data) - 1, 61), len(data) - 2, len(data) - 1]:
        with pytest.raises(Truncated):
            decode(data[:end])


def test_a_cut_jpeg_with_an_end_marker_put_back_is_not_filled_with_grey():
    data = jpeg_of(limb(400, 320))
    for tail in (b"\xff\xd9", bytes(3000) + b"\xff\xd9"):
        with pytest.raises(Truncated):
            decode(data[: len(data) // 2] + tail)


def test_bytes_after_the_end_of_a_jpeg_change_nothing():
    data = jpeg_of(limb())
    assert np.array_equal(decode(data + b"\0" * 500 + b"\xff\xd9"), decode(data))


def test_a_png_that_ends_early_is_truncated_and_one_whose_sums_are_wrong_is_corrupt():
    data = png_of(limb())
    for end in (20, 40, len(data) // 2, len(data) - 12, len(data) - 1):
        with pytest.raises(Truncated):
            decode(data[:end])
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 4
    with pytest.raises(Corrupt):
        decode(bytes(flipped))


def test_a_whole_png_whose_rows_end_early_is_truncated():
    header = chunk(b"IHDR", (64).to_bytes(4) + (64).to_bytes(4) + bytes([8, 0, 0, 0, 0]))
    rows = zlib.compress(np.hstack([np.zeros((30, 1), np.uint8), limb(30, 64)]).tobytes())
    with pytest.raises(Truncated):
        decode(SIGNATURE + header + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def test_truncation_is_found_whatever_another_library_does_to_pillow(monkeypatch):
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for data in (jpeg_of(limb()), png_of(limb())):
        with pytest.raises(Truncated):
            decode(data[: len(data) * 2 // 3])


def test_a_jpeg_is_decoded_smaller_only_as_far_as_was_asked():
    data = jpeg_of(limb(800, 600))
    assert decode(data).shape == (800, 600)
    assert decode(data, at_least_px=224).shape == (400, 300)
    assert decode(data, at_least_px=100).shape == (100, 75)
    assert decode(data, at_least_px=2000).shape == (800, 600)
    picture = read_picture(data, at_least_px=100)
    assert (picture.width_px, picture.height_px) == (600, 800)


@pytest.mark.parametrize("at_least_px", [None, 100])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_whose_colours_were_checked_gives_the_same_picture_without_them(mode, at_least_px):
    data = jpeg_of(Image.fromarray(limb(800, 600)).convert(mode))
    with_colours = read_picture(data, at_least_px=at_least_px)
    quick = read_picture(data, at_least_px=at_least_px, colours_checked=True)
    assert quick.photometric == with_colours.photometric
    assert quick.pixels.shape == with_colours.pixels.shape
    assert np.abs(quick.pixels.astype(int) - with_colours.pixels).max() <= 2  # levels: YCbCr, RGB, and grey again round


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_as_its_exif_says(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg_of(limb(), exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(decode(data), expected)
    assert read_picture(data).pixels.shape == (read_picture(data).height_px, read_picture(data).width_px)


def test_sixteen_bits_are_stretched_in_little_memory_to_what_they_were_in_much():
    values = np.random.default_rng(3).integers(900, 40_000, (1500, 2100), dtype=np.uint16)
    values[0, :9] = 65_535  # a marker
    tracemalloc.start()
    found = stretched(values)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < values.size + 20 * 2**20  # one byte a pixel, and a part of it in eight
    low, high = usual_range(np.arange(1 << 16, dtype=np.float64), np.bincount(values.ravel(), minlength=1 << 16))
    np.testing.assert_array_equal(found, np.rint(((values - low) * (255.0 / (high - low))).clip(0, 255)))
