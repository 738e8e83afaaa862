"""Every error that levelmatch raises on purpose: one root, and one narrow class for each thing that a user can mend.

Raise the narrowest class that fits, with a message that names the file, the value found, what was expected and what to
do. An exposure that raises a :class:`DataError` costs that exposure and nothing else; a :class:`UsageError` ends the
run before anything is written; everything else that escapes is a bug.
"""


class LevelMatchError(Exception):
    """Root of all errors of this project."""


# -- what the user asked for cannot be done: refused before any work, exit code 2 ------------------------------------
class UsageError(LevelMatchError):
    """The request itself is wrong: raise a subclass where one fits."""


class SettingsError(UsageError):
    """A setting is unknown, ill-typed or contradicts another one."""


class OutputFolderError(UsageError):
    """The output folder cannot be used: foreign files, other settings, held by another run."""


# -- nothing usable came in: exit code 1 -----------------------------------------------------------------------------
class NoInputError(LevelMatchError):
    """No usable exposure is left."""


# -- one exposure (or tile) is bad: quarantined and named, the others go on ------------------------------------------
class DataError(LevelMatchError):
    """An input file cannot be used: raise a subclass where one fits."""


class NotFitsError(DataError):
    """The file is not FITS, or is truncated or damaged."""


class ChecksumError(DataError):
    """The bytes are not those of which DATASUM or CHECKSUM were made."""


class NoImageError(DataError):
    """The file holds no two-dimensional image, or an empty or absurdly large one."""


class NoWcsError(DataError):
    """The image has no celestial WCS, or one that cannot be inverted."""


class NoUsablePixelsError(DataError):
    """Every pixel is masked, blank or not finite."""


class ShapeMismatchError(DataError):
    """SCI, ERR and DQ differ in shape."""


class AlreadyMatchedError(DataError):
    """The file carries LVLSTAT: it was matched before, and a second subtraction would be wrong."""


class DuplicateExposureError(DataError):
    """The same exposure (same bytes, or same name) was given twice."""


class FieldTooWideError(DataError):
    """A field is wider than one tangent plane may be."""


# -- the work itself ---------------------------------------------------------------------------------------------------
class PixelMapError(DataError):
    """The map between grid and exposure cannot be computed to the stated bound."""


class SolveError(LevelMatchError):
    """A level solve did not give an answer that may be used."""


class WorkerError(LevelMatchError):
    """The workers that were given a piece of work died."""


class StrictError(LevelMatchError):
    """Something failed, and the settings say that nothing may."""


class NoRoomError(LevelMatchError):
    """A disk takes no more of what is to be written: no exposure is to blame, so that the run ends; exit code 1."""


class StoreError(LevelMatchError):
    """A stored cutout is missing, altered, or lies outside the store."""


class EngineError(LevelMatchError):
    """Prefect cannot be used, or ceased to work: the command goes on without it."""


class ServerError(LevelMatchError):
    """A server that a command needs did not start, or ended by itself."""


class StoreInUseError(LevelMatchError):
    """The store cannot be pruned: a run in progress uses it."""
