"""Where the network runs, and in which precision: decided by what is there."""

from contextlib import AbstractContextManager

import torch

from fracture_ml.core.errors import InvalidSettings


def choose_device(setting: str = "auto") -> torch.device:
    """The device that the settings ask for: auto, cpu or cuda.

    Raises: InvalidSettings: cuda is asked for and there is none.
    """
    if setting == "cuda" and not torch.cuda.is_available():
        raise InvalidSettings("FRACTURE_DEVICE=cuda, and torch sees no GPU here; set it to auto or cpu")
    if setting == "cuda" or (setting == "auto" and torch.cuda.is_available()):
        return torch.device("cuda")
    return torch.device("cpu")


def has_fast_bf16(device: torch.device) -> bool:
    """True where bfloat16 is computed in hardware; elsewhere it would be emulated, and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(device: torch.device) -> AbstractContextManager:
    """bfloat16 where it is fast, float32 elsewhere."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_fast_bf16(device))
