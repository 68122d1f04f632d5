"""Small files for the imaging tests: drawn limbs as PNG, JPEG and DICOM, in every way that we admit."""

import io
from pathlib import Path

import gdcm
import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate

SECRET = b"a secret of the tests"
STUDY_UID, SERIES_UID, SOP_UID = (
    "1.2.826.0.1.3680043.8.498.1",
    "1.2.826.0.1.3680043.8.498.2",
    "1.2.826.0.1.3680043.8.498.3",
)


def limb(height=96, width=80, seed=0):
    """uint8, (H, W): a bright shaft with grain on a dark ground; no two seeds alike."""
    generator = np.random.default_rng(seed)
    down, across = np.mgrid[:height, :width]
    centre = width * generator.uniform(0.35, 0.65) + (down - height / 2) * generator.uniform(-0.3, 0.3)
    tissue = 90 * np.exp(-(((across - centre) / (0.28 * width)) ** 4))
    bone = (
        110 * np.exp(-(((across - centre) / (0.10 * width)) ** 2)) * (1 + 0.2 * np.sin(down / generator.uniform(4, 9)))
    )
    marrow = Image.fromarray(generator.normal(0, 20, (12, 10)).astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return (
        (25 + tissue + bone + np.asarray(marrow) + generator.normal(0, 2, (height, width)))
        .clip(0, 255)
        .astype(np.uint8)
    )


def png_of(image, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, "PNG", **options)
    return buffer.getvalue()


def jpeg_of(image, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        buffer, "JPEG", **{"quality": 90} | options
    )
    return buffer.getvalue()


def colour_photograph(height=96, width=96):
    """A landscape: sky, a field, red flowers."""
    generator = np.random.default_rng(3)
    picture = np.zeros((height, width, 3), np.float64)
    picture[: height // 2] = (110, 160, 230)
    picture[height // 2 :] = (70, 140, 50)
    picture[generator.integers(height // 2, height, 200), generator.integers(0, width, 200)] = (210, 30, 40)
    return (picture + generator.normal(0, 8, picture.shape)).clip(0, 255).astype(np.uint8)


def dicom_dataset(stored=None, *, bits=12, transfer_syntax=uid.ExplicitVRLittleEndian, **attributes):
    """A CR of one frame. `stored`: whole numbers, (H, W). Keyword arguments set attributes; None removes one."""
    if stored is None:
        stored = limb().astype(np.uint16) * 16
    stored = np.asarray(stored)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = transfer_syntax
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = uid.ComputedRadiographyImageStorage, SOP_UID
    dataset = FileDataset("made", {}, preamble=bytes(128), file_meta=meta)
    allocated = 8 if bits <= 8 else 16
    told = {
        "SOPClassUID": uid.ComputedRadiographyImageStorage,
        "SOPInstanceUID": SOP_UID,
        "StudyInstanceUID": STUDY_UID,
        "SeriesInstanceUID": SERIES_UID,
        "Modality": "CR",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "SamplesPerPixel": 1 if stored.ndim == 2 else stored.shape[2],
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": allocated,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 1 if stored.min() < 0 else 0,
    } | attributes
    for keyword, value in told.items():
        if value is not None:
            setattr(dataset, keyword, value)
    kind = np.dtype(f"<{'i' if stored.min() < 0 else 'u'}{allocated // 8}")
    dataset.add_new("PixelData", "OB" if allocated == 8 else "OW", stored.astype(kind).tobytes())
    return dataset


def bytes_of(dataset):
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def dicom_of(stored=None, **options):
    return bytes_of(dicom_dataset(stored, **options))


def dicom_around_frame(frame, height, width, *, transfer_syntax=uid.JPEGBaseline8Bit):
    """A DICOM around a compressed frame of 8 bits."""
    dataset = dicom_dataset(np.zeros((height, width), np.uint8), bits=8)
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    return bytes_of(dataset)


def compressed(dicom, syntax, folder: Path):
    """The same DICOM in another transfer syntax, by its name in GDCM."""
    source, target = folder / "source.dcm", folder / "target.dcm"
    source.write_bytes(dicom)
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(source))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return target.read_bytes()
