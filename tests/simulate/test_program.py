from itertools import combinations

import numpy as np
import pytest
import shapely
from shapely.geometry import Polygon

from levelmatch_core.errors import UsageError
from levelmatch_core.simulate.program import (
    Shot,
    SimulatedProgram,
    field_extent,
    generator,
    program_layout,
    shots,
    tangent_wcs,
)


def outline(shot: Shot, columns: tuple[int, int] | None = None, rows: tuple[int, int] | None = None) -> Polygon:
    """Footprint in pixels about the field's centre."""
    x0, x1 = columns or (0, shot.shape[1])
    y0, y1 = rows or (0, shot.shape[0])
    ra, dec = shot.wcs.all_pix2world([x0, x1, x1, x0], [y0, y0, y1, y1], 0)
    flat = tangent_wcs((83.82, -5.39), (1, 1), 3600 * np.sqrt(shot.wcs.proj_plane_pixel_area().to_value("deg2")), 30.0)
    return Polygon(np.column_stack(flat.wcs_world2pix(ra, dec, 0)))


@pytest.mark.parametrize(
    ("options", "first", "last", "count"),
    [
        (
            {"instrument": "miri", "tiles": (2, 2)},
            "jw01234001001_02101_00001_mirimage_cal.fits",
            "jw01234004001_02101_00004_mirimage_cal.fits",
            16,
        ),
        (
            {"instrument": "nircam_short", "tiles": (2, 1), "dithers": 2},
            "jw01234001001_02101_00001_nrca1_cal.fits",
            "jw01234002001_02101_00002_nrca4_cal.fits",
            16,
        ),
        (
            {"instrument": "nircam_short", "tiles": (1, 1), "dithers": 1, "both_modules": True},
            "jw01234001001_02101_00001_nrca1_cal.fits",
            "jw01234001001_02101_00001_nrcb4_cal.fits",
            8,
        ),
        ({"instrument": "generic", "tiles": (3, 2)}, "tile_001.fits", "tile_006.fits", 6),
    ],
)
def test_names_and_number_of_files(options: dict[str, object], first: str, last: str, count: int) -> None:
    files = [shot.file for shot in shots(SimulatedProgram(**options))]
    assert (files[0], files[-1], len(set(files))) == (first, last, count)
    assert files == sorted(files)


def test_the_shape_of_a_full_miri_detector() -> None:
    assert next(shots(SimulatedProgram(size=1024))).shape == (1024, 1032)
    assert next(shots(SimulatedProgram(size=64, columns=48))).shape == (64, 48)


def test_neighbouring_tiles_overlap_by_the_fraction_asked_for() -> None:
    program = SimulatedProgram(
        instrument="generic", tiles=(2, 1), overlap=0.2, turn=0.0, distortion=0.0, size=500, columns=250
    )
    one, two = (outline(shot) for shot in shots(program))
    # The pointings scatter by 1 % of the size, and these images are half as wide as high.
    assert one.intersection(two).area / one.area == pytest.approx(0.2, abs=0.045)


@pytest.mark.parametrize("dithers", [2, 4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_dithers_carry_every_nircam_chip_over_the_gap(dithers: int, seed: int) -> None:
    program = SimulatedProgram(instrument="nircam_short", tiles=(1, 1), dithers=dithers, size=200, seed=seed)
    chips: dict[str, list[Polygon]] = {}
    for shot in shots(program):
        chips.setdefault(shot.detector, []).append(outline(shot))
    for one, two in combinations(["NRCA1", "NRCA2", "NRCA4", "NRCA3", "NRCA1"], 2):
        # Within an exposure chips never touch.
        assert one == two or all(not a.intersects(b) for a, b in zip(chips[one], chips[two], strict=True))
    stacks = {name: shapely.union_all(polygons) for name, polygons in chips.items()}
    for one, two in (("NRCA1", "NRCA2"), ("NRCA2", "NRCA4"), ("NRCA4", "NRCA3"), ("NRCA3", "NRCA1")):
        assert stacks[one].intersection(stacks[two]).area > 0.02 * program.size**2


@pytest.mark.parametrize("seed", range(3))
def test_dithers_carry_the_lyot_window_over_the_main_chip(seed: int) -> None:
    window, main = [], []
    for shot in shots(SimulatedProgram(tiles=(1, 1), size=1024, lyot=True, seed=seed)):
        lyot = shot.windows["@lyot"]
        assert lyot is not None
        # Four pixels to either side of the border are flagged.
        window.append(outline(shot, (4, lyot.columns[1] - 4), (lyot.rows[0] + 4, 1024)))
        main.append(outline(shot).difference(outline(shot, (-9, lyot.columns[1] + 4), (lyot.rows[0] - 4, 1033))))
    assert shapely.union_all(window).intersection(shapely.union_all(main)).area > 15_000


def test_the_sky_map_covers_every_exposure() -> None:
    for instrument, columns in (("miri", None), ("nircam_short", None), ("generic", 60), ("generic", 250)):
        program = SimulatedProgram(instrument=instrument, tiles=(3, 2), size=128, columns=columns)
        width, height = field_extent(program)
        field = tangent_wcs(program.centre, (1, 1), program_layout(program).scale, program.angle)
        for shot in shots(program):
            x, y = field.wcs_world2pix(*shot.wcs.calc_footprint(axes=shot.shape[::-1]).T, 0)
            assert max(abs(x)) < width / 2, shot.file
            assert max(abs(y)) < height / 2, shot.file


def test_the_sip_terms_move_the_worst_corner_by_the_amplitude() -> None:
    shot = next(shots(SimulatedProgram(distortion=0.7)))
    y, x = (axis.ravel().astype(float) for axis in np.indices(shot.shape))
    plain = shot.wcs.deepcopy()
    plain.sip = None
    moved = plain.all_world2pix(*shot.wcs.all_pix2world(x, y, 0), 0)
    assert np.hypot(moved[0] - x, moved[1] - y).max() == pytest.approx(0.7, rel=0.02)


def test_random_numbers_depend_on_their_purpose_only() -> None:
    first = generator(3, "noise", "a").random(4)
    generator(3, "noise", "b").random(100)
    assert np.array_equal(generator(3, "noise", "a").random(4), first)
    assert not np.array_equal(generator(3, "noise", "b").random(4), first)
    assert not np.array_equal(generator(4, "noise", "a").random(4), first)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lyot": True, "size": 512}, r"size=512.*>= 800"),
        ({"lyot": True, "size": 1024, "instrument": "generic"}, "only miri"),
        ({"tiles": (0, 2)}, "0x2"),
        ({"tiles": (40, 40)}, "999"),
        ({"size": 3}, "size=3"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_program_that_cannot_be_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SimulatedProgram.of(**options)
