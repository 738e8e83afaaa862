"""Inputs in object stores and on the web: listed, fetched once into a folder by their content, and resumed.

Credentials come from the environment of the store's own client only; addresses that hold any are refused. fsspec and
the client of a store come with the extra `remote`.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from levelmatch_core.errors import NoInputError, UsageError
from levelmatch_core.files.writing import refuse_without_room, replacing
from levelmatch_core.images.finding import FITS
from levelmatch_core.images.missing import LocalInputs, MissingInput, missing_files
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.records import content_key

logger = logger_of(__name__)

_REMOTE = re.compile(r"(?:s3|gs|https?|memory)://")
_CHUNK = 1 << 22
"""Bytes that are read at a time."""

_TIMES = ("LastModified", "last_modified", "Last-Modified", "created", "mtime")
_VERSIONS = ("ETag", "etag", "Content-MD5", "md5Hash", "generation", *_TIMES)
"""What stores say of the version of a file."""

_MOST_SILENT = 3
"""Files in succession that time out before a store is said to be down: each takes minutes, and there may be many."""

_SHOWN = 10
"""Number of missing files that a message names."""

_NOT_THERE, _DENIED = (404, 410), (401, 403)
"""Answers of web servers."""


class _BrokenOffError(OSError):
    """A file is shorter or longer than its store says."""


@dataclass(frozen=True)
class _Wanted:
    """A file of a store."""

    store: Any
    """A file system of fsspec."""
    scheme: str
    name: str
    folder: Path
    """Where fetched files lie."""

    @property
    def place(self) -> Path:
        """The file under its own name, in a folder of those that lie in the same place."""
        parent, _, file = self.name.rpartition("/")
        return self.folder / "named" / content_key(self.scheme, parent)[:12] / file

    def missing(self, error: Exception) -> MissingInput:
        """Return what is wrong, without the message of whatever client, which may hold a signed address."""
        # fsspec calls any error of a web server a missing file, and says in its cause what it was
        cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
        status = getattr(cause, "status", None)
        transient = False
        if isinstance(cause, FileNotFoundError) or status in _NOT_THERE:
            why = "it is not there"
        elif isinstance(cause, PermissionError) or status in _DENIED:
            why = "access is denied"
        else:
            transient = True
            why = str(cause) if isinstance(cause, _BrokenOffError) else type(cause).__name__
            why += f" {status}" if isinstance(status, int) else ""
        reason = f"could not be fetched: {why}; run again (or press Retry) to try again, or take it off the inputs"
        return MissingInput(
            path=self.place, given=self.store.unstrip_protocol(self.name), reason=reason, transient=transient
        )


def is_remote(entry: str | Path) -> bool:
    """Return whether an input is an address of a store."""
    return isinstance(entry, str) and _REMOTE.match(entry) is not None


def local_inputs(
    entries: Iterable[str | Path],
    folder: Path,
    *,
    recursive: bool = False,
    retry_delays: Sequence[float] = (),
    absent: bool = False,
) -> LocalInputs:
    """Return inputs as files and folders of this machine; what lies elsewhere is fetched, unless it was before.

    A file that its store does not give is missing, and the others are fetched.

    Parameters
    ----------
    entries
        Paths, and addresses of files or folders: s3://, gs://, https://, http://, memory://.
    folder
        Where fetched files lie.
    recursive
        Whether to list folders within folders.
    retry_delays
        Seconds before each further attempt at files that did not come through, but may exist.
    absent
        Whether files of this machine that are named one by one, also by associations, may be missing, too; otherwise
        they are left for the inventory to refuse.

    Raises
    ------
    UsageError
        If an address holds credentials, or fsspec or the client of the store is missing.
    NoInputError
        If a folder cannot be listed or has no FITS file, no file at all can be had, or a store does not answer; what
        was fetched is kept.
    """
    found: list[list[_Wanted] | Path] = [
        _wanted(entry, folder, recursive) if isinstance(entry, str) and is_remote(entry) else Path(entry)
        for entry in entries
    ]
    wanted = [file for one in found if isinstance(one, list) for file in one]
    here = [one for one in found if isinstance(one, Path)]
    paths = [path for one in found for path in ([one] if isinstance(one, Path) else [file.place for file in one])]
    missing = _fetched(wanted)
    for delay in retry_delays:
        if again := [file for file in wanted if file.place in missing and missing[file.place].transient]:
            time.sleep(delay)
            missing = {place: one for place, one in missing.items() if not one.transient} | _fetched(again)
    lost = [*missing.values(), *(missing_files(here) if absent else ())]
    if {one.path for one in lost}.issuperset(paths):
        if not wanted:  # the inventory refuses them
            return LocalInputs(tuple(paths))
        shown = "".join(f"\n  {one.given}: {one.reason}" for one in lost[:_SHOWN])
        more = f"\n  and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        message = f"none of the inputs can be had:{shown}{more}"
        raise NoInputError(message)
    return LocalInputs(tuple(paths), tuple(lost))


def _wanted(address: str, folder: Path, recursive: bool) -> list[_Wanted]:
    """List what is at an address."""
    parts = urlsplit(address)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    if "@" in parts.netloc or parts.query:
        message = f"input {shown}: holds credentials or a query; give them to the store's client by its environment"
        raise UsageError(message)
    try:
        import fsspec  # noqa: PLC0415 - an extra

        store, path = fsspec.url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        message = f"input {shown}: {error}; pip install 'levelmatch[remote]'"
        raise UsageError(message) from error
    try:
        names = _listed(store, path, recursive)
    except Exception as error:
        # without the message of whatever client, which may hold a signed address
        message = f"input {shown}: {type(error).__name__}; is it there, and may you read it? What was fetched is kept"
        raise NoInputError(message) from error
    if not names:
        message = f"input {shown}: no FITS file there"
        raise NoInputError(message)
    return [_Wanted(store, parts.scheme, name, folder) for name in names]


def _listed(store: Any, path: str, recursive: bool) -> list[str]:  # noqa: ANN401 - a file system of fsspec
    if FITS.search(path):
        return [path]
    names = store.find(path) if recursive else [one["name"] for one in store.ls(path, detail=True)]
    return sorted(name for name in names if FITS.search(name))


def _fetched(wanted: Sequence[_Wanted]) -> dict[Path, MissingInput]:
    """Fetch files, and return those that could not be, by their places.

    Raises
    ------
    NoInputError
        If one after another times out.
    """
    missing: dict[Path, MissingInput] = {}
    silent = 0
    for file in wanted:
        try:
            _fetch(file)
            silent = 0
        except Exception as error:
            refuse_without_room(error)
            missing[file.place] = lost = file.missing(error)
            logger.info("%s: %s", file.place.name, lost.reason)
            silent = silent + 1 if isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError) else 0
            if silent == _MOST_SILENT:
                message = (
                    f"input {lost.given}: no answer in time, nor for the {silent - 1} files before it: the store is "
                    f"out of reach; run again later. What was fetched is kept"
                )
                raise NoInputError(message) from error
    return missing


def _fetch(file: _Wanted) -> None:
    """Have a file in its place, in the version that its store has now."""
    store, folder, place = file.store, file.folder, file.place
    info = store.info(file.name)
    version = [str(info[key]) for key in _VERSIONS if info.get(key)]
    size = info.get("size")
    key = content_key(file.scheme, file.name, size, version)
    note = folder / "known" / f"{key}.json"
    content = _noted(note) if note.is_file() and version else ""
    held = folder / "content" / content[:2] / content
    if not content or not held.is_file() or held.stat().st_size != size:
        held = _content(store, file.name, folder, key, size, resume=bool(version))
        if (changed := _time_of(info)) is not None:
            os.utime(held, (changed, changed))
        with _made(note) as temporary:
            temporary.write_text(json.dumps({"sha256": held.name}))
    else:
        os.utime(note)  # used now: what was not for long may go
    if not place.is_file() or not place.samefile(held):
        with _made(place) as temporary:
            temporary.hardlink_to(held)


def _noted(note: Path) -> str:
    """Return the digest of what was fetched; '' if the note is damaged."""
    try:
        digest = json.loads(note.read_bytes())["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return digest if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) else ""


def _made(path: Path) -> Any:  # noqa: ANN401 - a context
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return replacing(path)


def _content(
    store: Any,  # noqa: ANN401 - as above
    name: str,
    folder: Path,
    key: str,
    size: int | None,
    *,
    resume: bool,
) -> Path:
    """Fetch a file, from where an earlier attempt at the same version of it ended, if its version is known."""
    part = folder / "parts" / key
    part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    start = part.stat().st_size if part.exists() else 0
    if not resume or size is None or start > size:
        start = 0
    logger.info("%s: fetched from byte %d", name.rpartition("/")[2], start)
    try:
        _copied(store, name, part, start)
    except ValueError:
        if not start:
            raise
        _copied(store, name, part, 0)  # from a server that only sends whole files
    if size is not None and part.stat().st_size != size:
        message = f"it broke off after {part.stat().st_size} of {size} bytes"
        raise _BrokenOffError(message)
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    held = folder / "content" / digest[:2] / digest
    if not held.is_file() or held.stat().st_size != part.stat().st_size:  # else the same content came from elsewhere
        with _made(held) as temporary:
            temporary.hardlink_to(part)
    part.unlink()
    return held


def _copied(store: Any, name: str, part: Path, start: int) -> None:  # noqa: ANN401 - as above
    """Copy a file from a byte on."""
    with part.open("r+b" if start else "wb") as file, store.open(name, "rb") as remote:
        file.seek(start)
        if start:
            remote.seek(start)
        while chunk := remote.read(_CHUNK):
            file.write(chunk)


def _time_of(info: dict[str, Any]) -> float | None:
    """Return when a file was changed, Unix time, as its store says it; None if it does not."""
    found = next((info[key] for key in _TIMES if info.get(key)), None)
    if isinstance(found, str):
        try:
            found = parsedate_to_datetime(found) if "," in found else datetime.fromisoformat(found)
        except ValueError:
            return None
    return found.timestamp() if isinstance(found, datetime) else found if isinstance(found, float) else None
