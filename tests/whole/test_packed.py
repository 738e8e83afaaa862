"""Packed files and files with sums through a whole run: what comes out is packed alike, and no damage is blessed."""

import bz2
import gzip
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core.images.storage.lzw import compress, uncompress
from levelmatch_core.products.corrected.undo import undo
from levelmatch_core.products.corrected.verify import verify

SIZE = 80
LEVELS = (3.0, -5.0, 11.0, -2.0)


def image(number: int) -> fits.PrimaryHDU:
    """Return one of four images that overlap by half, at a level of its own."""
    rng = np.random.default_rng(number)
    x, y = 40 * (number % 2), 40 * (number // 2)
    row, column = np.mgrid[:SIZE, :SIZE]
    sky = 100 + 5 * np.sin((row + y) / 11) * np.cos((column + x) / 13)
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 1.0 - x}
    cards |= {"CRPIX2": 1.0 - y, "CDELT1": -1 / 3600, "CDELT2": 1 / 3600, "FILTER": "r", "BUNIT": "MJy/sr"}
    return fits.PrimaryHDU((sky + LEVELS[number] + rng.normal(0, 0.1, sky.shape)).astype("f4"), fits.Header(cards))


def opened(path: Path) -> bytes:
    raw = path.read_bytes()
    return {b"\x1f\x8b": gzip.decompress, b"BZ": bz2.decompress, b"\x1f\x9d": uncompress}.get(raw[:2], bytes)(raw)


def values(path: Path) -> np.ndarray:
    with fits.HDUList.fromstring(opened(path)) as hdus:
        return np.array(hdus[0].data)


def test_each_kind_of_packing_comes_out_as_it_came_in(tmp_path: Path, level_match) -> None:
    names = ("a.fit", "b.fts.gz", "c.fits.bz2", "d.fits.Z")
    packers = (bytes, gzip.compress, bz2.compress, compress)
    (tmp_path / "in").mkdir()
    for number, (name, pack) in enumerate(zip(names, packers, strict=True)):
        image(number).writeto(tmp_path / "plain.fits", overwrite=True)
        (tmp_path / "in" / name).write_bytes(pack((tmp_path / "plain.fits").read_bytes()))
    assert level_match(tmp_path / "in").complete
    tiles = tmp_path / "out" / "tiles"
    assert sorted(path.name for path in tiles.iterdir()) == list(names)
    levels = np.array([np.median(values(tmp_path / "in" / name) - values(tiles / name)) for name in names])
    np.testing.assert_allclose(levels - levels.mean(), np.array(LEVELS) - np.mean(LEVELS), atol=0.02)
    for name in names:
        assert (tiles / name).read_bytes()[:2] == (tmp_path / "in" / name).read_bytes()[:2]
    assert verify(tmp_path / "out").mismatches == ()
    assert undo(tmp_path / "out", tmp_path / "back").complete
    for name in names:
        np.testing.assert_allclose(values(tmp_path / "back" / name), values(tmp_path / "in" / name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("checksums", ["verify", "ignore"])
def test_damage_is_never_blessed(tmp_path: Path, level_match, checksums: str) -> None:
    """Sound files get new sums that hold; a damaged one is left out, or keeps sums that do not."""
    (tmp_path / "in").mkdir()
    for number in range(4):
        image(number).writeto(tmp_path / "in" / f"{number}.fits", checksum=True)
    raw = bytearray((tmp_path / "in" / "3.fits").read_bytes())
    raw[2880 + 4 * 1000] ^= 1
    (tmp_path / "in" / "3.fits").write_bytes(raw)
    result = level_match(tmp_path / "in", checksums=checksums)
    assert result.complete == (checksums == "ignore")
    tiles = tmp_path / "out" / "tiles"
    assert (tiles / "3.fits").exists() == (checksums == "ignore")
    for path in tiles.iterdir():
        with fits.open(path) as hdus:
            holds = hdus[0].verify_checksum(), hdus[0].verify_datasum()
        assert holds == ((0, 0) if path.name == "3.fits" else (1, 1))


def test_another_program_unpacks_what_is_written(tmp_path: Path, level_match) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        image(number).writeto(tmp_path / "plain.fits", overwrite=True)
        (tmp_path / "in" / f"{number}.fits.Z").write_bytes(compress((tmp_path / "plain.fits").read_bytes()))
    assert level_match(tmp_path / "in").complete
    path = tmp_path / "out" / "tiles" / "0.fits.Z"
    try:
        made = subprocess.run(["gzip", "-dc", str(path)], capture_output=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("gzip, which reads .Z files, is not installed")
    assert made == opened(path)
