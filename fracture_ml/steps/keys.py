"""The bucket's layout: the key, or the folder of keys, under which each thing of the product lies.

A folder ends without a slash. The inbox, where others put what comes in, is a setting.
"""

from fracture_ml.core.records import MediaType

TRAININGS = "training"  # the folder of all of them
CHECKPOINT = "checkpoint.pt"  # in a training's folder, until it ends


def radiograph_key(sha256: str, media_type: MediaType) -> str:
    """Where a de-identified radiograph is. sha256: of what came in, in hex."""
    return f"radiographs/{sha256[:2]}/{sha256}{media_type.suffix}"


def study_folder(study_name: str) -> str:
    """Where a study's table (trials.csv, trials.json) and pictures are."""
    return f"studies/{study_name}"


def training_folder(snapshot_id: str, recipe_id: str, code_version: str) -> str:
    """Where a training's checkpoint, history and result are: the same again for the same data, recipe and code."""
    return f"{TRAININGS}/{snapshot_id[:16]}-{recipe_id[:16]}-{code_version.replace('+', '-')}"


def bundle_key(sha256: str) -> str:
    """Where a bundle is. sha256: of its bytes, in hex."""
    return f"models/{sha256[:16]}/bundle.pt"


def bundle_folder(bundle_key: str) -> str:
    """Where a bundle's plots and card are."""
    return bundle_key.rsplit("/", 1)[0]


def attention_folder(version: int) -> str:
    """Where all heat maps and overlays are that a version drew."""
    return f"attention/{version}"


def attention_block_folder(version: int, block: int) -> str:
    """Where those are that it drew for a block of radiographs."""
    return f"{attention_folder(version)}/{block}"
