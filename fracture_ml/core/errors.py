"""Every error of the product. The message is one sentence that says what to do."""

import errno


class FractureError(Exception):
    """Base of all errors that the product raises on purpose."""


# --- what a place decides -------------------------------------------------------------------------


class InvalidSettings(FractureError):
    """A FRACTURE_* variable is missing or wrong; the message names every one of them."""


class SchemaMismatch(FractureError):
    """The database is behind or ahead of this code; the message holds the command to type."""


class StorageUnavailable(FractureError):
    """Object storage cannot be reached, refuses the key, or is full. Worth a retry."""


class ObjectWithheld(StorageUnavailable):
    """Object storage is there and does not hand over an object: the fault may be of this one alone."""


class RequestRefused(ObjectWithheld):
    """Object storage is there and refuses this request: the rights of the key, or this one object's own."""


class RequestFailed(ObjectWithheld):
    """Object storage is there and fails at this request, again and again: perhaps it lost this one object."""


class ObjectNotFound(FractureError):
    """There is no object under this key."""


class DatabaseUnavailable(FractureError):
    """Postgres cannot be reached. Worth a retry."""


class DatabaseRefused(FractureError):
    """Postgres is there, and a rule of a table refuses what was to be written. Not worth a retry."""


class RowRefused(DatabaseRefused):
    """A value of a row breaks a rule: other rows may be written."""


class StackError(FractureError):
    """The embedded servers cannot start or stop: a taken port, a full disk, a foreign process."""


# --- images ---------------------------------------------------------------------------------------


class UnusableObject(FractureError):
    """An object that cannot become a radiograph.

    `code` is a word for machines (a row of `quarantine.code`), the message a sentence for people. The message
    never holds what could name a person.
    """

    code = "unusable"


class EmptyObject(UnusableObject):
    """No bytes."""

    code = "empty"


class NotReadable(UnusableObject):
    """Object storage does not hand it over, or has it no more, while it hands over others."""

    code = "not_readable"


class NoMemoryLeft(UnusableObject):
    """The machine that looked at it had no memory left for it: on another one, or later, it may be usable."""

    code = "out_of_memory"

    def __init__(self) -> None:
        super().__init__(
            "The machine had no memory left for it: try it again with fewer threads, or on a larger machine."
        )


class TooLarge(UnusableObject):
    """More bytes or pixels than the settings admit; refused before decoding."""

    code = "too_large"


class NotAnImage(UnusableObject):
    """The bytes are not PNG, JPEG or DICOM, whatever the name says."""

    code = "not_an_image"


class Truncated(UnusableObject):
    """The file ends before its pixels do."""

    code = "truncated"


class Corrupt(UnusableObject):
    """The decoder refuses the bytes."""

    code = "corrupt"


class Altered(UnusableObject):
    """The stored bytes of a radiograph are not those that were stored when it came in: damaged, or swapped."""

    code = "altered"


class NotARadiograph(UnusableObject):
    """An image, but not a radiograph: a colour photograph, a blank or tiny picture, a raw or multi-frame DICOM."""

    code = "not_a_radiograph"


class UnsupportedDicom(UnusableObject):
    """A SOP class or transfer syntax that the settings do not admit, or a file without what is needed."""

    code = "unsupported_dicom"


class BurnedInIdentity(UnusableObject):
    """BurnedInAnnotation is YES: the pixels may name a person."""

    code = "burned_in_annotation"


class UnreadableLabels(UnusableObject):
    """A label file of no known layout, or with a row that cannot be read; the message names the line."""

    code = "unreadable_labels"


# --- data and models ------------------------------------------------------------------------------


class InvalidRecipe(FractureError):
    """A recipe, plan or rule with a value outside its bounds."""


class NotEnoughData(FractureError):
    """Too few radiographs, classes or groups for what was asked; the message says what is missing."""


class LeakageFound(FractureError):
    """A group stands on two sides of a split. Never expected; stops the run."""


class CacheCorrupt(FractureError):
    """A pixel cache does not match its manifest; it is rebuilt."""


class WeightsUnavailable(FractureError):
    """Pretrained weights cannot be had from where the settings say."""


class TrainingDiverged(FractureError):
    """The loss became NaN or infinite."""


class OutOfTime(FractureError):
    """The time budget ended before there was anything to keep."""


class OutOfMemory(FractureError):
    """The device has no memory for even one image at a time."""


def is_full_disk(error: OSError) -> bool:
    """Whether a disk, or the share of it that somebody may use, had no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class DiskFull(FractureError):
    """The disk, or the share of it that the settings allow, has no room; nothing half-written is left."""


class BundleMismatch(FractureError):
    """A bundle's sha256 differs from the registry's row, or its parts do not fit: it is not used."""


# --- work -----------------------------------------------------------------------------------------


class NoChampion(FractureError):
    """No model has been promoted yet."""


class StaleVerdict(FractureError):
    """The gate has not passed this version against today's champion: it is judged anew, not promoted."""


class UnknownVersion(FractureError):
    """There is no such model version."""


class UnknownRadiograph(FractureError):
    """There is no such radiograph."""


class UnknownItem(FractureError):
    """There is no such study on the worklist."""


class NotReconciled(FractureError):
    """The counts of a run do not add up; the message says what is missing."""


class NotExportable(FractureError):
    """Results cannot be made into what another system reads: the extra is missing, or an image's own attributes."""


class Conflict(FractureError):
    """Somebody else was first: a worklist item or a group changed meanwhile; look again and repeat."""


class HeldByAnother(Conflict):
    """Another reader holds the item: take it over first, or wait until they let go of it."""


class NotAllowed(FractureError):
    """What is there now does not admit this action."""


class AlreadyPromoted(NotAllowed):
    """The version was made champion meanwhile: a rejection does not change that, a roll-back does."""
