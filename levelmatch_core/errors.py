"""The errors of levelmatch: one base class, and one specific class for every problem that the user can fix.

Raise the most specific class, with a message that contains the file, the value found, what was expected and what to do.
A :class:`DataError` only excludes the exposure that raises it; a :class:`UsageError` ends the run before anything is
written; any other error that is not caught is a bug.
"""


class LevelMatchError(Exception):
    """Base class of all errors of levelmatch."""


# -- the request cannot be carried out: refused before any work, exit code 2 ------------------------------------------
class UsageError(LevelMatchError):
    """The request itself is wrong; raise a subclass if one fits."""


class SettingsError(UsageError):
    """A setting is unknown, has the wrong type, or contradicts another one."""


class OutputFolderError(UsageError):
    """The output folder cannot be used: foreign files, other settings, or use by another run."""


# -- no usable input: exit code 1 -------------------------------------------------------------------------------------
class NoInputError(LevelMatchError):
    """There is no usable exposure."""


class AllPendingError(NoInputError):
    """Every file is still being written, so that there is nothing to be done yet."""


# -- an exposure (or tile) is bad: quarantined and reported, the others go on -----------------------------------------
class DataError(LevelMatchError):
    """An input file cannot be used; raise a subclass if one fits."""


class MissingInputError(DataError):
    """A file that was asked for by its name is not there, or its store does not give it."""


class NotFitsError(DataError):
    """The file is not FITS, or is truncated or damaged."""


class ChecksumError(DataError):
    """The bytes do not match DATASUM or CHECKSUM."""


class ChangedInputError(DataError):
    """The file was replaced or written to between the inventory and the end of its reading."""


class NoImageError(DataError):
    """The file contains no two-dimensional image, or an empty or absurdly large one."""


class NoWcsError(DataError):
    """The image has no celestial WCS, or one that cannot be inverted."""


class NoUsablePixelsError(DataError):
    """Every pixel is masked, blank or not finite."""


class ShapeMismatchError(DataError):
    """SCI, ERR and DQ have different shapes."""


class AlreadyMatchedError(DataError):
    """The file contains LVLSTAT: it was matched before, and a second subtraction would be wrong."""


class DuplicateExposureError(DataError):
    """The same exposure (same bytes, or same name) was given twice."""


class LostInputError(DataError):
    """Files of a tile could not be read, and were left out."""


class FieldTooWideError(DataError):
    """A field is too wide for one tangent plane."""


# -- errors of the computation
# ----------------------------------------------------------------------------------------------------
class PixelMapError(DataError):
    """The map between grid and exposure cannot be computed to the required accuracy."""


class SolveError(LevelMatchError):
    """A solve gave no usable solution."""


class WorkerError(LevelMatchError):
    """The workers died while they were running a job."""


class StrictError(LevelMatchError):
    """Something failed, which the setting `strict` does not allow."""


class NoRoomError(LevelMatchError):
    """A disk is full, which is not the fault of an exposure, so that the run ends; exit code 1."""


class StoreError(LevelMatchError):
    """A stored cutout is missing, altered, or outside the store."""


class EngineError(LevelMatchError):
    """Prefect cannot be used, or stopped working: the command continues without it."""


class ServerError(LevelMatchError):
    """A server that a command needs did not start, or ended by itself."""


class StoreInUseError(LevelMatchError):
    """The store cannot be pruned: a run in progress uses it."""
