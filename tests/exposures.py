"""Exposures that no inventory made."""

from pathlib import Path
from typing import Any

from levelmatch_core.images.exposure import Exposure
from levelmatch_core.images.reading import file_digest


def exposure(path: Path, /, **changes: Any) -> Exposure:
    """Return the record of an image of no known instrument; its file may be missing."""
    values: dict[str, Any] = {
        "name": path.name,
        "path": path,
        "file": path.name,
        "digest": file_digest(path) if path.is_file() else "0" * 64,
        "sci": 1,
        "shape": (32, 32),
        "instrument": "generic",
        "detector": "",
        "tile": path.stem,
        "band": "f",
        "unit": "",
        "groups": {},
        "footprint": (),
        "scale": 1.0,
        "angle": 0.0,
    }
    return Exposure(**(values | changes))
