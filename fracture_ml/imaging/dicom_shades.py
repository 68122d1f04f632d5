"""DICOM's stored values as shades of grey: Modality LUT or rescale, then VOI LUT or window.

Source: DICOM PS3.3, C.11.1 (Modality LUT), C.11.2 (VOI LUT).
"""

from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from fracture_ml.core.errors import Corrupt
from fracture_ml.imaging.dicom_attributes import number_of, pydicom_at_the_border, text_of

_OUTER_SHARE = 0.0005  # of the pixels, at each end, that decide nothing where a DICOM names no window


def shades_of(dataset: Dataset, values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Stored values, float64 (V,), of which so many pixels (V,) are, as shades from 0 to 1, before inversion."""
    slope, intercept = number_of(dataset, "RescaleSlope"), number_of(dataset, "RescaleIntercept")
    modality_lut = _LookupTable.find(dataset, "ModalityLUTSequence")
    if modality_lut is not None:
        values = modality_lut.entries_for(values)
    elif slope is not None or intercept is not None:
        values = values * (1.0 if slope is None else slope) + (intercept or 0.0)
    voi_lut = _LookupTable.find(dataset, "VOILUTSequence")
    if voi_lut is not None:
        return voi_lut.entries_for(values) / voi_lut.largest
    center, width = number_of(dataset, "WindowCenter"), number_of(dataset, "WindowWidth")
    if center is not None and width is not None:
        return _windowed(values, center, width, text_of(dataset, "VOILUTFunction") or "LINEAR")
    if not counts.any():
        return np.zeros_like(values)
    darkest, brightest = usual_range(values, counts)
    return (values - darkest) / max(brightest - darkest, 1e-9)


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


def counts_of(values: np.ndarray, size: int) -> np.ndarray:
    """How many of the whole numbers 0 to size - 1 are in `values`, of any shape: int64, (size,).

    In parts: `bincount` makes eight bytes of each number.
    """
    counts = np.zeros(size, dtype=np.int64)
    for part in _parts_of(values):
        counts += np.bincount(part.ravel(), minlength=size)
    return counts


def looked_up(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`table[values]`, in parts for the same reason: of the table's type and the values' shape."""
    found = np.empty(values.shape, dtype=table.dtype)
    for into, part in zip(_parts_of(found), _parts_of(values), strict=True):
        into[...] = table[part]
    return found


def _parts_of(values: np.ndarray) -> list[np.ndarray]:
    """Views of its rows, a million or so numbers at a time."""
    return np.array_split(values, max(1, min(len(values), values.size // 2**20)))


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
