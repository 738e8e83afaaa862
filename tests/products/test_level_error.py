"""The map of the errors of the levels: as a FITS file, as a figure, and in the report."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from levelmatch_core.errors import AlreadyMatchedError
from levelmatch_core.images.fits_headers import read_headers
from levelmatch_core.images.reading import refuse_matched
from levelmatch_core.matching.corrections import ErrorMap
from levelmatch_core.products.figures.level_error import draw_level_error
from levelmatch_core.products.level_error import write_level_error
from levelmatch_core.products.report.images import level_error
from levelmatch_core.sky.store import StoredArray


@pytest.fixture
def error_file(tmp_path: Path, make: Any) -> Path:
    levels = np.linspace(0.01, 0.03, 24 * 40).reshape(24, 40)
    levels[:4, :4] = np.nan
    stored = StoredArray(file="a.npy", sha256="0" * 64)
    at = ErrorMap(array=stored, x0=2004.5, y0=3004.5, step=10.0)
    write_level_error(tmp_path / "level_error_f.fits", make.grid, levels, at, make.unit)
    return tmp_path / "level_error_f.fits"


def test_each_point_lies_where_the_grid_has_it(error_file: Path, make: Any) -> None:
    with fits.open(error_file) as hdus:
        wcs, header, levels = WCS(hdus["LEVELERR"].header), hdus["LEVELERR"].header, hdus["LEVELERR"].data
    assert header["BUNIT"] == make.unit
    assert levels.dtype == np.dtype(">f4")
    rows, columns = np.array([0, 5, 23]), np.array([0, 39, 7])
    found = np.array(wcs.pixel_to_world_values(columns, rows))
    np.testing.assert_allclose(found, make.grid.to_sky(2004.5 + 10.0 * columns, 3004.5 + 10.0 * rows), atol=1e-10)


def test_it_is_no_input(error_file: Path) -> None:
    with pytest.raises(AlreadyMatchedError, match="level error"):
        refuse_matched(read_headers(error_file, error_file.name), error_file.name)


def test_figure_and_page_show_it(error_file: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_level_error(tmp_path / name, error_file, "a field")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert mpl.image.imread(tmp_path / "a.png")[..., :3].std() > 0.05
    view = level_error(error_file)
    assert view is not None
    assert view.high == pytest.approx(0.03)
    assert view.half == pytest.approx(0.02, rel=0.02)
    assert (view.width, view.height) == (360, 216)


def test_nothing_seen_is_not_shown(error_file: Path) -> None:
    with fits.open(error_file, mode="update") as hdus:
        hdus["LEVELERR"].data[:] = np.nan
    assert level_error(error_file) is None
