"""`levelmatch cache`: show the size of the store of cutouts and results, or prune it and old records.

What is removed of the store is computed or fetched again by the next run that needs it, so that only time is lost.
"""

import re
import time
from collections.abc import Sequence

import click
import cloup

from flows.commands.console import clean_errors, say
from flows.commands.options import examples
from flows.home import Home, prepare_environment
from flows.retention.files import CUTOUTS, INPUTS, KINDS, RESULTS, Entry, entries, prune
from levelmatch_core.errors import UsageError

_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_AGES = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_FLOW_RUNS, _SWEEPS = "flow-runs", "sweeps"
_RECORDS = (_FLOW_RUNS, _SWEEPS)


@cloup.command(
    short_help="Show the size of the stores, or prune them and old records.",
    epilog=examples(
        "levelmatch cache --older-than 30d --wait",
        "levelmatch cache --older-than 90d --of inputs",
        "levelmatch cache --older-than 180d --of flow-runs --of sweeps --dry-run",
    ),
)
@cloup.option("--older-than", metavar="AGE", help="Remove what was not used for this time: 12h, 30d, 8w.")
@cloup.option("--shrink-to", metavar="SIZE", help="Remove the least recently used files, down to a size: 500M, 20G.")
@cloup.option(
    "--of",
    "kinds",
    multiple=True,
    type=click.Choice([*KINDS, *_RECORDS]),
    help="What to remove: files of the stores, flow runs of Prefect, or the records of sweeps in MLflow; the last good "
    "one of each program stays. May be repeated.  [default: cutouts, results]",
)
@cloup.option("--wait", is_flag=True, help="Wait for runs in progress instead of giving up.")
@cloup.option("--dry-run", is_flag=True, help="Only show what would be removed.")
def cache(older_than: str | None, shrink_to: str | None, kinds: tuple[str, ...], *, wait: bool, dry_run: bool) -> None:
    """Show the size of the store of cutouts and results in LEVELMATCH_HOME, or prune it and old records.

    It is never pruned while a run uses it. Removed files are computed, or fetched, again when they are needed.
    """
    with clean_errors():
        chosen = kinds or (CUTOUTS, RESULTS)
        files, records = ([kind for kind in chosen if kind in group] for group in (KINDS, _RECORDS))
        before = time.time() - parsed(older_than, _AGES, "an age such as 12h or 30d") if older_than else None
        most = int(parsed(shrink_to, _SIZES, "a size such as 500M or 20G")) if shrink_to else None
        if kinds and before is None and most is None:
            message = f"--of {kinds[0]}: say how old, by --older-than, or down to which size, by --shrink-to"
            raise UsageError(message)
        if records and (most is not None or before is None):
            message = f"--of {records[0]}: has no size that would be known; use --older-than alone"
            raise UsageError(message)
        home = Home.of()
        verb = "would be removed" if dry_run else "removed"
        if before is not None or most is not None:
            home.make()
            if files:
                gone = prune(home, files, before=before, most=most, wait=wait, remove=not dry_run)
                say(f"{verb}: {_told(gone)}")
            if before is not None:
                _prune_records(records, before, verb, remove=not dry_run)
        stored = entries(home)
        say(f"stored:  {_told(stored)} in {home.root}")
        if stored:
            days = max(time.time() - stored[0].used, 0.0) / _AGES["d"]  # a clock may have been set back
            say(f"oldest:  not used for {days:.1f} days")
        if fetched := entries(home, (INPUTS,)):
            say(f"inputs:  {_told(fetched)} fetched")


def _prune_records(records: Sequence[str], before: float, verb: str, *, remove: bool) -> None:
    home = prepare_environment(quiet=True)
    if _FLOW_RUNS in records:
        from flows.orchestration.ephemeral_server import any_server  # noqa: PLC0415 - Prefect takes seconds to import
        from flows.retention import flow_runs  # noqa: PLC0415 - as above

        with any_server(home):
            found = flow_runs.old_runs(before)
            if remove:
                flow_runs.delete_flow_runs(found.old)
        stay = f"; {len(found.kept)} as old stay, each the last good one of its program" if found.kept else ""
        say(f"{verb}: {len(found.old)} flow runs{stay}")
    if _SWEEPS in records:
        from flows.retention import sweeps  # noqa: PLC0415 - MLflow takes seconds to import

        old = sweeps.old_sweeps(home.tracking_uri, before)
        to_do = sweeps.delete_runs(home.tracking_uri, old.runs) if remove else ""
        stay = f"; {len(old.kept)} as old stay, each the last of its program" if old.kept else ""
        say(f"{verb}: {len(old.runs)} MLflow runs of {old.sweeps} sweeps{stay}{f'; {to_do}' if to_do else ''}")


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
