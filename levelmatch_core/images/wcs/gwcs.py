"""The gwcs in the ASDF extension of JWST's files, of which the header's SIP terms are an approximation.

Reading it needs asdf, gwcs and stdatamodels (the extra `jwst`). ASDF is YAML and arrays of numbers: nothing in it is
ever run, and what would fetch another file is refused.
"""

import io
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from levelmatch_core.errors import NoWcsError, SettingsError
from levelmatch_core.images.fits_headers import FAULTS, Hdu, quiet
from levelmatch_core.images.storage.packing import streamed
from levelmatch_core.images.wcs.transforms import AnyWcs, sky_transforms
from levelmatch_core.settings import WcsSource

EXTENSION = "ASDF"
PACKAGES = ("asdf", "gwcs", "stdatamodels")
_MAGIC = b"#ASDF"
_ELSEWHERE = re.compile(rb"""[$]ref\b|\bsource['"]?\s*:\s*['"]?(?!fits:)[^\s'",}]*[/:.]""")
"""References to other files, and arrays whose values lie in one."""


def extra_installed() -> bool:
    """Return whether a gwcs can be read here."""
    return all(find_spec(package) is not None for package in PACKAGES)


def require_extra(source: WcsSource) -> None:
    """Refuse a source that cannot be read here.

    Raises
    ------
    SettingsError
        If it is "gwcs" and a package is missing.
    """
    if source == "gwcs" and not extra_installed():
        missing = ", ".join(package for package in PACKAGES if find_spec(package) is None)
        message = (
            f"wcs_source = 'gwcs' needs {missing}: pip install 'levelmatch[jwst]', or take the headers' WCS "
            f"(wcs_source = 'header')"
        )
        raise SettingsError(message)


def tree_of(hdus: Iterable[Hdu]) -> Hdu | None:
    """Return the HDU that holds a file's ASDF tree, None if there is none."""
    return next((hdu for hdu in hdus if hdu.name == EXTENSION), None)


def gwcs_of(hdus: Iterable[Hdu], path: Path, shown: str) -> AnyWcs | None:
    """Return the gwcs of a file, without the box outside which it would give NaN; None if the file has none.

    Parameters
    ----------
    hdus
        The file's.
    path
        Where it lies.
    shown
        What to call it in messages.

    Raises
    ------
    NoWcsError
        If the ASDF extension or the gwcs cannot be read, or the gwcs is not celestial with two axes.
    SettingsError
        If the file has an ASDF extension, and the extra is missing.
    """
    tree = tree_of(hdus)
    if tree is None:
        return None
    require_extra("gwcs")
    try:
        with quiet(), np.errstate(all="ignore"):
            raw = _content(tree, path)
            return _parsed(raw, shown) if raw else None
    except (*_faults(), *FAULTS, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        message = f"{shown}: its gwcs cannot be read ({reason}); take the header's WCS (wcs_source = 'header')"
        raise NoWcsError(message) from error


def _content(tree: Hdu, path: Path) -> bytes:
    """Return the one row of the table, nothing where that is no ASDF."""
    with path.open("rb") as plain:
        file, _ = streamed(plain)
        file.seek(tree.data)
        raw = file.read(int(tree.header["NAXIS1"]))
    return raw if raw.startswith(_MAGIC) else b""


def _parsed(raw: bytes, shown: str) -> AnyWcs | None:
    import asdf  # noqa: PLC0415 - an extra
    import gwcs  # noqa: PLC0415 - an extra

    if _ELSEWHERE.search(raw[: raw.find(b"\n...")]):
        message = f"{shown}: its ASDF extension refers to other files, which is refused; write it whole"
        raise NoWcsError(message)
    ready = asdf.get_config()
    _ = ready.extensions, ready.resource_manager  # found once, and copied below: that takes longer than all else
    with asdf.config_context() as config:
        config.validate_on_read = False
        with asdf.open(io.BytesIO(raw), lazy_tree=True, lazy_load=False, memmap=False) as tree:
            found: Any = tree.tree.get("meta", {}).get("wcs")
    if found is None:
        return None
    if not isinstance(found, gwcs.WCS):
        message = f"{shown}: meta.wcs of its ASDF extension is a {type(found).__name__}, expected a gwcs"
        raise NoWcsError(message)
    found.bounding_box = None
    sky_transforms(found)  # says what is wrong with it
    return found


def _faults() -> tuple[type[Exception], ...]:
    """Return what asdf raises of its own accord on damaged trees."""
    import yaml  # type: ignore[import-untyped]  # noqa: PLC0415 - it carries no types; only here
    from asdf.exceptions import ValidationError  # noqa: PLC0415 - an extra

    return ValidationError, yaml.YAMLError
