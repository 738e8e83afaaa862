"""Resampled images (`_i2d`): no DQ, a weight image, NaN where nothing was seen; one exposure a tile."""

import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core import MatchSettings, match_levels

EDGE = 6


@pytest.fixture(scope="module")
def resampled(webb, tmp_path_factory):
    """Write the program's first dithers as `_i2d` files; return their folder and true levels."""
    from stdatamodels.jwst import datamodels

    folder, levels = webb
    out = tmp_path_factory.mktemp("i2d")
    true = {}
    for path in sorted(folder.glob("*_00001_*_cal.fits")):
        with datamodels.ImageModel(path) as came, datamodels.ImageModel() as model:
            good = (came.dq & 1) == 0
            good[:EDGE] = good[-EDGE:] = False
            model.data = np.where(good, came.data, np.nan).astype("f4")
            model.err = np.where(good, came.err, np.nan).astype("f4")
            model.wht = good.astype("f4")
            model.update(came)
            model.meta.wcs = came.meta.wcs
            name = path.name.replace("_cal", "_i2d")
            model.save(out / name)
        true[name] = levels[path.name]
    return out, true


@pytest.mark.parametrize("source", ["header", "gwcs"])
def test_resampled_images_are_matched(resampled, tmp_path, source):
    from stdatamodels.jwst import datamodels

    folder, true = resampled
    with fits.open(folder / next(iter(true))) as hdus:
        assert {hdu.name for hdu in hdus} >= {"SCI", "WHT", "ASDF"}
        assert "DQ" not in {hdu.name for hdu in hdus}
    settings = MatchSettings(wcs_source=source, figures="none", step_ext="i2d", do_local_subtraction=False)
    result = match_levels(folder, tmp_path / "out", settings)
    assert result.complete
    names = list(true)
    found = np.array([result.level(name).value for name in names])
    assert found[1] - found[0] == pytest.approx(true[names[1]] - true[names[0]], abs=0.02)
    for name, level in zip(names, found, strict=True):
        with datamodels.open(folder / name) as came, datamodels.open(tmp_path / "out" / "tiles" / name) as model:
            assert np.array_equal(np.isnan(model.data), np.isnan(came.data))
            assert np.nanmax(np.abs(came.data - model.data - level)) < 1e-4
            assert np.array_equal(model.wht, came.wht)
