import io

import numpy as np
import pydicom
import pytest
from pydicom import Dataset, uid
from pydicom.encaps import encapsulate, get_frame

from fracture_ml.core.errors import BurnedInIdentity, Corrupt, NotARadiograph, Truncated, UnsupportedDicom
from fracture_ml.imaging.decode import DecodeLimits, decode
from fracture_ml.imaging.facts import read_facts
from tests.imaging.made_files import (
    SECRET,
    bytes_of,
    colour_photograph,
    compressed,
    dicom_around_frame,
    dicom_dataset,
    dicom_of,
    jpeg_of,
    limb,
)

DEEP = limb().astype(np.int64) * 16  # 12 bits


def shades(values):
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def lookup_table(entries, first, bits, *, vr="US", depth_in="US"):
    item = Dataset()
    item.add_new("LUTDescriptor", depth_in, [len(entries) % 65536, first, bits])
    item.add_new("LUTData", vr, [int(entry) for entry in entries] if vr == "US" else np.array(entries, "<u2").tobytes())
    return [item]


def test_without_a_window_the_darkest_is_black_and_the_brightest_white():
    expected = shades((DEEP - DEEP.min()) / (DEEP.max() - DEEP.min()))
    assert np.array_equal(decode(dicom_of(DEEP)), expected)


def test_rescale_comes_before_the_window():
    window = {"WindowCenter": 500, "WindowWidth": 801, "RescaleSlope": 0.5, "RescaleIntercept": -300}
    expected = shades((DEEP * 0.5 - 300 - 499.5) / 800 + 0.5)
    assert np.array_equal(decode(dicom_of(DEEP, **window)), expected)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("LINEAR", (DEEP - 1999.5) / 1200 + 0.5),
        ("LINEAR_EXACT", (DEEP - 2000) / 1201 + 0.5),
        ("SIGMOID", 1 / (1 + np.exp(-4 * (DEEP - 2000) / 1201))),
    ],
)
def test_the_window_follows_its_function(function, expected):
    window = {"WindowCenter": [2000, 10], "WindowWidth": [1201, 20], "VOILUTFunction": function}
    assert np.array_equal(decode(dicom_of(DEEP, **window)), shades(expected))


@pytest.mark.parametrize(
    "window",
    [
        {},
        {"WindowCenter": 2000, "WindowWidth": 1500},
        {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "LINEAR_EXACT"},
        {"RescaleSlope": 2, "RescaleIntercept": -100},
        {"PixelPaddingValue": int(DEEP[0, 0])},
    ],
    ids=str,
)
def test_a_monochrome1_image_and_its_monochrome2_twin_are_the_same_picture(window):
    twin = dict(window)
    if "WindowCenter" in window:
        twin["WindowCenter"] = 4095 - window["WindowCenter"] + (0 if "VOILUTFunction" in window else 1)
    if "PixelPaddingValue" in window:
        twin["PixelPaddingValue"] = 4095 - window["PixelPaddingValue"]
    one = decode(dicom_of(4095 - DEEP, PhotometricInterpretation="MONOCHROME1", **twin))
    assert np.array_equal(one, decode(dicom_of(DEEP, **window)))


def test_an_inverse_presentation_shape_inverts_once():
    normal = decode(dicom_of(DEEP))
    assert np.array_equal(decode(dicom_of(DEEP, PresentationLUTShape="INVERSE")), 255 - normal)
    both = dicom_of(DEEP, PresentationLUTShape="INVERSE", PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(decode(both), 255 - normal)
    assert np.array_equal(decode(dicom_of(DEEP, PresentationLUTShape="IDENTITY")), normal)


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_the_modality_and_the_voi_lookup_tables_are_followed(vr):
    root = np.rint(np.sqrt(np.arange(4096) / 4095) * 4095).astype(int)
    modality = {"ModalityLUTSequence": lookup_table(root, 0, 12, vr=vr)}
    expected = root[DEEP]
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    assert np.array_equal(decode(dicom_of(DEEP, **modality, **window)), shades((expected - 2047.5) / 4095 + 0.5))
    voi = {"VOILUTSequence": lookup_table(root[:3000] // 16, 100, 8, vr=vr)}
    expected = (root[:3000] // 16)[np.clip(DEEP - 100, 0, 2999)] / 255
    assert np.array_equal(decode(dicom_of(DEEP, **voi, **window)), shades(expected))


def test_a_lookup_table_that_says_more_bits_than_its_entries_have_is_not_black():
    said, meant = ({"VOILUTSequence": lookup_table(range(4096), 0, bits)} for bits in (16, 12))
    assert np.array_equal(decode(dicom_of(DEEP, **said)), decode(dicom_of(DEEP, **meant)))


@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14_1", "JPEGLosslessProcess14"])
@pytest.mark.parametrize("edge", [None, 0, 4095], ids=["as it is", "black edges", "white edges"])
def test_a_lossless_jpeg_that_lost_data_before_its_end_marker_is_refused(syntax, edge, tmp_path):
    pixels = limb(400, 300).astype(np.int64) * 16
    if edge is not None:  # long runs of one code up to the end
        pixels[-40:] = pixels[:, -40:] = edge
    whole = pydicom.dcmread(io.BytesIO(compressed(dicom_of(pixels), syntax, tmp_path)))
    frame = get_frame(whole.PixelData, 0, number_of_frames=1)
    end = frame.rfind(b"\xff\xd9")
    assert read_facts(bytes_of(whole), site_secret=SECRET).height_px == 400
    third = end // 3
    for damaged in (
        frame[: end // 2] + frame[end:],
        frame[:third] + frame[third + 2000 :],
        frame[:third] + bytes(2000) + frame[third + 2000 :],
    ):
        whole.PixelData = encapsulate([damaged])
        with pytest.raises((Truncated, Corrupt)):
            read_facts(bytes_of(whole), site_secret=SECRET)


def test_a_colour_jpeg_inside_dicom_that_ends_early_is_refused():
    frame = jpeg_of(np.repeat(limb(200, 160)[..., None], 3, axis=2))
    dataset = dicom_dataset(
        np.zeros((200, 160, 3), np.uint8), bits=8, PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=0
    )
    dataset.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    assert decode(bytes_of(dataset)).shape == (200, 160)
    dataset.PixelData = encapsulate([frame[: len(frame) // 2] + b"\xff\xd9"])
    with pytest.raises(Truncated):
        decode(bytes_of(dataset))


def test_signed_pixels_are_read_as_signed():
    signed = DEEP - 2048
    assert np.array_equal(decode(dicom_of(signed)), decode(dicom_of(DEEP)))
    voi = {"VOILUTSequence": lookup_table(range(0, 4096), -2048, 12, depth_in="SS")}
    assert np.array_equal(decode(dicom_of(signed, **voi)), shades(DEEP / 4095))


def test_padding_is_black_and_does_not_stretch_the_rest():
    padded = DEEP.copy()
    padded[:, :12] = 4095
    pixels = decode(dicom_of(padded, PixelPaddingValue=4095))
    assert (pixels[:, :12] == 0).all()
    assert pixels[:, 12:].max() == 255
    ranged = dicom_of(padded, PixelPaddingValue=4095, PixelPaddingRangeLimit=4090)
    assert np.array_equal(decode(ranged), pixels)


@pytest.mark.parametrize(
    ("syntax", "tolerance"),
    [
        ("RLELossless", 0),
        ("JPEGLosslessProcess14", 0),
        ("JPEGLosslessProcess14_1", 0),
        ("JPEGLSLossless", 0),
        ("JPEGLSNearLossless", 3),
        ("JPEG2000Lossless", 0),
        ("JPEG2000", 12),
    ],
)
@pytest.mark.parametrize("bits", [8, 12])
def test_every_admitted_compression_gives_the_pixels_of_the_uncompressed_file(syntax, tolerance, bits, tmp_path):
    plain = dicom_of(DEEP if bits == 12 else limb(), bits=bits, PhotometricInterpretation="MONOCHROME1")
    difference = decode(compressed(plain, syntax, tmp_path)).astype(int) - decode(plain)
    assert np.abs(difference).max() <= tolerance


def test_jpeg_baseline_is_read_and_its_truncation_is_found():
    jpeg = jpeg_of(limb(200, 160))
    assert np.abs(decode(dicom_around_frame(jpeg, 200, 160)).astype(int) - decode(jpeg)).mean() < 20
    for frame in (jpeg[: len(jpeg) // 2], jpeg[: len(jpeg) // 2] + b"\xff\xd9"):
        with pytest.raises(Truncated):
            decode(dicom_around_frame(frame, 200, 160))


def test_kinds_of_objects_are_admitted_by_name():
    assert decode(dicom_of(SOPClassUID=uid.DigitalXRayImageStorageForPresentation)).any()
    for_processing = dicom_of(SOPClassUID=uid.DigitalXRayImageStorageForProcessing)
    with pytest.raises(UnsupportedDicom, match="For Processing"):
        decode(for_processing)
    assert decode(for_processing, DecodeLimits(admit_for_processing=True)).any()
    screenshot = dicom_of(SOPClassUID=uid.SecondaryCaptureImageStorage)
    with pytest.raises(UnsupportedDicom, match="Secondary Capture"):
        decode(screenshot)
    assert decode(screenshot, DecodeLimits(admit_secondary_capture=True)).any()
    with pytest.raises(UnsupportedDicom, match="CT Image"):
        decode(dicom_of(SOPClassUID=uid.CTImageStorage))
    with pytest.raises(NotARadiograph, match="raw"):
        decode(dicom_of(PresentationIntentType="FOR PROCESSING"))


def test_a_message_never_repeats_what_it_does_not_know():
    with pytest.raises(UnsupportedDicom, match="unknown") as refusal:
        decode(dicom_of(SOPClassUID="1.2.3.4567"))
    assert "4567" not in str(refusal.value)


@pytest.mark.parametrize("syntax", [uid.DeflatedExplicitVRLittleEndian, uid.JPEGExtended12Bit, uid.MPEG2MPML])
def test_other_transfer_syntaxes_are_refused_by_name(syntax):
    named = uid.ExplicitVRLittleEndian + "\0"
    other = syntax + "\0" * (len(syntax) % 2)
    element = "UI{}\0{}".format
    data = dicom_of().replace(element(chr(len(named)), named).encode(), element(chr(len(other)), other).encode())
    with pytest.raises(UnsupportedDicom) as refusal:
        decode(data)
    assert uid.UID(syntax).name in str(refusal.value)


def test_burned_in_identity_is_refused():
    with pytest.raises(BurnedInIdentity):
        decode(dicom_of(BurnedInAnnotation="YES"))


def test_several_frames_are_refused():
    with pytest.raises(NotARadiograph, match="2 frames"):
        decode(dicom_of(NumberOfFrames=2))


def test_a_colour_screenshot_is_refused_and_a_grey_one_is_read():
    told = {"bits": 8, "SOPClassUID": uid.SecondaryCaptureImageStorage, "PhotometricInterpretation": "RGB"}
    limits = DecodeLimits(admit_secondary_capture=True)
    grey = dicom_of(np.repeat(limb()[..., None], 3, axis=2), PlanarConfiguration=0, **told)
    assert np.array_equal(decode(grey, limits), limb())
    with pytest.raises(NotARadiograph, match="colour"):
        decode(dicom_of(colour_photograph(), PlanarConfiguration=0, **told), limits)


@pytest.mark.parametrize(
    ("lie", "error"),
    [
        ({"Rows": 97}, Truncated),
        ({"Columns": 60_000, "Rows": 1000}, Truncated),
        ({"Rows": 0}, Corrupt),
        ({"Rows": None}, Corrupt),
        ({"BitsStored": 6, "HighBit": 5}, Corrupt),
        ({"BitsStored": 17}, UnsupportedDicom),
        ({"BitsAllocated": 32}, UnsupportedDicom),
        ({"SamplesPerPixel": 3}, UnsupportedDicom),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, UnsupportedDicom),
        ({"WindowCenter": 100, "WindowWidth": 0}, Corrupt),
        ({"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "CUBIC"}, Corrupt),
        ({"ModalityLUTSequence": lookup_table([70_000 % 65536] * 9, 0, 8)}, Corrupt),
    ],
    ids=str,
)
def test_attributes_that_lie_are_found_out(lie, error):
    with pytest.raises(error):
        decode(dicom_of(DEEP, **lie))


def test_a_compressed_frame_of_another_size_is_refused_before_it_is_decoded(tmp_path):
    plain = dicom_of(DEEP)
    for syntax in ("JPEGLSLossless", "JPEG2000Lossless", "JPEGLosslessProcess14_1"):
        data = bytearray(compressed(plain, syntax, tmp_path))
        rows = data.index(b"\x28\x00\x10\x00US\x02\x00") + 8
        data[rows : rows + 2] = (95).to_bytes(2, "little")
        with pytest.raises(Corrupt, match="size"):
            decode(bytes(data))


def test_a_dicom_that_ends_early_is_truncated():
    data = dicom_of(DEEP)
    for end in (len(data) - 1, len(data) - 5000, data.index(b"\xe0\x7f\x10\x00") + 2):
        with pytest.raises(Truncated):
            decode(data[:end])


def test_the_real_cr_shows_bright_bone_on_a_dark_ground(real_data):
    pixels = decode((real_data / "dicom" / "RG3_J2KR.dcm").read_bytes())
    assert pixels.shape == (1760, 1760)
    assert pixels[900, 500] < 60  # air beside the leg, inside the collimator
    assert pixels[900, 810:890].max() > 180  # the cortex of the tibia
    assert 60 < pixels[900, 730] < 200  # soft tissue
