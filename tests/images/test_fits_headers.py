"""Every claim of a file about its size is held against the file."""

import gzip
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from levelmatch_core.errors import DataError, NoImageError, NotFitsError
from levelmatch_core.images.fits_headers import BLOCK, quiet, read_headers

MakeFile = Callable[..., Path]


def test_hdus_of_a_jwst_file(make_jwst: MakeFile) -> None:
    hdus = read_headers(make_jwst())
    assert [(hdu.index, hdu.name, hdu.version, hdu.shape) for hdu in hdus] == [
        (0, "", 1, None),
        (1, "SCI", 1, (32, 32)),
        (2, "ERR", 1, (32, 32)),
        (3, "DQ", 1, (32, 32)),
    ]
    assert hdus[0].header["FILTER"] == "F770W"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_file_cut_at_any_block_is_noticed_unless_whole_hdus_are_left(
    make_jwst: MakeFile, tmp_path: Path, suffix: str
) -> None:
    whole = make_jwst().read_bytes()
    ends = {hdu.index: 0 for hdu in read_headers(make_jwst("b.fits"))}
    with fits.open(tmp_path / "b.fits") as hdus:
        ends = {hdu.fileinfo()["datLoc"] + hdu.fileinfo()["datSpan"] for hdu in hdus}
    cuts = [*range(0, len(whole), BLOCK), *range(1000, len(whole), BLOCK), *(end + 5 for end in ends)]
    refused = 0
    for cut in (cut for cut in cuts if cut < len(whole)):
        path = tmp_path / f"cut{suffix}"
        part = whole[:cut]
        path.write_bytes(gzip.compress(part) if suffix else part)
        if cut in ends:
            assert len(read_headers(path)) < 4
            continue
        with pytest.raises(NotFitsError, match=r"cut.*(truncated|not a FITS)"):
            read_headers(path)
        refused += 1
    assert refused > 10


def test_a_gzip_stream_cut_anywhere_is_noticed(make_generic: MakeFile, tmp_path: Path) -> None:
    zipped = gzip.compress(make_generic().read_bytes())
    path = tmp_path / "cut.fits.gz"
    for cut in np.linspace(10, len(zipped) - 1, 20).astype(int):
        path.write_bytes(zipped[:cut])
        with pytest.raises(NotFitsError, match=r"cut\.fits\.gz"):
            read_headers(path)


def test_a_flipped_byte_in_a_gzip_stream_is_noticed(make_generic: MakeFile, tmp_path: Path) -> None:
    zipped = bytearray(gzip.compress(make_generic().read_bytes()))
    zipped[-6] ^= 1  # in the checksum
    path = tmp_path / "bad.fits.gz"
    path.write_bytes(zipped)
    with pytest.raises(NotFitsError, match="damaged gzip"):
        read_headers(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 5760, b"\x1f\x8bjunk", b"SIMPLE  = " + b" " * 70])
def test_not_fits(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd name ü.fits"
    path.write_bytes(content)
    with pytest.raises(NotFitsError, match="odd name ü"):
        read_headers(path)


def claim(path: Path, **cards: object) -> None:
    header = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", 10), ("NAXIS2", 10)])
    header.update(cards)
    path.write_bytes(header.tostring().encode() + b"\0" * BLOCK)


def test_an_absurd_claim_is_refused_from_the_header(tmp_path: Path) -> None:
    path = tmp_path / "huge.fits"
    claim(path, NAXIS1=10**6, NAXIS2=10**6)
    with pytest.raises(NoImageError, match=r"huge\.fits: HDU 0 claims 1000000 x 1000000 pixels"):
        read_headers(path)
    zipped = tmp_path / "huge.fits.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(NoImageError, match="claims 1000000 x 1000000"):
        read_headers(zipped)


@pytest.mark.parametrize(
    ("card", "error", "why"),
    [
        (b"ZNAXIS1 =           1000000000", NoImageError, "claims 1000000000 x 32"),
        (b"TFIELDS =           2000000000", NotFitsError, "2000000000 columns"),
    ],
)
def test_an_absurd_claim_of_a_compressed_image_is_refused(
    tmp_path: Path, card: bytes, error: type[DataError], why: str
) -> None:
    path = tmp_path / "huge.fits.fz"
    data = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data)]).writeto(path)
    raw = path.read_bytes()
    at = raw.index(card[:9])
    path.write_bytes(raw[:at] + card.ljust(80) + raw[at + 80 :])
    with pytest.raises(error, match=why):
        read_headers(path)


@pytest.mark.parametrize(
    "cards", [{"NAXIS1": -5}, {"NAXIS1": "ten"}, {"BITPIX": "float"}, {"NAXIS": 3}, {"PCOUNT": -(10**9)}, {"BITPIX": 7}]
)
def test_a_senseless_header_is_refused(tmp_path: Path, cards: dict[str, object]) -> None:
    path = tmp_path / "bad.fits"
    claim(path, **cards)
    with pytest.raises(NotFitsError, match=r"bad\.fits: damaged header of HDU 0"):
        read_headers(path)


def test_what_follows_the_last_hdu_is_passed_over(make_generic: MakeFile) -> None:
    path = make_generic()
    path.write_bytes(path.read_bytes() + b"some other record".ljust(BLOCK))
    assert len(read_headers(path)) == 1


def test_compressed_images_show_their_own_shape(tmp_path: Path) -> None:
    path = tmp_path / "c.fits.fz"
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(np.zeros((20, 30), np.int16), name="SCI")]).writeto(path)
    _, sci = read_headers(path)
    assert (sci.name, sci.shape) == ("SCI", (20, 30))


def test_quiet_leaves_the_filters_as_they_were_though_threads_overlap() -> None:
    before = list(warnings.filters)
    inside, leave = threading.Barrier(2), threading.Event()

    def stay() -> None:
        with quiet():
            inside.wait()
            leave.wait()

    thread = threading.Thread(target=stay)
    with quiet():
        thread.start()
        inside.wait()
        warnings.warn("not heard", AstropyUserWarning, stacklevel=1)
    leave.set()
    thread.join()
    assert list(warnings.filters) == before
    with pytest.raises(AstropyUserWarning):
        warnings.warn("heard", AstropyUserWarning, stacklevel=1)
