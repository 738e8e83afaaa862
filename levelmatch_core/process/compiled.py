"""Whether all was compiled on this machine yet; numba keeps it for all later runs."""

import os
from pathlib import Path

_KERNELS = Path(__file__).resolve().parents[1] / "sky" / "__pycache__"
_LAST = "stack_kernels.robust_mean-*.nbi"
"""Few runs need it, and no small one: where it is, all was compiled ahead, or by a warm-up."""


def is_cold() -> bool:
    """Return whether not all was compiled yet, as far as the files tell: numba takes a second to import."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    # the last where the package may not be written to
    places = (Path(named),) if named else (_KERNELS, Path.home() / ".cache" / "numba")
    return not any(next(place.rglob(_LAST), None) for place in places)
