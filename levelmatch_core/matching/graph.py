"""The graph of members and used pairs: components, bridges, and the choice of the reference."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from levelmatch_core.matching.graph_kernels import bridge_flags
from levelmatch_core.matching.pairs import Pair
from levelmatch_core.matching.results import Member


def components(names: Collection[str], pairs: Iterable[Pair]) -> list[tuple[str, ...]]:
    """Return the sets of names that are connected by pairs, each sorted; the largest first, then by first name.

    Parameters
    ----------
    names
        All members; one without a pair is a separate component.
    pairs
        The used pairs.
    """
    ordered = sorted(names)
    if not ordered:
        return []
    index = {name: i for i, name in enumerate(ordered)}
    ends = np.array([(index[a], index[b]) for a, b in pairs], dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), dtype=np.int8), (ends[:, 0], ends[:, 1])), shape=(len(ordered),) * 2)
    count, labels = connected_components(graph, directed=False)
    found: list[list[str]] = [[] for _ in range(count)]
    for name, label in zip(ordered, labels.tolist(), strict=True):
        found[label].append(name)
    return sorted((tuple(part) for part in found), key=lambda part: (-len(part), part))


def bridges(pairs: Iterable[Pair], known: Collection[str] = ()) -> set[Pair]:
    """Return the pairs that are the only connection between two parts.

    Parameters
    ----------
    pairs
        Each pair once.
    known
        Members whose correction is known: they are connected without a pair.
    """
    edges = list(pairs)
    index = {name: number for number, name in enumerate(sorted({name for pair in edges for name in pair}))}
    tied = min((index[name] for name in known if name in index), default=0)
    index |= {name: tied for name in known if name in index}
    ends = np.array([(index[a], index[b]) for a, b in edges], dtype=np.int64).reshape(-1, 2)
    first, second = np.ascontiguousarray(ends[:, 0]), np.ascontiguousarray(ends[:, 1])
    first.flags.writeable = second.flags.writeable = (
        False  # like those of a problem, so that the function is compiled only once
    )
    flags = bridge_flags(len(index), first, second)
    return {edges[number] for number in np.flatnonzero(flags).tolist()}


def cut_by(parts: Sequence[tuple[str, ...]], rejected: Iterable[Pair]) -> list[Pair]:
    """Return the rejected pairs whose members are now in different components."""
    where = {name: number for number, part in enumerate(parts) for name in part}
    return sorted(pair for pair in rejected if where[pair[0]] != where[pair[1]])


def choose_reference(
    members: Sequence[Member], pairs: Iterable[Pair], named: str | None = None, preferred: Collection[str] = ()
) -> tuple[str, str]:
    """Return the reference of a component, and the reason for the choice.

    This is the tile named by the user; else the reference of an earlier run (the reason then also gives the automatic
    choice, if that differs); else the member closest in time to the dedicated backgrounds (smallest absolute DT_BGR;
    members without it are ignored), or its twin with correction 0 in an earlier stage, if that member is only the other
    half of a tile; else the one with the most usable pairs, then the most pixels, then the first name.

    Parameters
    ----------
    members
        The members of one component, at least one.
    pairs
        The used pairs (those with other members are ignored).
    named
        Name of a tile (or member), or None.
    preferred
        Names of reference tiles (or members) of an earlier run.

    Returns
    -------
    name, reason
    """
    count = {member.name: 0 for member in members}
    for pair in pairs:
        if pair[0] in count and pair[1] in count:
            count[pair[0]] += 1
            count[pair[1]] += 1

    def best(candidates: Iterable[Member]) -> Member:
        return min(candidates, key=lambda member: (-count[member.name], -member.cutout.n_valid, member.name))

    chosen = [member for member in members if named is not None and is_named(member, {named})]
    if chosen:
        return best(chosen).name, "named by the user"
    automatic, reason = _automatic(members, best, count)
    kept = [member for member in members if is_named(member, preferred)]
    if not kept:
        return automatic, reason
    name = best(kept).name
    if name == automatic:
        return name, reason
    return name, f"kept from the earlier run; the automatic choice would be {automatic}, {reason}"


def _automatic(
    members: Sequence[Member], best: Callable[[Iterable[Member]], Member], count: Mapping[str, int]
) -> tuple[str, str]:
    timed = [(abs(member.background_time), member) for member in members if member.background_time is not None]
    if timed:
        nearest = min(time for time, _ in timed)
        closest = best(member for time, member in timed if time == nearest)
        reason = f"closest in time to the dedicated backgrounds (|DT_BGR| = {nearest:g})"
        twins = _twins(closest, members)
        if twins:
            return best(twins).name, f"twin of {closest.name}, which is {reason}"
        return closest.name, reason
    name = best(members).name
    return name, f"most usable pairs ({count[name]}), then pixels, then name"


def is_named(member: Member, named: Collection[str]) -> bool:
    """Return whether the member, or one of its tiles, has one of the names."""
    return not {member.name, member.tile, *member.tile.split("+")}.isdisjoint(named)


def _twins(member: Member, members: Sequence[Member]) -> list[Member]:
    """Return the anchors of the groups in which `member` is the half that is not an anchor."""
    return [
        other
        for stage, group in sorted(member.groups.items())
        if stage not in member.anchors
        for other in members
        if stage in other.anchors and other.groups.get(stage) == group
    ]
