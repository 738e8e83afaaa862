"""Making numba's search for types quicker, in processes that only compile; the machine code is the same.

For each operator and each call of a function, numba tries all its definitions of that function in turn, also where it
has found the right one for the same types before, and compares all its options each time. Remembering what was found
saves an eighth of what kernels take to be compiled.
"""

from collections.abc import Callable
from typing import Any

import numba
from numba.core.targetconfig import ConfigStack, TargetConfig
from numba.core.types.functions import BaseFunction

KNOWN = ("0.68",)
"""Versions of numba whose inside is known to be as is assumed here; others are left alone."""


def quicken() -> bool:
    """Replace parts of numba in this process.

    Returns
    -------
    bool
        Whether this version is known.
    """
    if numba.__version__.rpartition(".")[0] not in KNOWN:
        return False
    _compare_options_quickly()
    _remember_types_of_calls(BaseFunction.get_call_type)
    return True


def _compare_options_quickly() -> None:
    """Compare options without asking each of them for its value; hash none of them."""
    defaults: dict[Any, dict[str, Any]] = {}

    def all_of(options: TargetConfig) -> dict[str, Any]:
        kind = type(options)
        if kind not in defaults:
            defaults[kind] = {name: option.default for name, option in kind.options.items()}
        return defaults[kind] | options._values  # noqa: SLF001 - there is no other way

    def is_equal(mine: TargetConfig, other: object) -> bool:
        if not isinstance(other, TargetConfig):
            return NotImplemented
        if type(mine) is type(other) and mine._values == other._values:  # noqa: SLF001
            return True
        return all_of(mine) == all_of(other)

    TargetConfig.__eq__ = is_equal
    TargetConfig.__hash__ = lambda mine: hash(type(mine))  # numba's own is that of the names, which all have in common


def _remember_types_of_calls(find: Callable[..., Any]) -> None:
    """Remember what `find` has found for a function and types of arguments, and by which implementation.

    What failed is not remembered: it may succeed later.
    """
    known: dict[Any, tuple[Any, Any]] = {}

    def found(function: Any, context: Any, args: Any, kws: Any) -> Any:  # noqa: ANN401 - numba's
        options = ConfigStack.top_or_none()
        if kws or options is None:
            return find(function, context, args, kws)
        key = function, context, tuple(args), options
        if key not in known:
            signature = find(function, context, args, kws)
            known[*key[:3], options.copy()] = signature, function.get_impl_key(signature)
            return signature
        signature, implementation = known[key]
        function._impl_keys[signature.args] = implementation  # noqa: SLF001 - other options may have changed it meanwhile
        return signature

    base: Any = BaseFunction
    base.get_call_type = found
