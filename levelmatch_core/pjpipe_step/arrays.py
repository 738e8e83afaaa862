"""Images in memory as members of a pair: arrays on one pixel grid, such as `get_reproject` returns."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.errors import UsageError
from levelmatch_core.matching.results import Member
from levelmatch_core.pjpipe_step.results import Floats, Frame, ReprojectedImage
from levelmatch_core.records import content_key
from levelmatch_core.sky.cutouts import CutoutRecord, extent_of, texture_of
from levelmatch_core.sky.plane import Plane
from levelmatch_core.sky.stack import stack
from levelmatch_core.sky.store import CutoutStore


def given_images(group: object) -> list[NDArray[Any]]:
    """Return the images of a group: an array, or a list of arrays; an empty list if they are files."""
    if isinstance(group, np.ndarray):
        return [group]
    if isinstance(group, str) or not isinstance(group, Sequence):
        return []
    return list(group) if all(isinstance(one, np.ndarray) for one in group) else []


def array_members(first: object, second: object, store: CutoutStore) -> tuple[Frame, list[Member]] | None:
    """Return two groups of images as members on their common pixel grid; None if both are files.

    Raises
    ------
    UsageError
        If one group is of files, or the images are not of one shape, or one holds no number.
    """
    groups = [given_images(first), given_images(second)]
    if not any(groups):
        return None
    shapes = {image.shape for images in groups for image in images}
    if not all(groups) or len(shapes) != 1 or len(next(iter(shapes))) != 2:
        found = ", ".join(map(str, sorted(shapes)))
        message = f"images of shapes {found}: expected both groups as files, or both as images of one shape (ny, nx)"
        raise UsageError(message)
    members = []
    for number, images in enumerate(groups, start=1):
        records = [_record(f"image {number}.{count}", image, store) for count, image in enumerate(images, start=1)]
        cutout = stack(f"group {number}", [(record, Plane()) for record in records], store)
        members.append(Member(name=cutout.name, exposures=(cutout.name,), cutout=cutout, tile=cutout.name, groups={}))
    given = next((image.wcs for image in groups[0] if isinstance(image, ReprojectedImage)), None)
    return Frame(shape=next(iter(shapes)), given=given), members


def _record(name: str, image: NDArray[Any], store: CutoutStore) -> CutoutRecord:
    """Return an image as a cutout of the store.

    Raises
    ------
    UsageError
        If it holds no finite number.
    """
    data = np.asarray(image, dtype=np.float64)
    error: Floats | None = image.error if isinstance(image, ReprojectedImage) else None
    valid = np.isfinite(data)
    if not valid.any():
        message = f"{name}: holds no finite pixel"
        raise UsageError(message)
    planes = np.stack([np.where(valid, data, np.nan), *([] if error is None else [error**2])])
    key = content_key("image in memory", list(planes.shape), hashlib.sha256(planes.tobytes()).hexdigest())
    ends = np.stack(
        [valid.argmax(axis=1), valid.shape[1] - 1 - valid[:, ::-1].argmax(axis=1), valid.sum(axis=1)], axis=1
    )
    top, right = data.shape[0] - 0.5, data.shape[1] - 0.5
    return CutoutRecord(
        name=name,
        array=store.put(key, planes),
        x0=0,
        y0=0,
        shape=(data.shape[0], data.shape[1]),
        has_variance=error is not None,
        n_valid=int(valid.sum()),
        noise_gain=1.0,
        axis_angle=0.0,
        extent=extent_of(ends, 0.0),
        texture=texture_of(planes[0]),
        outline=((-0.5, -0.5), (right, -0.5), (right, top), (-0.5, top)),
    )
