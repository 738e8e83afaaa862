"""Where an image lies on the sky: outlines, pixel scales, and which outlines touch."""

from collections.abc import Sequence

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from numpy.typing import NDArray
from pydantic import Field as Described
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from levelmatch_core.errors import NoWcsError
from levelmatch_core.images.exposure import Window
from levelmatch_core.images.fits_headers import FAULTS, quiet
from levelmatch_core.images.wcs.directions import unit_vectors
from levelmatch_core.images.wcs.transforms import AnyWcs, celestial_axes, frame_of, sky_transforms, world_transforms
from levelmatch_core.images.wcs.wide import WIDE, may_be_partly_on_the_sky, wide_area
from levelmatch_core.records import Record

Outline = tuple[tuple[float, float], ...]
"""(RA, Dec) of the corners, ICRS degrees, in order around the image."""

TOUCH = 1e-10
"""Radians (0.02 milliarcsec): outlines that abut to within rounding touch."""

_ROUND_TRIP = 0.1
"""Pixels: a WCS whose inverse misses its own corner by more cannot be inverted."""

_HINT = (
    "look at its distortion terms (wcslib takes those of TPV, TNX and ZPX for pixels where there is a CDELT: write the "
    "matrix as CDi_j), or solve its astrometry again"
)

_PAIRS_AT_ONCE = 200_000
_LEAST_COSINE = 0.1
ARCSEC = 3600.0


class Footprint(Record):
    """Where an exposure lies."""

    outline: Outline = Described(description="empty where no tangent plane shows the whole image")
    scale: float = Described(description="root of the area of the pixel at the centre, arcsec")
    angle: float = Described(description="position angle of +y at the centre, degrees east of north, 0 to 360")


def footprint_of(wcs: AnyWcs, shape: tuple[int, int], window: Window | None, shown: str) -> Footprint:
    """Return the footprint of an image, or of the inside of a window of it.

    Scale and angle are those of the whole image's centre, so that the parts of an image share them. What is left
    around a window keeps the whole image's outline.

    Parameters
    ----------
    wcs
        Celestial WCS of the whole image.
    shape
        Its rows and columns.
    window
        The part of the image, if it is one.
    shown
        What to call it in messages.

    Raises
    ------
    NoWcsError
        If a corner or the centre has no place on the sky, or does not come back from there; where there is no
        distortion, only if no pixel has.
    """
    rows, columns = ((0, shape[0]), (0, shape[1]))
    if window is not None and window.inside:
        rows, columns = window.rows, window.columns
    (bottom, top), (left, right) = (rows[0] - 0.5, rows[1] - 0.5), (columns[0] - 0.5, columns[1] - 0.5)
    x0, y0 = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    corners = np.array([left, right, right, left]), np.array([bottom, bottom, top, top])
    try:
        x, y = _with_steps(corners, x0, y0)
        ra, dec = _to_icrs(wcs, x, y, shown)
        outline = tuple(zip(ra[:4].tolist(), dec[:4].tolist(), strict=True))
        wide = _radius(ra[:4], dec[:4]) > WIDE
    except NoWcsError:
        if not may_be_partly_on_the_sky(wcs):
            raise
        wide = True
    if wide:
        seen = wide_area(wcs, (bottom, top), (left, right))
        if seen is None:
            message = f"{shown}: none of its pixels has a place on the sky by its WCS; solve its astrometry again"
            raise NoWcsError(message)
        outline = seen.outline
        middle = np.full(4, seen.middle[0]), np.full(4, seen.middle[1])
        x, y = _with_steps(middle, *seen.middle)
        ra, dec = _to_icrs(wcs, x, y, shown)
    across, along = _tangent_steps(ra[4:], dec[4:])
    area = abs(float(across[0] * along[1] - across[1] * along[0]))
    if area == 0:
        message = f"{shown}: its WCS gives pixels without area; solve its astrometry again"
        raise NoWcsError(message)
    return Footprint(
        outline=outline,
        scale=float(np.degrees(np.sqrt(area))) * ARCSEC,
        angle=float(np.degrees(np.arctan2(along[0], along[1]))) % 360.0,
    )


def _with_steps(points: tuple[NDArray[np.float64], NDArray[np.float64]], x0: float, y0: float) -> NDArray[np.float64]:
    """Return (2, n + 4) x and y of points, and of the ends of two steps of a pixel across another one."""
    return np.concatenate([np.stack(points), [[x0 - 0.5, x0 + 0.5, x0, x0], [y0, y0, y0 - 0.5, y0 + 0.5]]], axis=1)


def _radius(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> float:
    """Return how far a corner is from the middle of all, degrees."""
    vectors = unit_vectors(np.stack([ra, dec], axis=-1))
    middle = vectors.mean(axis=0)
    length = float(np.linalg.norm(middle))
    return float(np.degrees(np.arccos(np.clip(vectors @ middle / (length or 1.0), -1.0, 1.0))).max())


def _to_icrs(
    wcs: AnyWcs, x: NDArray[np.float64], y: NDArray[np.float64], shown: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return RA and Dec (ICRS, degrees) of pixel coordinates, checked against the way back."""
    good = False
    is_fits = isinstance(wcs, WCS)
    to_world, to_pixel = world_transforms(wcs) if is_fits else sky_transforms(wcs)
    try:
        with quiet(), np.errstate(all="ignore"):
            world = to_world(x, y)
            if np.isfinite(world).all():
                back = to_pixel(*world)
                good = bool(np.hypot(back[0] - x, back[1] - y).max() < _ROUND_TRIP)
        frame = frame_of(wcs) if is_fits else None
    except FAULTS as error:
        reason = " ".join(str(error).split())[:200]
        message = f"{shown}: its WCS cannot be inverted ({reason}); {_HINT}"
        raise NoWcsError(message) from error
    if not good:
        message = f"{shown}: its WCS does not bring a corner to the sky and back; {_HINT}"
        raise NoWcsError(message)
    if frame is None:
        return np.asarray(world[0]) % 360.0, np.asarray(world[1])
    lng, lat = celestial_axes(wcs) or (0, 1)
    longitude, latitude = np.asarray(world[lng]), np.asarray(world[lat])
    if frame.name == "icrs":
        return longitude % 360.0, latitude
    sky = SkyCoord(longitude, latitude, unit="deg", frame=frame).icrs
    return np.asarray(sky.ra.deg), np.asarray(sky.dec.deg)


def _tangent_steps(
    ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (east, north), radians, of the step from the first to the second position and third to fourth.

    On the plane tangent to the sphere amid the four, so that it holds at the poles too, where north turns within a
    pixel: there it is the north of the middle.
    """
    vectors = unit_vectors(np.stack([ra, dec], axis=-1))
    middle = vectors.mean(axis=0)
    middle /= np.linalg.norm(middle)
    east = np.array([-middle[1], middle[0], 0.0])
    length = np.linalg.norm(east)
    east = east / length if length > 0 else np.array([0.0, 1.0, 0.0])
    (x, y, z), (ex, ey, _) = middle, east
    basis = np.array([east, (-z * ey, z * ex, x * ey - y * ex)])
    return basis @ (vectors[1] - vectors[0]), basis @ (vectors[3] - vectors[2])


def touching_pairs(outlines: Sequence[Outline] | NDArray[np.float64]) -> NDArray[np.int64]:
    """Return which outlines touch.

    Candidates come from a tree of the outlines' middles; each is then tested exactly, as convex polygons on the
    gnomonic plane amid the two, where great circles are straight.

    Parameters
    ----------
    outlines
        n outlines of at least three corners, each a convex polygon on the sky of less than a hemisphere.

    Returns
    -------
    ndarray
        (m, 2) indices, first < second, sorted. Nothing but rounding joins outlines that merely abut: they touch.
    """
    if len(outlines) < 2:
        return np.empty((0, 2), dtype=np.int64)
    corners = unit_vectors(_same_length(outlines))
    middles = corners.mean(axis=1)
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    radii = np.linalg.norm(corners - middles[:, None], axis=2).max(axis=1) + TOUCH
    pairs = _near(middles, radii)
    chunks = np.array_split(pairs, max(1, len(pairs) // _PAIRS_AT_ONCE))
    return np.concatenate([chunk[_intersect(corners, middles, chunk)] for chunk in chunks])


def _same_length(outlines: Sequence[Outline] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (n, k, 2), shorter outlines filled up by their last corner."""
    longest = max(len(outline) for outline in outlines)
    if all(len(outline) == longest for outline in outlines):
        return np.asarray(outlines, dtype=float)
    return np.array([[*outline, *[outline[-1]] * (longest - len(outline))] for outline in outlines], dtype=float)


def _near(middles: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the pairs whose circles meet, sorted.

    The circles are sorted into classes of radius by factors of two, so that one wide image among many small ones does
    not make everything a neighbour of everything.
    """
    classes = np.floor(np.log2(radii)).astype(int)
    members = [np.flatnonzero(classes == size) for size in np.unique(classes)]
    trees = [KDTree(middles[member]) for member in members]
    found = []
    for a, (first, tree) in enumerate(zip(members, trees, strict=True)):
        found.append(first[tree.query_pairs(2 * radii[first].max(), output_type="ndarray")])
        for second, other in zip(members[a + 1 :], trees[a + 1 :], strict=True):
            near = tree.sparse_distance_matrix(other, radii[first].max() + radii[second].max(), output_type="ndarray")
            found.append(np.stack([first[near["i"]], second[near["j"]]], axis=1))
    pairs = np.sort(np.concatenate(found), axis=1)
    distance = np.linalg.norm(middles[pairs[:, 0]] - middles[pairs[:, 1]], axis=1)
    pairs = pairs[distance <= radii[pairs].sum(axis=1)]
    return np.asarray(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))], dtype=np.int64)


def _intersect(
    corners: NDArray[np.float64], middles: NDArray[np.float64], pairs: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which pairs of outlines intersect, to within TOUCH."""
    if len(pairs) == 0:
        return np.zeros(0, dtype=bool)
    normal = middles[pairs].sum(axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    # Any vector across the normal serves as the plane's first axis; that of its smallest component is never along it.
    axis = np.eye(3)[np.abs(normal).argmin(axis=1)]
    first = np.cross(normal, axis)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    basis = np.stack([first, np.cross(normal, first)], axis=1)
    flat, beyond = [], np.zeros(len(pairs), dtype=bool)
    for side in (0, 1):
        vectors = corners[pairs[:, side]]
        height = np.einsum("pkc,pc->pk", vectors, normal)
        beyond |= (height < _LEAST_COSINE).any(axis=1)
        flat.append(np.einsum("pkc,pac->pka", vectors, basis) / np.maximum(height, _LEAST_COSINE)[..., None])
    apart = _apart(flat[0], flat[1]) | _apart(flat[1], flat[0])
    # So wide that no one plane shows both: taken as touching, for the width is refused later, with its reason.
    return np.asarray(beyond | ~apart)


def _apart(polygons: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return where an edge of the first polygon has all of the other outside.

    By the separating-axis theorem two convex polygons are disjoint just where an edge of one of them does. (Three
    times faster than shapely's general test, which is the oracle of this one's tests.) A polygon that is not convex is
    never apart by its own edges.

    Parameters
    ----------
    polygons, others
        (m, k, 2) corners in order, either way round.
    """
    edges = np.roll(polygons, -1, axis=1) - polygons
    turns = _cross(edges, np.roll(edges, -1, axis=1))
    left, right = (turns >= 0).all(axis=1), (turns <= 0).all(axis=1)
    lengths = np.hypot(edges[..., 0], edges[..., 1])
    nearest = np.full(lengths.shape, np.inf)
    for corner in np.moveaxis(others, 1, 0):
        outward = np.where(left, -1, 1)[:, None] * _cross(edges, corner[:, None] - polygons)
        np.minimum(nearest, outward, out=nearest)
    return np.asarray((nearest > TOUCH * lengths).any(axis=1) & (left | right))


def _cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])


def connected_sets(n: int, pairs: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    """Return the sets into which pairs join the indices 0 to n - 1, each sorted, ordered by their first.

    Parameters
    ----------
    n
        Number of nodes; those without a pair are sets of one.
    pairs
        (m, 2) indices.
    """
    if n == 0:
        return ()
    graph = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    order = np.argsort(labels, kind="stable")
    sets = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return tuple(sorted(tuple(members.tolist()) for members in sets))
