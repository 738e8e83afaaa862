"""What lies in the folders that tests make."""

import hashlib
import os
import time
from pathlib import Path


def contents(folder: Path, *, leave_out: tuple[str, ...] = ("log.json",)) -> dict[str, bytes]:
    """Return relative name -> bytes of all files but the log, which holds times."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in leave_out
    }


def digests(folder: Path, *, leave_out: tuple[str, ...] = ("log.json",)) -> dict[str, str]:
    """Return relative name -> sha256 of all files but the log, which holds times."""
    return {name: hashlib.sha256(raw).hexdigest() for name, raw in contents(folder, leave_out=leave_out).items()}


def age(path: Path, seconds: float) -> None:
    """Make a file look as if it was last written some seconds ago."""
    os.utime(path, (time.time() - seconds,) * 2)
