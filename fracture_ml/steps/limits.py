"""What a place admits of an image, for everybody who decodes one."""

from fracture_ml.imaging.decode import DecodeLimits
from fracture_ml.steps.settings import Settings


def decode_limits(settings: Settings) -> DecodeLimits:
    """The settings' limits, as the decoder takes them."""
    return DecodeLimits(
        max_bytes=int(settings.max_object_mib * 2**20),
        max_pixels=settings.max_pixels,
        admit_secondary_capture=settings.admit_secondary_capture,
        admit_for_processing=settings.admit_for_processing,
    )
