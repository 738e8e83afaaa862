"""HDUs whose DATASUM or CHECKSUM does not hold: an image among them is refused, any other one is named."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from levelmatch_core.errors import ChecksumError
from levelmatch_core.images.fits_headers import Hdu
from levelmatch_core.images.storage.checksums import sums_in

Hdus = tuple[Hdu, ...]


def without_copied_sums(files: Sequence[tuple[str, Hdus]], notes: list[str]) -> list[Hdus]:
    """Return the HDUs of files, without complaints about sums that were copied from one file's header to another's.

    The same DATASUM and CHECKSUM in HDUs of several files whose headers differ cannot be those of each: a program that
    does not know these cards took them along, and that they fail says nothing of the bytes.

    Parameters
    ----------
    files
        Names and HDUs.
    notes
        Where there are such, that is added here.
    """
    headers: dict[frozenset[tuple[str, bytes]], dict[bytes, set[str]]] = defaultdict(lambda: defaultdict(set))
    for shown, hdus in files:
        for hdu in hdus:
            if hdu.complaint:
                headers[frozenset(sums_in(hdu.raw).items())][hdu.raw].add(shown)
    copied = {sums: set().union(*raws.values()) for sums, raws in headers.items() if len(raws) > 1}
    copied = {sums: holders for sums, holders in copied.items() if len(holders) > 1}
    if not copied:
        return [hdus for _, hdus in files]
    holders = sorted(set().union(*copied.values()))
    notes.append(
        f"DATASUM and CHECKSUM do not hold in {len(holders)} files, {holders[0]} the first, and were copied from "
        f"elsewhere: files with different headers have the same. They are not believed"
    )
    return [
        tuple(
            replace(hdu, complaint="") if hdu.complaint and frozenset(sums_in(hdu.raw).items()) in copied else hdu
            for hdu in hdus
        )
        for _, hdus in files
    ]


def refuse_damaged(hdus: Iterable[Hdu], shown: str) -> None:
    """Raise if one of the HDUs that an exposure is made of is not what its sums claim.

    Parameters
    ----------
    hdus
        Primary HDU, image and planes.
    shown
        What to call the exposure in messages.

    Raises
    ------
    ChecksumError
        If one is not.
    """
    for hdu in hdus:
        if hdu.complaint:
            message = (
                f"{shown}: HDU {hdu.index} ({hdu.name or 'primary'}): {hdu.complaint}; fetch the file again, or "
                f"take it as it is (checksums = 'ignore')"
            )
            raise ChecksumError(message)


def damage_notes(files: Iterable[tuple[str, Sequence[Hdu]]]) -> list[str]:
    """Return what to know of HDUs that no exposure needs and whose sums do not hold, of files that are matched."""
    found = [(shown, hdu) for shown, hdus in files for hdu in hdus if hdu.complaint]
    if not found:
        return []
    shown, hdu = found[0]
    return [f"sums do not hold in {len(found)} HDUs, {shown} HDU {hdu.index} ({hdu.name}) the first: {hdu.complaint}"]
