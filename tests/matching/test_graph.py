import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levelmatch_core.matching.graph import bridges, choose_reference, components, cut_by
from levelmatch_core.matching.results import Member
from tests.matching.fakes import make_cutout, member

NAMES = [f"n{i}" for i in range(9)]
PAIRS = list(itertools.combinations(NAMES, 2))


def plain_components(names: list[str], pairs: list[tuple[str, str]]) -> set[frozenset[str]]:
    parts = [{name} for name in names]
    for a, b in pairs:
        joined = [part for part in parts if a in part or b in part]
        parts = [part for part in parts if part not in joined] + [set().union(*joined)]
    return {frozenset(part) for part in parts}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PAIRS), unique=True, max_size=20))
def test_components_and_bridges_are_what_their_definitions_say(pairs: list[tuple[str, str]]) -> None:
    found = components(NAMES, pairs)
    assert {frozenset(part) for part in found} == plain_components(NAMES, pairs)
    assert found == sorted(found, key=lambda part: (-len(part), part))
    expected = {pair for pair in pairs if len(plain_components(NAMES, [p for p in pairs if p != pair])) > len(found)}
    assert bridges(pairs) == expected


def test_a_long_chain_needs_no_recursion() -> None:
    chain = [(f"{i:06d}", f"{i + 1:06d}") for i in range(50_000)]
    assert len(bridges(chain)) == 50_000
    assert bridges([*chain, ("000000", "050000")]) == set()


def test_rejections_that_cut() -> None:
    parts = components("abcd", [("a", "b"), ("c", "d")])
    assert cut_by(parts, [("b", "c"), ("a", "b")]) == [("b", "c")]


def made(name: str, size: int = 4, **values: object) -> Member:
    return member(make_cutout(name, np.ones((size, size))), **values)


def test_reference_by_pairs_then_pixels_then_name() -> None:
    members = [made("a"), made("b"), made("c"), made("d", size=5)]
    pairs = [("a", "b"), ("b", "c"), ("c", "d")]
    assert choose_reference(members, [*pairs, ("b", "d")])[0] == "b"
    assert choose_reference(members, pairs)[0] == "b"  # b and c have two pairs and as many pixels
    assert choose_reference(members, [("a", "b"), ("c", "d")])[0] == "d"
    assert "most usable pairs (2)" in choose_reference(members, pairs)[1]
    assert choose_reference(members, [*pairs, ("b", "elsewhere"), ("c", "x"), ("c", "y")])[0] == "b"


def test_reference_closest_to_the_backgrounds() -> None:
    members = [made("a"), made("b", background_time=-3.0), made("c", background_time=2.0), made("d")]
    name, reason = choose_reference(members, [("a", "b"), ("a", "c"), ("a", "d")])
    assert name == "c"
    assert "DT_BGR" in reason
    tied = [made("a", background_time=2.0), made("b", background_time=-2.0), made("c")]
    assert choose_reference(tied, [("b", "c")])[0] == "b"


def test_reference_named_by_the_user_and_kept_from_before() -> None:
    members = [made("a", tile="t1+t9"), made("b", tile="t2", background_time=0.0), made("c", tile="t3")]
    pairs = [("a", "b"), ("b", "c")]
    assert choose_reference(members, pairs, "t9") == ("a", "named by the user")
    assert choose_reference(members, pairs, "elsewhere")[0] == "b"
    name, reason = choose_reference(members, pairs, None, ["t3"])
    assert name == "c"
    assert "kept from the earlier run" in reason
    assert "automatic choice would be b" in reason
    assert choose_reference(members, pairs, None, ["t2"]) == choose_reference(members, pairs)
    assert choose_reference(members, pairs, "t1", ["t2"])[0] == "a"
    assert choose_reference(members, pairs, None, ["gone"])[0] == "b"


@pytest.mark.parametrize("tied", [True, False])
def test_a_lyot_half_gives_way_to_its_science_twin(tied: bool) -> None:
    lyot = made("lyot", background_time=1.0, groups={"recombine_lyot": "g1"})
    main = made("main", groups={"recombine_lyot": "g1"}, anchors=("recombine_lyot",))
    other = made("other", groups={"recombine_lyot": "g2"}, anchors=("recombine_lyot",), background_time=9.0)
    name, reason = choose_reference([lyot, other, *([main] if tied else [])], [("lyot", "other")])
    assert name == ("main" if tied else "lyot")
    assert ("twin of lyot" in reason) == tied
