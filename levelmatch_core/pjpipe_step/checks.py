"""What matrices and options of the step's solver must be."""

from collections.abc import Sequence
from operator import index
from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.errors import SettingsError, UsageError
from levelmatch_core.matching.pair_matrices import DeltaMatrices

ITERATIVE = {"n_draws": 25, "n_iter": 10_000, "convergence_abs_tol": 1e-8, "convergence_rel_tol": 1e-5}
"""Options that only the iterative solver reads, and their defaults."""

_CLOSE = 1e-6


def matrices_of(given: Sequence[object], k: int) -> DeltaMatrices:
    """Return five matrices (arrays, or lists of lists) as arrays: (N, N, k) differences, and four of (N, N).

    Raises
    ------
    UsageError
        If one has another shape or holds no numbers, or if both of its triangles do not say the same.
    """
    names = DeltaMatrices._fields
    arrays: list[NDArray[Any]] = []
    for name, each in zip(names, given, strict=True):
        try:
            arrays.append(np.asarray(each, dtype=np.float64))
        except (TypeError, ValueError) as error:
            message = f"{name} is no array of numbers ({error}); expected one row and one column a member"
            raise UsageError(message) from error
    delta, *numbers = arrays
    n = len(delta) if delta.ndim else 0
    shapes = {(n, n), (n, n, 1)} if k == 1 else {(n, n, k)}
    if delta.shape not in shapes or any(each.shape != (n, n) for each in numbers) or n == 0:
        expected = "(N, N)" if k == 1 else "(N, N, 3), since planes are [a, b, c],"
        found = ", ".join(f"{name} {each.shape}" for name, each in zip(names, arrays, strict=True))
        message = f"matrices of shapes {found}; expected delta_mat {expected} and all others (N, N)"
        raise UsageError(message)
    delta = delta.reshape(n, n, k)
    valid = numbers[-1] != 0
    for name, each, sign in zip(names, (delta, *(one[..., None] for one in numbers)), (-1, 1, 1, 1, 1), strict=True):
        _refuse_lopsided(name, each, sign, valid | valid.T)
    npix, rms, linear, _ = numbers
    return DeltaMatrices(delta, npix.astype(np.int64), rms, (linear != 0).astype(int), valid.astype(int))


def _refuse_lopsided(name: str, matrix: NDArray[Any], sign: int, valid: NDArray[np.bool_]) -> None:
    """Refuse a matrix of which [j, i] is not `sign` times [i, j], or is no number, where there is a pair.

    Raises
    ------
    UsageError
        If it is so.
    """
    turned = sign * matrix.swapaxes(0, 1)
    scale = float(np.max(np.abs(matrix[valid]), initial=0.0))
    wrong = valid & ~np.all(np.abs(matrix - turned) <= _CLOSE * scale, axis=-1)
    if not wrong.any():
        return
    i, j = (int(one) for one in np.argwhere(wrong)[0])
    what = "antisymmetric: [j, i] describes data_j - data_i, and [i, j] its negative" if sign < 0 else "symmetric"
    message = (
        f"{name}: [{i}, {j}] is {matrix[i, j].tolist()} and [{j}, {i}] is {matrix[j, i].tolist()}; expected both "
        f"triangles filled with finite numbers, and the matrix {what}"
    )
    raise UsageError(message)


def reference_of(ref_idx: object, count: int) -> int | None:
    """Return the index of the reference.

    Raises
    ------
    UsageError
        If it is no index of a member.
    """
    if ref_idx is None:
        return None
    try:
        number = -1 if isinstance(ref_idx, bool | np.bool_) else index(cast("SupportsIndex", ref_idx))
    except TypeError:
        number = -1
    if not 0 <= number < count:
        message = f"ref_idx={ref_idx!r}: expected the index of a member, 0 to {count - 1}, or None"
        raise UsageError(message)
    return int(number)


def solver_settings(solver: str | None, own: str, options: dict[str, float]) -> dict[str, object]:
    """Return what the solver is told: options that differ from their defaults ask for the iterative one.

    Parameters
    ----------
    solver
        As asked for; None to leave it to the options, then to the settings.
    own
        The solver of the settings.
    options
        The four of :data:`ITERATIVE`.

    Raises
    ------
    SettingsError
        If options are given that the solver does not read.
    """
    changed = [name for name, value in options.items() if value != ITERATIVE[name]]
    if changed and solver == "least_squares":
        message = f"{changed[0]}={options[changed[0]]!r}: solver='least_squares' does not iterate; use 'iterative'"
        raise SettingsError(message)
    return {**options, "solver": solver or ("iterative" if changed else own)}
