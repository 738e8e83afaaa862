"""Inputs in object stores and on the web: listed, fetched once into a folder by their content, and resumed.

Credentials come from the environment of the store's own client only; addresses that hold any are refused. fsspec and
the client of a store come with the extra `remote`.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from levelmatch_core.errors import NoInputError, NoRoomError, UsageError
from levelmatch_core.files.writing import refuse_without_room, replacing
from levelmatch_core.images.finding import FITS
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.records import content_key

logger = logger_of(__name__)

_REMOTE = re.compile(r"(?:s3|gs|https?|memory)://")
_CHUNK = 1 << 22
"""Bytes that are read at a time."""

_TIMES = ("LastModified", "last_modified", "Last-Modified", "created", "mtime")
_VERSIONS = ("ETag", "etag", "Content-MD5", "md5Hash", "generation", *_TIMES)
"""What stores say of the version of a file."""


def is_remote(entry: str | Path) -> bool:
    """Return whether an input is an address of a store."""
    return isinstance(entry, str) and _REMOTE.match(entry) is not None


def local_inputs(entries: Iterable[str | Path], folder: Path, *, recursive: bool = False) -> tuple[Path, ...]:
    """Return inputs as files and folders of this machine; what lies elsewhere is fetched, unless it was before.

    Parameters
    ----------
    entries
        Paths, and addresses of files or folders: s3://, gs://, https://, http://, memory://.
    folder
        Where fetched files lie.
    recursive
        Whether to list folders within folders.

    Raises
    ------
    UsageError
        If an address holds credentials, or fsspec or the client of the store is missing.
    NoInputError
        If there is nothing at an address, or the store refuses or breaks off; what was fetched is kept.
    """
    found: list[Path] = []
    for entry in entries:
        found += _fetched(str(entry), folder, recursive) if is_remote(entry) else [Path(entry)]
    return tuple(found)


def _fetched(address: str, folder: Path, recursive: bool) -> list[Path]:
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
        files = _listed(store, path, recursive)
        if files:
            return [_one(store, name, folder, parts.scheme) for name in files]
    except NoRoomError:
        raise
    except NoInputError as error:
        message = f"input {shown}: {error}"
        raise NoInputError(message) from error
    except Exception as error:
        raise NoInputError(_refused(f"input {shown}", error)) from error
    message = f"input {shown}: no FITS file there"
    raise NoInputError(message)


def _refused(what: str, error: Exception) -> str:
    """Return what is wrong, without the message of whatever client, which may hold a signed address."""
    return f"{what}: {type(error).__name__}; is it there, and may you read it? What was fetched is kept"


def _listed(store: Any, path: str, recursive: bool) -> list[str]:  # noqa: ANN401 - a file system of fsspec
    if FITS.search(path):
        return [path]
    names = store.find(path) if recursive else [one["name"] for one in store.ls(path, detail=True)]
    return sorted(name for name in names if FITS.search(name))


def _one(store: Any, name: str, folder: Path, scheme: str) -> Path:  # noqa: ANN401 - as above
    """Return a file under its own name, in a folder of those that lie in the same place.

    Raises
    ------
    NoInputError
        If it cannot be fetched.
    """
    try:
        return _held(store, name, folder, scheme)
    except Exception as error:
        refuse_without_room(error)
        raise NoInputError(_refused(name.rpartition("/")[2], error)) from error


def _held(store: Any, name: str, folder: Path, scheme: str) -> Path:  # noqa: ANN401 - as above
    info = store.info(name)
    version = [str(info[key]) for key in _VERSIONS if info.get(key)]
    size = info.get("size")
    key = content_key(scheme, name, size, version)
    note = folder / "known" / f"{key}.json"
    content = _noted(note) if note.is_file() and version else ""
    held = folder / "content" / content[:2] / content
    if not content or not held.is_file() or held.stat().st_size != size:
        held = _content(store, name, folder, key, size, resume=bool(version))
        if (changed := _time_of(info)) is not None:
            os.utime(held, (changed, changed))
        with _made(note) as temporary:
            temporary.write_text(json.dumps({"sha256": held.name}))
    else:
        os.utime(note)  # used now: what was not for long may go
    place = folder / "named" / content_key(scheme, name.rpartition("/")[0])[:12] / name.rpartition("/")[2]
    if not place.is_file() or not place.samefile(held):
        with _made(place) as temporary:
            temporary.hardlink_to(held)
    return place


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
        message = f"{part.stat().st_size} bytes of {size}"
        raise OSError(message)
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
