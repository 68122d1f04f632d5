"""DICOM's attributes and pixel order: stored values, Modality LUT, VOI LUT or window, inversion, 8 bits.

Source: DICOM PS3.3, C.7.6.3 (pixels), C.11.1 (Modality LUT), C.11.2 (VOI LUT), C.11.6 (presentation LUT shape).
"""

import io
import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset, uid
from pydicom.datadict import tag_for_keyword
from pydicom.encaps import encapsulate, get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels import get_decoder

from fracture_ml.core.errors import (
    BurnedInIdentity,
    Corrupt,
    FractureError,
    NotARadiograph,
    Truncated,
    UnsupportedDicom,
)
from fracture_ml.imaging import jpeg_2000, rle
from fracture_ml.imaging.jpeg import read_jpeg_structure, require_whole_scan

# pydicom's warnings quote the values that they complain about, and those may name a person: none is given.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom.pixels.decoders.base").setLevel(logging.CRITICAL)  # what it reports is raised, as ours

# Each admitted transfer syntax with the one decoder that reads it; None: not compressed. Pillow's libjpeg-turbo and
# OpenJPEG for what they can read, GDCM for the rest.
_TRANSFER_SYNTAXES: dict[str, str | None] = {
    uid.ImplicitVRLittleEndian: None,
    uid.ExplicitVRLittleEndian: None,
    uid.RLELossless: "pydicom",
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "gdcm",
    uid.JPEGLSNearLossless: "gdcm",
    uid.JPEG2000Lossless: "pillow",
    uid.JPEG2000: "pillow",
}
_JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000)
_OTHER_BITS = b"\xfe" * 16  # for a scan: long codes, which no fill of zeros gives, and no marker
_OUTER_SHARE = 0.0005  # of the pixels, at each end, that decide nothing where a DICOM names no window
# Source: PS3.3, C.7.6.3.1.2.
COLOUR_INTERPRETATIONS = (
    *("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420"),
    *("YBR_ICT", "YBR_RCT"),
)
_ADMITTED_CLASSES = (uid.ComputedRadiographyImageStorage, uid.DigitalXRayImageStorageForPresentation)

# The attributes that are read. The rest of a file (names, free text, private tags) is never even looked at.
READ_KEYWORDS = [
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyDate",
    "SeriesDate",
    "AcquisitionDate",
    "ContentDate",
    "AcquisitionDateTime",
    "StudyTime",
    "SeriesTime",
    "AcquisitionTime",
    "ContentTime",
    "Modality",
    "PresentationIntentType",
    "Manufacturer",
    "ManufacturerModelName",
    "StationName",
    "AnatomicRegionSequence",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientIdentityRemoved",
    "BodyPartExamined",
    "ViewPosition",
    "ImagerPixelSpacing",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "Laterality",
    "ImageLaterality",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "PixelAspectRatio",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "BurnedInAnnotation",
    "WindowCenter",
    "WindowWidth",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "VOILUTFunction",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "RequestedProcedurePriority",
    "PresentationLUTShape",
    "PixelData",
]
_READ_TAGS = [tag_for_keyword(keyword) for keyword in READ_KEYWORDS]

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # Postgres stores no NUL, and no word needs the others
_META_START = 132  # after the preamble and "DICM"


def read_dicom(data: bytes) -> Dataset:
    """The attributes of `READ_KEYWORDS`, all converted, so that none fails later.

    Raises: UnsupportedDicom: a transfer syntax that is not admitted, before the data set is touched. Truncated.
            Corrupt.
    """
    with pydicom_at_the_border():
        meta = read_dataset(
            io.BytesIO(data[_META_START:]),
            is_implicit_VR=False,
            is_little_endian=True,
            stop_when=lambda tag, vr, length: tag.group != 2,
            at_top_level=False,
        )
        transfer_syntax = str(meta.get("TransferSyntaxUID", ""))
    if transfer_syntax not in _TRANSFER_SYNTAXES:
        raise UnsupportedDicom(f"The transfer syntax ({_name_of(transfer_syntax)}) is not one that is admitted.")
    with pydicom_at_the_border():
        dataset = pydicom.dcmread(io.BytesIO(data), specific_tags=_READ_TAGS)
        for _ in dataset.iterall():  # converts each element, those of sequences too
            pass
    if len(dataset) == 0:  # what pydicom leaves where the file ends within an element
        raise Truncated("The DICOM ends before its pixels do.")
    return dataset


def admit(dataset: Dataset, *, secondary_capture: bool, for_processing: bool) -> None:
    """Raises: UnsupportedDicom: a SOP class that is not admitted. NotARadiograph: raw. BurnedInIdentity."""
    admitted = list(_ADMITTED_CLASSES)
    if secondary_capture:
        admitted.append(uid.SecondaryCaptureImageStorage)
    if for_processing:
        admitted.append(uid.DigitalXRayImageStorageForProcessing)
    sop_class = text_of(dataset, "SOPClassUID") or ""
    if sop_class not in admitted:
        raise UnsupportedDicom(f"The kind of object ({_name_of(sop_class)}) is not one that is admitted.")
    if text_of(dataset, "PresentationIntentType") == "FOR PROCESSING" and not for_processing:
        raise NotARadiograph("The pixels are raw (FOR PROCESSING), not for display.")
    require_no_burned_in_identity(dataset)


def require_no_burned_in_identity(dataset: Dataset) -> None:
    """Raises: BurnedInIdentity."""
    if (text_of(dataset, "BurnedInAnnotation") or "").upper().startswith("Y"):
        raise BurnedInIdentity("BurnedInAnnotation is YES: the pixels may name a person; send the image without it.")


def text_of(dataset: Dataset, keyword: str) -> str | None:
    """The first value as text, without control characters and white space around it; None where nothing is left."""
    value = _first(dataset.get(keyword))
    text = "" if value is None else _CONTROL_CHARACTERS.sub("", str(value)).strip()
    return text or None


def number_of(dataset: Dataset, keyword: str) -> float | None:
    """The first value as a number; None where it is absent or empty. Raises: Corrupt: not a finite number."""
    value = _first(dataset.get(keyword))
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise Corrupt(f"The attribute {keyword} is not a number.") from None
    if not math.isfinite(number):
        raise Corrupt(f"The attribute {keyword} is not a finite number.")
    return number


@dataclass(frozen=True, kw_only=True)
class DicomHeader:
    """What the pixels of a data set are said to be; checked, and then rendered."""

    rows: int
    columns: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    is_inverted: bool
    dataset: Dataset = field(repr=False)

    @classmethod
    def of(cls, dataset: Dataset) -> "DicomHeader":
        """Raises: Corrupt, NotARadiograph (multi-frame), UnsupportedDicom."""
        rows, columns = _whole_number(dataset, "Rows"), _whole_number(dataset, "Columns")
        bits_allocated, bits_stored = _whole_number(dataset, "BitsAllocated"), _whole_number(dataset, "BitsStored")
        samples = _whole_number(dataset, "SamplesPerPixel", default=1)
        frames = _whole_number(dataset, "NumberOfFrames", default=1)
        photometric = text_of(dataset, "PhotometricInterpretation") or ""
        if frames > 1:
            raise NotARadiograph(f"A DICOM of {frames} frames: send each frame as an object of its own.")
        if rows == 0 or columns == 0 or frames == 0:
            raise Corrupt("The DICOM names no image size.")
        if bits_allocated not in (8, 16) or not 1 <= bits_stored <= bits_allocated:
            raise UnsupportedDicom(f"{bits_stored} bits stored in {bits_allocated} cannot be read; 8 or 16 can.")
        if samples == 1 and photometric not in ("MONOCHROME1", "MONOCHROME2"):
            raise UnsupportedDicom("One sample a pixel, but the photometric interpretation is not MONOCHROME1 or 2.")
        if samples not in (1, 3) or (samples == 3 and photometric not in COLOUR_INTERPRETATIONS):
            raise UnsupportedDicom(f"{samples} samples a pixel with this photometric interpretation cannot be read.")
        if samples == 3 and bits_stored != 8:
            raise UnsupportedDicom(f"A colour DICOM of {bits_stored} bits cannot be read.")
        return cls(
            rows=rows,
            columns=columns,
            samples=samples,
            photometric=photometric,
            bits_allocated=bits_allocated,
            bits_stored=bits_stored,
            is_signed=_whole_number(dataset, "PixelRepresentation", default=0) == 1,
            is_inverted=photometric == "MONOCHROME1" or text_of(dataset, "PresentationLUTShape") == "INVERSE",
            dataset=dataset,
        )

    def rendered_grey(self) -> np.ndarray:
        """uint8, (rows, columns), 0 = black, bone bright; padding is black.

        Every step maps one stored value to one shade, whatever the place. So the steps run over the at most 65,536
        values that exist, and the pixels only look theirs up.
        """
        stored = self._stored_pixels()
        low = -(1 << (self.bits_stored - 1)) if self.is_signed else 0
        high = low + (1 << self.bits_stored) - 1
        if stored.min() < low or stored.max() > high:
            raise Corrupt(f"Pixels do not fit into the {self.bits_stored} bits that the DICOM names.")
        offsets = stored if low == 0 else stored.astype(np.int32) - low
        values = np.arange(low, high + 1)
        is_padding = self._is_padding(values)
        counts = np.where(is_padding, 0, np.bincount(offsets.ravel(), minlength=values.size))
        shades = self._shades(values.astype(np.float64), counts)
        if self.is_inverted:
            shades = 1.0 - shades
        # Rounded first, so that a twin whose shades differ by 1e-16 falls on the same side of a half.
        table = np.rint(np.round(255.0 * np.clip(shades, 0.0, 1.0), 6)).astype(np.uint8)
        table[is_padding] = 0
        return table[offsets]

    def rendered_rgb(self) -> np.ndarray:
        """uint8, (rows, columns, 3), as RGB."""
        return self._decoded(raw=False)

    def bare_pixel_data(self) -> bytes:
        """The PixelData with what its decoder needs and no more: the same pixels, bit for bit.

        Comments and metadata of a wrapped JPEG or JPEG 2000 are left out, and what follows the last pixel.

        Raises: Truncated, Corrupt.
        """
        transfer_syntax = self.dataset.file_meta.TransferSyntaxUID
        with pydicom_at_the_border():
            data = bytes(self.dataset.get("PixelData") or b"")
            if not transfer_syntax.is_compressed:
                used = data[: self._raw_bytes]
                return used + bytes(len(used) % 2)
            frame = get_frame(data, 0, number_of_frames=1)
            if transfer_syntax == uid.RLELossless:
                return encapsulate([rle.pixels_only(frame, self.rows * self.columns)])
            if transfer_syntax in _JPEG_2000:
                return encapsulate([jpeg_2000.without_comments(frame)])
            return encapsulate([read_jpeg_structure(frame).image_only])

    @property
    def _raw_bytes(self) -> int:
        """Of the pixels when they are not compressed; YBR_FULL_422 has a colour for every other one."""
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return self.rows * self.columns * samples * self.bits_allocated // 8

    def _shades(self, values: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Stored values, float64 (V,), of which so many pixels (V,) are, as shades from 0 to 1, before inversion."""
        slope, intercept = number_of(self.dataset, "RescaleSlope"), number_of(self.dataset, "RescaleIntercept")
        modality_lut = _LookupTable.find(self.dataset, "ModalityLUTSequence")
        if modality_lut is not None:
            values = modality_lut.entries_for(values)
        elif slope is not None or intercept is not None:
            values = values * (1.0 if slope is None else slope) + (intercept or 0.0)
        voi_lut = _LookupTable.find(self.dataset, "VOILUTSequence")
        if voi_lut is not None:
            return voi_lut.entries_for(values) / voi_lut.largest
        center, width = number_of(self.dataset, "WindowCenter"), number_of(self.dataset, "WindowWidth")
        if center is not None and width is not None:
            return _windowed(values, center, width, text_of(self.dataset, "VOILUTFunction") or "LINEAR")
        if not counts.any():
            return np.zeros_like(values)
        darkest, brightest = usual_range(values, counts)
        return (values - darkest) / max(brightest - darkest, 1e-9)

    def _is_padding(self, values: np.ndarray) -> np.ndarray:
        """bool, (V,): the stored values that fill what is not image (PixelPaddingValue, to its range limit)."""
        padding = number_of(self.dataset, "PixelPaddingValue")
        if padding is None:
            return np.zeros(values.size, bool)
        limit = number_of(self.dataset, "PixelPaddingRangeLimit")
        ends = [padding, padding if limit is None else limit]
        if self.is_signed:  # written as unsigned by some
            ends = [end - (1 << self.bits_allocated) if end > values[-1] else end for end in ends]
        return (values >= min(ends)) & (values <= max(ends))

    def _stored_pixels(self) -> np.ndarray:
        """Whole numbers, (rows, columns), as stored. Raises: Truncated, Corrupt."""
        pixels = self._decoded(raw=True)
        if self.dataset.file_meta.TransferSyntaxUID == uid.JPEGBaseline8Bit:
            require_whole_scan(pixels)
        return pixels

    def _decoded(self, *, raw: bool, frame: bytes | None = None) -> np.ndarray:
        """The pixels; of another compressed frame than the file's, where one is given."""
        transfer_syntax, dataset = self.dataset.file_meta.TransferSyntaxUID, self.dataset
        if frame is not None:
            dataset = Dataset()
            dataset.update({element.tag: element for element in self.dataset})
            dataset.file_meta = self.dataset.file_meta
            dataset.PixelData = encapsulate([frame])
        with pydicom_at_the_border():
            data = bytes(dataset.get("PixelData") or b"")
        if not data or (not transfer_syntax.is_compressed and len(data) < self._raw_bytes):
            raise Truncated("The DICOM ends before its pixels do.")
        with pydicom_at_the_border():
            if transfer_syntax.is_compressed:
                self._check_frame(get_frame(data, 0, number_of_frames=1), transfer_syntax)
            pixels, _ = get_decoder(transfer_syntax).as_array(
                dataset,
                index=0,
                raw=raw,
                decoding_plugin=_TRANSFER_SYNTAXES[transfer_syntax] or "",
                correct_unused_bits=False,  # bits beyond those stored are a lie or an overlay: refused, not hidden
            )
        shape = (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)
        if pixels.shape != shape:
            raise Corrupt("The pixels do not have the size that the DICOM names.")
        return pixels

    def require_whole_lossless_scan(self) -> None:
        """Refuse a JPEG Lossless frame whose data do not hold exactly its pixels, whatever end marker there is.

        Its decoder goes on with zeros and says nothing. So it is asked twice more: bits that follow the last pixel must
        change nothing, and other bits in the last pixels' place must change something. Costs three decodings.

        Raises: Truncated, Corrupt.
        """
        if self.dataset.file_meta.TransferSyntaxUID not in (uid.JPEGLossless, uid.JPEGLosslessSV1):
            return
        with pydicom_at_the_border():
            frame = get_frame(bytes(self.dataset.PixelData), 0, number_of_frames=1)
        end = frame.rfind(b"\xff\xd9")
        cut = end - len(_OTHER_BITS)
        while frame[cut - 1] == 0xFF:  # not between FF and what makes it data
            cut -= 1
        pixels = self._decoded(raw=True)

        def gives_the_same(other: bytes) -> bool:
            try:
                return np.array_equal(pixels, self._decoded(raw=True, frame=other))
            except (Truncated, Corrupt):  # the other bits are no code
                return False

        if not gives_the_same(frame[:end] + _OTHER_BITS + frame[end:]):
            raise Truncated("The JPEG's data end before its pixels do.")
        if gives_the_same(frame[:cut] + _OTHER_BITS + frame[end:]):
            raise Corrupt("The JPEG's data go on after its last pixel: something is lost before.")

    def _check_frame(self, frame: bytes, transfer_syntax: uid.UID) -> None:
        """Before a decoder sees a compressed frame: it is whole, and as large as the attributes say.

        Raises: Truncated, Corrupt.
        """
        if len(frame) > 2 * self._raw_bytes + 4096:
            raise Corrupt("The compressed pixels are larger than the image that they are said to hold.")
        if transfer_syntax == uid.RLELossless:
            return
        if transfer_syntax in _JPEG_2000:
            columns, rows, components = jpeg_2000.size_of(frame)
        else:
            structure = read_jpeg_structure(frame)
            columns, rows, components = structure.width_px, structure.height_px, structure.components
        if (columns, rows, components) != (self.columns, self.rows, self.samples):
            raise Corrupt("The compressed pixels do not have the size that the DICOM names.")


@dataclass(frozen=True, kw_only=True)
class _LookupTable:
    """A Modality or VOI LUT: `entries[i]` stands for the input `first + i`; inputs beyond either end take that end."""

    entries: np.ndarray  # float64, (N,)
    first: int
    largest: float

    @classmethod
    def find(cls, dataset: Dataset, keyword: str) -> "_LookupTable | None":
        """The first item of the sequence. Raises: Corrupt."""
        items = dataset.get(keyword)
        if not items:
            return None
        with pydicom_at_the_border():
            count, first, bits = (int(number) for number in items[0].LUTDescriptor)
            count = (count & 0xFFFF) or 1 << 16  # 0 stands for 65,536; a signed reading wraps
            data = items[0].LUTData
            if isinstance(data, bytes):
                data = np.frombuffer(data, np.uint8 if len(data) < 2 * count else "<u2")
            entries = np.atleast_1d(np.asarray(data, dtype=np.float64))[:count]
        largest = float((1 << bits) - 1) if 8 <= bits <= 16 else 0.0
        if entries.size != count or entries.min() < 0 or entries.max() > largest:
            raise Corrupt("A lookup table of the DICOM does not match its descriptor.")
        if 0 < 8 * entries.max() <= largest:  # some say 16 bits of entries that have 12: the picture would be black
            largest = float((1 << int(entries.max()).bit_length()) - 1)
        return cls(entries=entries, first=first, largest=largest)

    def entries_for(self, values: np.ndarray) -> np.ndarray:
        places = np.clip(np.rint(values) - self.first, 0, self.entries.size - 1)
        return self.entries[places.astype(np.int64)]


def usual_range(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The darkest and the brightest of values (V,), in any order, of which so many pixels (V,) are: all but the outer
    0.05 % at each end. A marker of a few pixels is not to make the bone black."""
    order = np.argsort(values)
    below, outside = np.cumsum(counts[order]), _OUTER_SHARE * counts.sum()
    above = below[-1] - below + counts[order]
    inner = values[order][(below > outside) & (above > outside) & (counts[order] > 0)]
    return float(inner[0]), float(inner[-1])


def _windowed(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Shades from 0 to 1 (not clipped). Source: PS3.3 C.11.2.1.2 and C.11.2.1.3. Raises: Corrupt."""
    if (width < 1 and function == "LINEAR") or width <= 0:
        raise Corrupt("The DICOM's window has no width.")
    if function == "LINEAR":
        if width == 1:
            return (values > center - 0.5).astype(np.float64)
        return (values - (center - 0.5)) / (width - 1) + 0.5
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700, 700)))
    raise Corrupt("The DICOM's VOI LUT function is none that exists.")


def _first(value: Any) -> Any:
    if isinstance(value, (list, tuple, pydicom.multival.MultiValue)):
        return value[0] if len(value) else None
    return value


def _whole_number(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    number = number_of(dataset, keyword)
    if number is None:
        if default is None:
            raise Corrupt(f"The DICOM lacks the attribute {keyword}.")
        return default
    if number != int(number) or number < 0:
        raise Corrupt(f"The attribute {keyword} is not a whole number.")
    return int(number)


def _name_of(identifier: str) -> str:
    """The standard's name of a UID. Anything that it does not know is not repeated: it may be anybody's text."""
    return uid.UID(identifier).name if identifier in uid.UID_dictionary else "unknown"


@contextmanager
def pydicom_at_the_border() -> Iterator[None]:
    """What pydicom and its decoders raise over damaged bytes (any type) becomes ours, without the values it quotes."""
    try:
        yield
    except (FractureError, MemoryError):
        raise
    except Exception as fault:  # damaged bytes make pydicom raise almost any type
        if isinstance(fault, EOFError) or "truncated" in str(fault):
            raise Truncated("The DICOM ends before its pixels do.") from None
        raise Corrupt("The DICOM cannot be read: its structure is damaged.") from None
