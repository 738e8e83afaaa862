"""`levelmatch cache`: show the size of the store of cutouts and results, or prune it while no run uses it.

Every run, including those of the library, holds a lock on the store; pruning needs exclusive use. Pruned files are
computed again by the next run that needs them, so that only time is lost.
"""

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cloup

from flows.commands.console import clean_errors, say
from flows.commands.options import examples
from flows.home import Home
from levelmatch_core.errors import UsageError

_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_AGES = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


@dataclass(frozen=True)
class Entry:
    """A stored file."""

    path: Path
    size: int
    """Bytes."""
    used: float
    """Time of writing or last reading (to within a day on most file systems): Unix time, seconds."""


def entries(home: Home) -> list[Entry]:
    """Return the stored files (cutouts and results of tasks), least recently used first."""
    found = []
    for root in (home.cutouts, home.results):
        for folder, _, names in os.walk(root):
            for name in names:
                with suppress(FileNotFoundError):  # a run has just renamed it
                    status = Path(folder, name).lstat()
                    found.append(Entry(Path(folder, name), status.st_size, max(status.st_mtime, status.st_atime)))
    return sorted(found, key=lambda entry: (entry.used, entry.path))


def prune(home: Home, *, before: float | None = None, most: int | None = None, wait: bool = False) -> list[Entry]:
    """Remove stored files and return them.

    Parameters
    ----------
    home
        The home whose store is pruned.
    before
        Unix time: files that have not been used since are removed.
    most
        Largest size of the store, bytes: the least recently used files are removed first.
    wait
        Whether to wait for runs in progress.

    Raises
    ------
    StoreInUseError
        If a run is in progress, and `wait` is not set.
    """
    from levelmatch_core.sky.store import CutoutStore  # noqa: PLC0415 - slow to import

    with CutoutStore(home.cutouts).alone(wait=wait):
        return _pruned(entries(home), before, most)


def _pruned(stored: list[Entry], before: float | None, most: int | None) -> list[Entry]:
    left = sum(entry.size for entry in stored)
    gone = []
    for entry in stored:
        too_old = before is not None and entry.used < before
        too_much = most is not None and left > most
        if too_old or too_much:
            entry.path.unlink(missing_ok=True)
            with suppress(OSError):  # only empty folders are removed
                entry.path.parent.rmdir()
            left -= entry.size
            gone.append(entry)
    return gone


@cloup.command(short_help="Show the size of the stores, or prune them.")
@cloup.option("--older-than", metavar="AGE", help="Remove files not used for this time: 12h, 30d, 8w.")
@cloup.option("--shrink-to", metavar="SIZE", help="Remove the least recently used files, down to a size: 500M, 20G.")
@cloup.option("--wait", is_flag=True, help="Wait for runs in progress instead of giving up.")
def cache(older_than: str | None, shrink_to: str | None, *, wait: bool) -> None:
    """Show the size of the store of cutouts and results in LEVELMATCH_HOME, or prune it.

    It is never pruned while a run uses it. Removed files are computed again when they are needed.
    """
    with clean_errors():
        home = Home.of()
        if older_than or shrink_to:
            home.make()
            before = time.time() - parsed(older_than, _AGES, "an age such as 12h or 30d") if older_than else None
            most = int(parsed(shrink_to, _SIZES, "a size such as 500M or 20G")) if shrink_to else None
            gone = prune(home, before=before, most=most, wait=wait)
            say(f"removed: {_told(gone)}")
        stored = entries(home)
        say(f"stored:  {_told(stored)} in {home.root}")
        if stored:
            days = max(time.time() - stored[0].used, 0.0) / _AGES["d"]  # a clock may have been set back
            say(f"oldest:  not used for {days:.1f} days")


def parsed(text: str, units: dict[str, float] | dict[str, int], expected: str) -> float:
    """Return a number with a unit.

    Raises
    ------
    UsageError
        If the text has another form.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]?)(?:i?b)?", text.strip().lower())
    if found is None or found[2] not in units:
        message = f"{text!r}: expected {expected}"
        raise UsageError(message)
    return float(found[1]) * units[found[2]]


def _told(found: list[Entry]) -> str:
    size = float(sum(entry.size for entry in found))
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1024:
            return f"{len(found)} files, {size:.3g} {unit}"
        size /= 1024
    return f"{len(found)} files, {size:.3g} TB"


@cloup.command(
    name="warm-up",
    short_help="Compile beforehand what the first run would.",
    epilog=examples("levelmatch warm-up"),
)
def warm_up() -> None:
    """Compile what the first run on a machine would compile, such as for the image of a container or a new node.

    What is compiled is kept beside the package, or in NUMBA_CACHE_DIR. It takes up to a minute, and seconds when it was
    done before.
    """
    with clean_errors():
        say("compiling; this takes up to a minute the first time")
        from levelmatch_core.warm_up import warm_up as compile_all  # noqa: PLC0415 - slow to import

        say(f"done in {compile_all():.0f} s: runs on this machine start at once")
