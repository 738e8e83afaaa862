"""Whether anything was compiled on this machine yet; numba keeps it for all later runs."""

import os
from pathlib import Path

_KERNELS = Path(__file__).resolve().parents[1] / "sky" / "__pycache__"


def is_cold() -> bool:
    """Return whether nothing was compiled yet, as far as the files tell: numba takes a second to import."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    # the last where the package may not be written to
    places = (Path(named),) if named else (_KERNELS, Path.home() / ".cache" / "numba")
    return not any(next(place.rglob("kernels.*.nbi"), None) for place in places)
