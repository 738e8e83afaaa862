"""Which members are named as those that show another sky."""

import pytest

from levelmatch_core.products.strangers import strangers, unlike_pairs, words_of
from levelmatch_core.products.summaries import StageSummary, Unlike


@pytest.fixture
def pairs_of(make):
    """Return pairs of a simulated mosaic, of which some are unlike."""

    def pairs(unlike, n=12):
        (solution,) = make.match(3, 3).stages[-1].solutions
        made = []
        for pair in [one for one in solution.pairs if one.rejected is None][:n]:
            names = {pair.fit.first, pair.fit.second}
            given = next((found for members, found in unlike if members <= names), None)
            made.append(pair.model_copy(update={"fit": pair.fit.model_copy(update={"likeness": given})}))
        return made

    return pairs


def named(pairs):
    found = unlike_pairs(pairs)
    return [(one.first, one.second) for one in found], strangers(pairs, found)


def test_one_that_is_unlike_all_others_is_named_alone(pairs_of):
    pairs = pairs_of([])
    name = pairs[0].fit.first
    found, who = named(pairs_of([({name}, (0.0, 0.1))]))
    assert all(name in pair for pair in found)
    assert who == [name]


def test_what_may_be_chance_or_is_rejected_is_none(pairs_of):
    name = pairs_of([])[0].fit.first
    assert named(pairs_of([({name}, (0.5, 0.1))])) == ([], [])
    rejected = [pair.model_copy(update={"rejected": "noise"}) for pair in pairs_of([({name}, (0.0, 0.1))])]
    assert named(rejected) == ([], [])


def test_the_one_that_is_unlike_several_is_named_although_others_do_not_tell(pairs_of):
    """Thin overlaps say nothing: the one that the pairs which do have in common is meant."""
    pairs = pairs_of([])
    name = max(
        (pair.fit.first for pair in pairs), key=lambda one: sum(one in {p.fit.first, p.fit.second} for p in pairs)
    )
    mine = [{pair.fit.first, pair.fit.second} for pair in pairs if name in {pair.fit.first, pair.fit.second}]
    assert len(mine) > 3
    found, who = named(pairs_of([(members, (0.0, 0.1)) for members in mine[:2]]))
    assert len(found) == 2
    assert who == [name]


def test_of_a_pair_without_others_both_are_named(pairs_of):
    first = pairs_of([])[0].fit.first
    (pair,) = pairs_of([({first}, (-1.0, 0.01))], n=1)
    assert named([pair]) == ([(pair.fit.first, pair.fit.second)], sorted([pair.fit.first, pair.fit.second]))


def test_one_bad_pair_of_many_names_nobody_but_is_told(pairs_of):
    pairs = pairs_of([])
    busy = max(
        pairs,
        key=lambda pair: sum(bool({pair.fit.first, pair.fit.second} & {p.fit.first, p.fit.second}) for p in pairs),
    )
    found, who = named(pairs_of([({busy.fit.first, busy.fit.second}, (0.0, 0.1))]))
    assert len(found) == 1
    assert who == []


def test_the_words():
    stage = StageSummary.model_construct(unlike_found=0, strangers=(), used=9)
    assert words_of(stage) == ""
    two = stage.model_copy(update={"unlike_found": 5, "strangers": ("a", "b")})
    assert (
        words_of(two) == "a, b show another sky than what overlaps: look at the WCS, orientation, sign, scale and band"
    )
    pair = Unlike(first="a", second="b", correlation=0.1, sigma=0.1)
    one = stage.model_copy(update={"unlike_found": 1, "unlike": (pair,)})
    assert words_of(one).startswith("a and b show different skies: look at")
