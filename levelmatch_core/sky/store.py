"""The store of cutouts: arrays as plain .npy files and records as JSON, both named by their key.

Files are written under a temporary name and renamed, so that they are always complete, and are readable by their owner
only. Nothing is ever unpickled. The reader of an array knows its checksum, so that an altered or exchanged file is
detected. Paths that lead outside the store, through links or otherwise, are refused.
"""

import io
import json
import math
import mmap
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import Field as Described

from levelmatch_core.errors import StoreError, StoreInUseError
from levelmatch_core.files.digests import CHUNK, digest_file, hasher_for
from levelmatch_core.files.locks import lock, locked_temporary, remove_if_left
from levelmatch_core.files.sealed import seal, unseal
from levelmatch_core.files.writing import rename, room_for
from levelmatch_core.records import Record

_HEAD = 128
"""Usual length of the header of a .npy file, bytes."""

_PART = ".part"
"""Suffix of files that are being written."""

KEY = re.compile(r"[0-9a-f]{16,64}")


class StoredArray(Record):
    """Location of an array in the store, and the digest that identifies its content: one of the two."""

    file: str = Described(description="path relative to the store's root")
    sha256: str = Described(default="", description="of the file's bytes (hex), from earlier versions")
    xxh64: str = Described(default="", description="of the file's bytes (hex)")

    @property
    def digest(self) -> str:
        """The one that there is."""
        return self.xxh64 or self.sha256


_Seen = dict[StoredArray, tuple[int, int, int]]
"""(inode, size, time of change) of files whose digest was seen."""

_WORKERS: dict[Path, _Seen] = {}
"""What a worker has seen, by the store's folder: each of its jobs comes with a store object of its own."""


class CutoutStore:
    """A folder of arrays and records named by content keys; any number of workers may write to it at the same time."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._seen: _Seen = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive at a worker."""
        self.root = state["root"]
        self._seen = _WORKERS.setdefault(self.root, {})

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Protect the store from pruning during a run. Waits for the end of a pruning in progress."""
        with self._opened() as descriptor:
            with suppress(OSError):  # a file system without locks, where nothing is ever pruned
                lock(descriptor, shared=True)
            yield

    @contextmanager
    def alone(self, *, wait: bool = False) -> Iterator[None]:
        """Use the store exclusively.

        Parameters
        ----------
        wait
            Whether to wait for runs in progress.

        Raises
        ------
        StoreInUseError
            If a run uses it, or if the file system has no locks.
        """
        with self._opened() as descriptor:
            try:
                lock(descriptor, wait=wait)
            except BlockingIOError as error:
                message = f"{self.root}: a run in progress uses the store; use --wait to wait for its end"
                raise StoreInUseError(message) from error
            except OSError as error:
                message = (
                    f"{self.root}: its file system has no locks ({error}), so that a run in progress cannot be detected"
                )
                raise StoreInUseError(message) from error
            yield

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Open the folder; its lock is released when it is closed, however the process ends."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def put(self, key: str, array: NDArray[Any]) -> StoredArray:
        """Write an array and return its location.

        Parameters
        ----------
        key
            Lower-case hexadecimal digits, from :func:`levelmatch_core.records.content_key`.
        array
            An array of plain numbers.

        Raises
        ------
        StoreError
            If the key or the type of the array is not valid.
        """
        if array.dtype.hasobject:
            message = f"an array of type {array.dtype} cannot be stored: only plain numbers can"
            raise StoreError(message)
        path = self._path(key, ".npy")
        array = np.asarray(array, order="C")
        with self._replacing(path) as file:
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
            digest = xxhash.xxh64()
            digest.update(header.getbuffer())
            _write_whole(file, header.getbuffer())
            data = array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")
            for start in range(0, len(data), CHUNK):
                chunk = data[start : start + CHUNK]
                digest.update(chunk)
                _write_whole(file, chunk)
            identity = _identity(os.fstat(file.fileno()))
        stored = StoredArray(file=f"{key[:2]}/{key}.npy", xxh64=digest.hexdigest())
        self._seen[stored] = identity
        return stored

    def open(self, stored: StoredArray, *, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
        """Map an array into memory, read-only; its digest is compared at the first use.

        Parameters
        ----------
        stored
            What :meth:`put` returned.
        shape
            The expected shape, if known.

        Raises
        ------
        StoreError
            If the file is missing, altered, no plain array of the shape, or lies outside the store.
        """
        with _reading(self._existing(stored)) as file:
            if not self._is_whole(stored, file):
                message = f"stored array {stored.file} was altered: its digest is not {stored.digest}; run again"
                raise StoreError(message)
            try:
                array = _mapped(file.fileno())
            except (OSError, ValueError) as error:
                message = f"stored array {stored.file} cannot be read ({error}); run again to recreate it"
                raise StoreError(message) from error
        if shape is not None and array.shape != shape:
            message = f"stored array {stored.file} has shape {array.shape}, expected {shape}; run again"
            raise StoreError(message)
        return array

    def check(self, stored: StoredArray) -> bool:
        """Return whether the file exists inside the store, is not a link, and has the digest.

        A file whose digest this object (a worker: its process) has seen, and that was not touched since, is not read
        again.
        """
        try:
            path = self._existing(stored)
        except StoreError:
            return False
        with _reading(path) as file:
            return self._is_whole(stored, file)

    def _is_whole(self, stored: StoredArray, file: BinaryIO) -> bool:
        """Return whether an open file has the digest."""
        identity = _identity(os.fstat(file.fileno()))
        if self._seen.get(stored) == identity:
            return True
        digest = hasher_for(stored.digest)
        digest_file(file, digest)
        if digest.hexdigest() != stored.digest:
            return False
        self._seen[stored] = identity
        return True

    def remember(self, key: str, record: Mapping[str, Any]) -> None:
        """Store a record (plain JSON) under a key."""
        path = self._path(key, ".json")
        text = json.dumps(record, sort_keys=True, allow_nan=False)
        with self._replacing(path) as file:
            _write_whole(file, seal(key, text).encode())

    def recall(self, key: str) -> dict[str, Any] | None:
        """Return the record of a key; None if there is none, it was altered, or an array that it names is not whole."""
        path = self._path(key, ".json")
        if not _is_plain(path):
            return None
        try:
            record = json.loads(unseal(key, Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError):
            return None  # damaged: its content is computed again
        if not isinstance(record, dict) or not all(self.check(stored) for stored in _arrays_in(record)):
            return None
        return record

    def clear_left_over(self) -> None:
        """Remove incomplete files of processes that were killed, but not files that are being written."""
        for path in self.root.glob(f"??/.*{_PART}"):
            if not path.parent.is_symlink():
                remove_if_left(path)

    def size(self) -> int:
        """Return the total size of all files in the store, bytes."""
        total = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                with suppress(FileNotFoundError):  # another worker has just renamed the file
                    total += Path(folder, name).lstat().st_size
        return total

    def _path(self, key: str, suffix: str) -> str:
        if not KEY.fullmatch(key):
            message = f"{key!r} is no key: expected 16 to 64 lower-case hexadecimal digits"
            raise StoreError(message)
        return f"{self.root}/{key[:2]}/{key}{suffix}"

    def _existing(self, stored: StoredArray) -> str:
        folder, slash, name = stored.file.partition("/")
        stem = name.removesuffix(".npy")
        if not slash or not KEY.fullmatch(stem) or stem[:2] != folder or not name.endswith(".npy"):
            message = f"stored array {stored.file!r} does not lie in the store: expected ab/abcdef....npy"
            raise StoreError(message)
        path = f"{self.root}/{folder}/{name}"
        if not _is_plain(path):
            message = f"stored array {stored.file} is missing, or is reached through a link; run again"
            raise StoreError(message)
        return path

    @contextmanager
    def _replacing(self, path: str) -> Iterator[BinaryIO]:
        """Open a temporary file that becomes `path` by rename."""
        folder = os.path.dirname(path)  # noqa: PTH120 - faster than pathlib: called for every exposure
        with room_for(path):
            _make_real(folder)
            handle, temporary = locked_temporary(folder, _PART)
            try:
                with os.fdopen(handle, "wb", buffering=0) as file:
                    yield file
                    rename(temporary, path)  # before the lock ends with the file's closing
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)  # noqa: PTH108 - as above
                raise


def _make_real(folder: str) -> None:
    """Create a folder of the store, unless it exists.

    Raises
    ------
    StoreError
        If it is a link.
    """
    try:
        is_link = stat.S_ISLNK(os.lstat(folder).st_mode)
    except FileNotFoundError:
        Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        is_link = False
    if is_link:
        message = f"{folder} is a link: the store writes into its own folders only; remove the link"
        raise StoreError(message)


def _is_plain(path: str) -> bool:
    """Return whether a file is a regular file, and its folder not a link."""
    try:
        in_folder = stat.S_ISDIR(os.lstat(os.path.dirname(path)).st_mode)  # noqa: PTH120 - as above
        return in_folder and stat.S_ISREG(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _reading(path: str) -> BinaryIO:
    """Open a file, which is no link, to be read."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    return os.fdopen(handle, "rb", buffering=0)


def _mapped(handle: int) -> NDArray[Any]:
    """Map an open .npy file of plain numbers into memory, read-only.

    Raises
    ------
    OSError, ValueError
        If the file is not of this kind, or truncated.
    """
    start = os.pread(handle, _HEAD, 0)
    content = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
    size = int.from_bytes(start[8:10], "little") + 10
    dtype, shape = _header_of(start[:size] if size <= len(start) else content[:size])
    if len(content) != size + math.prod(shape) * dtype.itemsize:
        message = f"{len(content)} bytes, expected {size + math.prod(shape) * dtype.itemsize}"
        raise ValueError(message)
    return np.ndarray(shape, dtype, buffer=content, offset=size)


@lru_cache(maxsize=256)
def _header_of(raw: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return type and shape of an array from the header of its file, as written by :meth:`CutoutStore.put`.

    Raises
    ------
    ValueError
        If it is not an array of plain numbers in C order.
    """
    stream = io.BytesIO(raw)
    if np.lib.format.read_magic(stream) != (1, 0):
        message = "not of version 1.0 of the format"
        raise ValueError(message)
    shape, in_columns, dtype = np.lib.format.read_array_header_1_0(stream)
    if in_columns or dtype.hasobject:
        message = "not plain numbers in C order"
        raise ValueError(message)
    return dtype, shape


def _write_whole(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write all bytes: an unbuffered file may write fewer, and only returns their number."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _arrays_in(value: object) -> Iterator[StoredArray]:
    """Yield the stored arrays that a record refers to, at any depth."""
    if isinstance(value, dict):
        if {"file", "sha256"} <= value.keys() <= StoredArray.model_fields.keys():
            yield StoredArray.model_validate(value)
        else:
            for inner in value.values():
                yield from _arrays_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _arrays_in(inner)
