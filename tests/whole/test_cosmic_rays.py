"""Cosmic rays that are left out of measuring and mosaics are counted and named; corrected files keep them."""

import json

import numpy as np
from astropy.io import fits

from levelmatch_core.products.explain import explain
from levelmatch_core.simulate import SimulatedProgram, simulate


def test_pixels_left_out_alone_are_counted_and_so_are_the_holes_that_they_leave(tmp_path, level_match):
    raw = tmp_path / "raw"
    simulate(raw, SimulatedProgram(instrument="generic", tiles=(2, 1), dithers=1, size=96, bad_pixel_fraction=0.0))
    files = sorted(raw.glob("*.fits"))
    with fits.open(files[0], mode="update") as hdus:
        image = next(hdu for hdu in hdus if hdu.data is not None)
        image.data[[20, 40, 60], [20, 30, 25]] += 50.0
    level_match(raw, preset="best")

    out = tmp_path / "out"
    notes = json.loads((out / "run.json").read_text())["notes"]
    left_out = next(note for note in notes if "stand out alone" in note)
    assert "3 pixels of 1 exposures" in left_out
    assert files[0].stem in left_out
    mosaic = next(out.glob("mosaic_*.fits"))
    hole = next(note for note in notes if "small holes" in note)
    with fits.open(mosaic) as hdus:
        covered = hdus["COVERAGE"].data > 0
    inside = np.zeros(covered.shape, dtype=bool)  # between covered pixels along the row
    for row, mask in zip(covered, inside, strict=True):
        ends = np.flatnonzero(row)
        if len(ends):
            mask[ends[0] : ends[-1]] = True
    assert hole.startswith(f"{mosaic.name}: {np.count_nonzero(inside & ~covered)} pixels")
    assert hole in explain(out)
    corrected = fits.getdata(out / "tiles" / files[0].name, image.name or 0)
    assert np.isfinite(corrected[[20, 40, 60], [20, 30, 25]]).all()
