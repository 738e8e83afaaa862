"""Any sequence of losses, edits, runs and prunings: no input is lost unnamed, and nothing that somebody edited."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from levelmatch_core.images.fits_headers import read_headers
from levelmatch_core.pipeline import Request, RunResult, run
from levelmatch_core.products.corrected.undo import undo
from levelmatch_core.products.corrected.verify import verify
from levelmatch_core.products.stale import prune
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate import SimulatedProgram, simulate
from levelmatch_core.sky.store import CutoutStore

FILES = st.sampled_from([0, 3])
"""Which of the four files something befalls: of two, so that much of it meets."""
TILES = st.sampled_from(["stays", "is edited", "is taken away"])
HARMS = st.sampled_from(["removed", "truncated", "cut", "last HDU cut", "emptied"])

STEPS = st.one_of(
    st.tuples(st.just("lose"), st.fixed_dictionaries({"which": FILES, "how": HARMS, "tile": TILES})),
    st.tuples(st.just("lose"), st.fixed_dictionaries({"which": FILES, "how": HARMS, "tile": TILES})),
    st.tuples(st.sampled_from(["put_back", "edit", "take_away"]), st.fixed_dictionaries({"which": FILES})),
    st.tuples(st.just("match"), st.fixed_dictionaries({"prune": st.just(False), "sigma": st.sampled_from([3.0, 4.0])})),
    st.tuples(st.just("match"), st.fixed_dictionaries({"prune": st.booleans(), "sigma": st.just(3.0)})),
    st.tuples(st.just("prune"), st.just({})),
)
"""Of which losses and runs are the most frequent."""


class Place:
    """What is known of the files, against what levelmatch makes of them."""

    def __init__(self, base: Path, root: Path) -> None:
        shutil.copytree(base, root)
        self.root, self.inputs, self.out = root, root / "in", root / "out"
        self.store = base.parent / "store"
        self.names = sorted(path.name for path in self.inputs.glob("*.fits"))
        self.whole = {path.name: path.read_bytes() for path in self.inputs.glob("*.fits")}
        self.harm: dict[str, str] = {}
        """What was done to inputs that are not as they were."""
        self.altered: set[str] = set()
        """Corrected files that were edited or taken away since the last run."""
        self.stale: dict[str, bool] = {}
        """Inputs whose corrected file is stale, and whether that is kept."""
        self.forgotten: set[str] = set()
        """Inputs that are not in OUT: their corrected file was pruned."""
        self.edits: list[bytes] = []
        self.numbers = itertools.count(1)

    def tile(self, name: str) -> Path:
        return self.out / "tiles" / name

    # -- what befalls inputs and corrected files -----------------------------------------------------------------------
    def lose(self, which: int, how: str, tile: str) -> None:
        """Harm an input, and its corrected file perhaps."""
        if tile == "is edited":
            self.edit(which)
        elif tile == "is taken away":
            self.take_away(which)
        name = self.names[which]
        if name in self.harm:
            return
        path = self.inputs / name
        hdus = read_headers(path)
        if how == "removed":
            path.unlink()
        elif how == "truncated":
            path.write_bytes(path.read_bytes()[: hdus[1].data + 2000])
        elif how == "emptied":
            path.write_bytes(b"")
        elif len(hdus) > 2:
            path.write_bytes(path.read_bytes()[: hdus[1 if how == "cut" else -2].end])
        else:
            return
        self.harm[name] = how

    def put_back(self, which: int) -> None:
        """Restore an input."""
        name = self.names[which]
        (self.inputs / name).write_bytes(self.whole[name])
        self.harm.pop(name, None)

    def edit(self, which: int) -> None:
        """Edit a corrected file."""
        place = self.tile(self.names[which])
        if place.exists() and self.names[which] not in self.altered:
            self.edits.append(place.read_bytes()[:-8] + next(self.numbers).to_bytes(8, "big"))
            place.write_bytes(self.edits[-1])
            self.altered.add(self.names[which])

    def take_away(self, which: int) -> None:
        """Remove a corrected file that nobody edited."""
        name = self.names[which]
        if self.tile(name).exists() and name not in self.altered:
            self.tile(name).unlink()
            self.altered.add(name)

    # -- commands ------------------------------------------------------------------------------------------------------
    def match(self, *, prune: bool, sigma: float) -> None:
        """Run, with changing settings."""
        chosen = MatchSettings.from_mapping({"figures": "none", "overwrite": True, "sigma": sigma})
        request = Request(inputs=(self.inputs,), output=self.out, settings=chosen, prune=prune)
        self._hold(run(request, CutoutStore(self.store), PlainRunner), prune=prune)

    def prune(self) -> None:
        """Prune."""
        gone = {product.name.removeprefix("tiles/") for product in prune(self.out)}
        assert gone == set(self.stale)
        self.forgotten |= gone
        self.altered -= gone
        self.stale = {}
        self._hold_edits()

    def _hold(self, result: RunResult, *, prune: bool) -> None:
        """Hold that a run did what it should."""
        for name, how in list(self.harm.items()):
            taken = "cut" in how and (prune or name in self.forgotten)
            if taken:  # as it is now
                self.whole[name] = (self.inputs / name).read_bytes()
                del self.harm[name]
        for name in self.names:
            if name not in self.harm:
                self.stale.pop(name, None)
                self.forgotten.discard(name)
            elif prune:
                self.stale.pop(name, None)
                self.forgotten.add(name)
            elif name not in self.forgotten:
                self.stale[name] = self.stale.get(name, True) and name not in self.altered
        self.altered = set()
        found = {product.name.removeprefix("tiles/"): product.kept for product in result.record.stale}
        assert found == self.stale
        failed = {name for name, how in self.harm.items() if how != "removed"}
        assert result.complete == (not failed and not self.stale)
        assert {one.name for one in result.inventory.failures} == failed
        assert verify(self.out).mismatches == ()
        self._hold_edits()
        self._hold_inputs()

    def _hold_edits(self) -> None:
        """What somebody edited is still there, unless it lies at its place and no run came by yet."""
        there = {path.read_bytes() for path in (self.out / "tiles").rglob("*.fits")}
        assert there.issuperset(self.edits)

    def _hold_inputs(self) -> None:
        """Each input is as it was, or OUT gives it back, or it is named as lost."""
        back = self.root / f"back{next(self.numbers)}"
        found = undo(self.out, back)
        given = {file.name for file in found.files}
        assert given == {name for name in self.names if self.stale.get(name, name not in self.harm)}
        named = {failure.name.removeprefix("tiles/") for failure in found.failures}
        assert named == {name for name, kept in self.stale.items() if not kept}
        for name in given:
            (self.root / "was.fits").write_bytes(self.whole[name])
            with fits.open(back / name) as mine, fits.open(self.root / "was.fits") as was:
                assert [hdu.name for hdu in mine] == [hdu.name for hdu in was]
                np.testing.assert_allclose(mine["SCI"].data, was["SCI"].data, rtol=3e-7, atol=1e-5, equal_nan=True)
        shutil.rmtree(back, ignore_errors=True)


@pytest.mark.slow
def test_nothing_is_lost_unnamed(tmp_path: Path) -> None:
    base, numbers = tmp_path / "base", itertools.count()
    simulate(base / "in", SimulatedProgram(instrument="miri", tiles=(2, 1), dithers=2, size=64))
    request = Request(
        inputs=(base / "in",), output=base / "out", settings=MatchSettings.from_mapping({"figures": "none"})
    )
    assert run(request, CutoutStore(tmp_path / "store"), PlainRunner).complete

    @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(STEPS, min_size=5, max_size=9))
    def hold(steps: list[tuple[str, dict[str, Any]]]) -> None:
        place = Place(base, tmp_path / f"case{next(numbers)}")
        for name, chosen in (*steps, ("match", {"prune": False, "sigma": 3.0})):
            getattr(place, name)(**chosen)
        shutil.rmtree(place.root)

    hold()
