"""DICOM's pixels: decoded, checked, and rendered to 8 bits, bone bright.

Source: DICOM PS3.3, C.7.6.3 (pixels), C.11.6 (presentation LUT shape); dicom_shades.py has what lies between.
"""

from dataclasses import dataclass, field

import numpy as np
from pydicom import Dataset, uid
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder

from fracture_ml.core.errors import Corrupt, NotARadiograph, Truncated, UnsupportedDicom
from fracture_ml.imaging import jpeg_2000, rle
from fracture_ml.imaging.dicom_attributes import (
    TRANSFER_SYNTAXES,
    number_of,
    pydicom_at_the_border,
    text_of,
    whole_number,
)
from fracture_ml.imaging.dicom_shades import counts_of, looked_up, shades_of
from fracture_ml.imaging.jpeg import read_jpeg_structure, require_whole_scan

_JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000)
_OTHER_BITS = b"\xfe" * 16  # for a scan: long codes, which no fill of zeros gives, and no marker
# Source: PS3.3, C.7.6.3.1.2.
COLOUR_INTERPRETATIONS = (
    *("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420"),
    *("YBR_ICT", "YBR_RCT"),
)


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
        rows, columns = whole_number(dataset, "Rows"), whole_number(dataset, "Columns")
        bits_allocated, bits_stored = whole_number(dataset, "BitsAllocated"), whole_number(dataset, "BitsStored")
        samples = whole_number(dataset, "SamplesPerPixel", default=1)
        frames = whole_number(dataset, "NumberOfFrames", default=1)
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
            is_signed=whole_number(dataset, "PixelRepresentation", default=0) == 1,
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
        counts = np.where(is_padding, 0, counts_of(offsets, values.size))
        shades = shades_of(self.dataset, values.astype(np.float64), counts)
        if self.is_inverted:
            shades = 1.0 - shades
        # Rounded first, so that a twin whose shades differ by 1e-16 falls on the same side of a half.
        table = np.rint(np.round(255.0 * np.clip(shades, 0.0, 1.0), 6)).astype(np.uint8)
        table[is_padding] = 0
        return looked_up(table, offsets)

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
                decoding_plugin=TRANSFER_SYNTAXES[transfer_syntax] or "",
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
