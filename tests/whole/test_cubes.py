"""A plane of a cube is matched, and given back within the whole cube."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from levelmatch_core import match_levels
from levelmatch_core.errors import NoInputError
from levelmatch_core.images.contents.image_list import with_plane
from levelmatch_core.images.fits_headers import read_headers
from levelmatch_core.images.reading import wcs_of
from levelmatch_core.products.corrected.reapply import apply_solution
from levelmatch_core.products.corrected.undo import undo
from levelmatch_core.products.corrected.verify import verify
from levelmatch_core.settings import MatchSettings as Settings

N = 64
SHAPE = (2, 3, N, N)
LEVELS = {"a": 4.0, "b": -9.0, "c": 15.0}
Y, X = np.mgrid[:N, :N].astype(float)


def header_of(number: int, axes: int = 4) -> Any:
    wcs = WCS(naxis=axes)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN", "FREQ", "STOKES"][:axes]
    wcs.wcs.crval = [150 - 20 * number / 3600, 1.0, 1.4e9, 1.0][:axes]
    wcs.wcs.crpix = [N / 2, N / 2, 1.0, 1.0][:axes]
    wcs.wcs.cdelt = [-1 / 3600, 1 / 3600, 1e6, 1.0][:axes]
    header = wcs.to_header()
    header["BUNIT"] = "Jy/beam"
    return header


def program(folder: Path, plane: int, dtype: str = "f4", *, packed: bool = False, **cards: Any) -> None:
    """Write cubes whose levels hold in one plane alone."""
    folder.mkdir()
    for number, (name, level) in enumerate(LEVELS.items()):
        header = header_of(number)
        header.update(cards)
        ra, dec = WCS(header).celestial.all_pix2world(X, Y, 0)
        rng = np.random.default_rng(number)
        cube = rng.normal(0, 0.3, SHAPE) + 300 * rng.normal(size=(2, 3, 1, 1))
        cube.reshape(-1, N, N)[plane - 1] = (
            50 + level + 5 * np.sin((ra - 150) * 400) * np.cos(dec * 500) + rng.normal(0, 0.3, (N, N))
        )
        cube = cube.astype(dtype)
        if packed:
            made = fits.CompImageHDU(cube, header, compression_type="GZIP_2", quantize_level=0)
            fits.HDUList([fits.PrimaryHDU(), made]).writeto(folder / f"{name}.fits")
        else:
            fits.PrimaryHDU(cube, header).writeto(folder / f"{name}.fits")


def data(path: Path) -> np.ndarray:
    with fits.open(path, memmap=False) as hdus:
        return np.array(hdus[-1].data)


@pytest.mark.parametrize("plane", [1, 2, 5])
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_plane_is_matched_and_the_others_stay(tmp_path: Path, plane: int, fit_type: Any, packed: bool) -> None:
    program(tmp_path / "in", plane, packed=packed)
    result = match_levels(
        tmp_path / "in", tmp_path / "out", Settings(figures="none", plane=plane, fit_type_mosaic_tiles=fit_type)
    )
    found = {one.exposure.name[0]: one.total.level for one in result.corrections}
    if fit_type == "level":
        assert np.ptp([found[name] - LEVELS[name] for name in LEVELS]) < 0.1
    for name in LEVELS:
        came, made = data(tmp_path / "in" / f"{name}.fits"), data(tmp_path / "out" / "tiles" / f"{name}.fits")
        assert (made.shape, made.dtype) == (came.shape, came.dtype)
        others = np.arange(6) != plane - 1
        np.testing.assert_array_equal(made.reshape(-1, N, N)[others], came.reshape(-1, N, N)[others])
        taken = (came - made).reshape(-1, N, N)[plane - 1]
        np.testing.assert_allclose(taken.mean(), found[name], atol=1e-3)
    assert verify(tmp_path / "out").mismatches == ()
    assert undo(tmp_path / "out", tmp_path / "back").complete
    assert apply_solution(tmp_path / "out" / "corrections.ecsv", [tmp_path / "in"], tmp_path / "again").complete
    for name in LEVELS:
        back, came = data(tmp_path / "back" / f"{name}.fits"), data(tmp_path / "in" / f"{name}.fits")
        np.testing.assert_allclose(back, came, atol=1e-5)
        assert not [card for card in fits.getheader(tmp_path / "back" / f"{name}.fits", -1) if card.startswith("LVL")]
        written = (tmp_path / "out" / "tiles" / f"{name}.fits").read_bytes()
        assert (tmp_path / "again" / f"{name}.fits").read_bytes() == written


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "name a plane: --set plane=N"),
        ({"plane": 7}, "which has no plane 7"),
    ],
)
def test_a_cube_without_that_plane_is_refused(tmp_path: Path, options: Any, match: str) -> None:
    program(tmp_path / "in", 1)
    with pytest.raises(NoInputError, match=match):
        match_levels(tmp_path / "in", settings=Settings(**options))


def test_a_cube_of_whole_numbers_is_refused_with_the_reason(tmp_path: Path) -> None:
    program(tmp_path / "in", 1, "i2")
    with pytest.raises(NoInputError, match="cube of integers or scaled numbers"):
        match_levels(tmp_path / "in", settings=Settings(plane=1))


def test_planes_of_images_are_images(tmp_path: Path) -> None:
    """The setting says nothing of images of two axes."""
    (tmp_path / "in").mkdir()
    for number in range(2):
        image = np.random.default_rng(number).normal(5, 1, (N, N)).astype(np.float32)
        fits.PrimaryHDU(image, header_of(number, axes=2)).writeto(tmp_path / "in" / f"{number}.fits")
    assert len(match_levels(tmp_path / "in", settings=Settings(plane=3)).corrections) == 2


def test_the_wcs_is_that_of_the_plane(tmp_path: Path) -> None:
    """A matrix that mixes frequency with the sky moves each plane; astropy is the oracle."""
    header = header_of(0, axes=3)
    header["PC1_3"], header["PC2_3"], header["CRPIX3"] = 2.0, -1.5, 2.0
    fits.PrimaryHDU(np.zeros((3, N, N), np.float32), header).writeto(tmp_path / "a.fits")
    for plane in (1, 2, 3):
        hdu = with_plane(read_headers(tmp_path / "a.fits"), plane)[0]
        found = wcs_of(hdu, tmp_path / "a.fits", "a").all_pix2world(X, Y, 0)
        expected = WCS(header).all_pix2world(X, Y, plane - 1, 0)
        for one, other in zip(found, expected[:2], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6 / 3600)


@pytest.mark.slow
def test_by_the_command(tmp_path: Path) -> None:
    program(tmp_path / "in", 4)
    command = [
        str(Path(sys.executable).with_name("levelmatch")),
        "run",
        str(tmp_path / "in"),
        "--output",
        str(tmp_path / "out"),
    ]
    done = subprocess.run([*command, "--set", "plane=4", "--set", "figures=none"], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    came, made = data(tmp_path / "in" / "c.fits"), data(tmp_path / "out" / "tiles" / "c.fits")
    np.testing.assert_array_equal(made[0], came[0])
    assert not np.array_equal(made[1, 0], came[1, 0])
