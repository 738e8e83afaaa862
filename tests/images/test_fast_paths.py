"""The quick ways of reading headers, WCS and pixels give what astropy gives, or leave it to astropy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import example, given
from hypothesis import strategies as st

from levelmatch_core.images.fits_headers import cards_of, plain_cards, quiet, read_headers
from levelmatch_core.images.reading import file_digest
from levelmatch_core.images.storage import stored_arrays
from levelmatch_core.images.wcs.fits_wcs import WCS_CARD, plain_wcs
from levelmatch_core.images.wcs.transforms import world_transforms

TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
VALUES = st.one_of(
    st.booleans(),
    st.integers(-(10**17), 10**17),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
)


@given(VALUES, TEXT)
@example("", "'")
def test_a_plain_card_is_read_as_astropy_reads_it(value: Any, comment: str) -> None:
    with quiet():
        raw = fits.Header([("KEYWORD", value, comment)]).tostring(sep="", endcard=False, padding=False).encode()
        theirs = fits.Header.fromstring(raw)["KEYWORD"]
    ours = plain_cards([raw[:80]]) if len(raw) == 80 else None
    if ours is not None:
        assert ours == {"KEYWORD": theirs}
        assert type(ours["KEYWORD"]) is type(theirs)
    else:  # only what is unusual is left to astropy
        assert len(raw) > 80 or (isinstance(value, str) and (set(value) & set("'&") or not value.strip()))


@pytest.mark.parametrize(
    "card", [b"BITPIX  = 1.6D1", b"BITPIX  = (1, 2)", b"BITPIX  =", b"bitpix  = 8", b"BITPIX  = 8 8", b"NAXIS   = 0x2"]
)
def test_an_unusual_card_is_left_to_astropy(card: bytes) -> None:
    assert plain_cards([card.ljust(80)]) is None


def sip_header(order: int = 3, *, inverse: bool = True) -> fits.Header:
    rng = np.random.default_rng(order)
    header = fits.Header()
    header["NAXIS"], header["NAXIS1"], header["NAXIS2"] = 2, 100, 80
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header["CRVAL1"], header["CRVAL2"], header["CRPIX1"], header["CRPIX2"] = 83.8, -5.4, 50.5, 40.5
    header["CD1_1"], header["CD1_2"], header["CD2_1"], header["CD2_2"] = -3e-5, 1e-6, 1e-6, 3e-5
    for stem in ("A", "B", *(("AP", "BP") if inverse else ())):
        header[f"{stem}_ORDER"] = order
        for i in range(order + 1):
            for j in range(order + 1 - i):
                if i + j > 1:
                    header[f"{stem}_{i}_{j}"] = float(rng.normal(0, 1e-6))
    return header


def headers() -> dict[str, fits.Header]:
    linear = sip_header()
    for card in [card for card in linear if card[:2] in {"A_", "B_", "AP", "BP"}]:
        del linear[card]
    linear["CTYPE1"], linear["CTYPE2"] = "RA---TAN", "DEC--TAN"
    galactic = linear.copy()
    galactic["CTYPE1"], galactic["CTYPE2"] = "GLON-CAR", "GLAT-CAR"
    swapped = linear.copy()
    swapped["CTYPE1"], swapped["CTYPE2"] = "DEC--TAN", "RA---TAN"
    rotated = linear.copy()
    for name in ("CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        del rotated[name]
    rotated["CDELT1"], rotated["CDELT2"], rotated["CROTA2"] = -3e-5, 3e-5, 20.0
    old = linear.copy()
    old["RADESYS"], old["EQUINOX"], old["DATE-OBS"] = "FK4", 1950.0, "12/03/84"
    return {
        "SIP": sip_header(),
        "SIP without inverse": sip_header(2, inverse=False),
        "linear": linear,
        "galactic": galactic,
        "swapped": swapped,
        "rotated": rotated,
        "old": old,
    }


@pytest.mark.parametrize("kind", headers())
def test_a_plain_wcs_is_astropys(kind: str) -> None:
    header = headers()[kind]
    with quiet():
        theirs = WCS(header)
        ours = plain_wcs([card for card in cards_of(header.tostring(padding=False).encode()) if WCS_CARD.match(card)])
    assert ours is not None
    assert ours.wcs.compare(theirs.wcs)
    x, y = np.random.default_rng(0).uniform(0, 80, (2, 50))
    np.testing.assert_array_equal(ours.all_pix2world(x, y, 0), theirs.all_pix2world(x, y, 0))
    sky = theirs.all_pix2world(x, y, 0)
    np.testing.assert_array_equal(ours.all_world2pix(*sky, 0), theirs.all_world2pix(*sky, 0))


@pytest.mark.parametrize("kind", headers())
def test_the_way_to_the_world_and_back_is_astropys(kind: str) -> None:
    with quiet():
        wcs = WCS(headers()[kind], naxis=2)
    x, y = np.random.default_rng(0).uniform(0, 80, (2, 5, 7))
    to_world, to_pixel = world_transforms(wcs)
    world = wcs.all_pix2world(x, y, 0)
    np.testing.assert_array_equal(to_world(x, y), world)
    np.testing.assert_allclose(to_pixel(*world), wcs.all_world2pix(*world, 0, tolerance=1e-6), rtol=0, atol=1e-8)
    np.testing.assert_allclose(to_pixel(*world), (x, y), rtol=0, atol=2e-6)


def with_cards(**cards: Any) -> fits.Header:
    header = sip_header()
    for name, value in cards.items():
        header[name] = value
    return header


@pytest.mark.parametrize(
    "header",
    [
        with_cards(PV1_5=1e-3),
        with_cards(CTYPE1="RA---TAN"),
        with_cards(NAXIS=3),
        with_cards(A_ORDER=1),
        with_cards(A_ORDER="two"),
        with_cards(A_1_1="much"),
        fits.Header([("NAXIS", 2)]),
    ],
    ids=["PV of SCAMP", "CTYPE without -SIP", "three axes", "order 1", "order in words", "term in words", "no WCS"],
)
def test_an_unusual_wcs_is_left_to_astropy(header: fits.Header) -> None:
    cards = [card for card in cards_of(header.tostring(padding=False).encode()) if WCS_CARD.match(card)]
    assert plain_wcs(cards) is None


@pytest.mark.parametrize("kind", ["f4", "f8", "u1", "i2", "i4", "i8", "u2", "u4"])
def test_a_plain_image_is_read_as_astropy_reads_it(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(0).integers(0, 120, (5, 7)).astype(kind)
    path = tmp_path / "a.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(data)]).writeto(path)
    monkeypatch.setattr(stored_arrays, "_by_astropy", None)  # it is not asked
    with path.open("rb") as file:
        _, (ours, nothing) = stored_arrays.read_stored(file, file_digest(path), "a.fits", [1, None])
    assert nothing is None
    assert ours.dtype == data.dtype
    assert ours.dtype.isnative
    np.testing.assert_array_equal(ours, data)


@pytest.mark.parametrize("how", ["scaled", "blank", "compressed"])
def test_scaled_and_compressed_images_are_left_to_astropy(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.arange(1600, dtype=np.int16).reshape(40, 40)
    hdu: Any = fits.CompImageHDU(data) if how == "compressed" else fits.ImageHDU(data)
    path = tmp_path / "a.fits"
    if how == "blank":
        hdu.header["BLANK"] = -1
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    if how == "scaled":
        with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
            hdus[1].header["BSCALE"], hdus[1].header["BZERO"] = 0.5, 3.0
    asked = []
    monkeypatch.setattr(stored_arrays, "_by_astropy", lambda _content, wanted: asked.append(wanted))
    with path.open("rb") as file:
        stored_arrays.read_stored(file, file_digest(path), "a.fits", [1])
    assert asked == [[1]]


def test_where_the_hdus_lie(make_jwst: Callable[..., Path]) -> None:
    path = make_jwst()
    with fits.open(path) as hdus:
        expected = [(info["hdrLoc"], info["datLoc"], info["datLoc"] + info["datSpan"]) for info in map(_info, hdus)]
    assert [(hdu.start, hdu.data, hdu.end) for hdu in read_headers(path)] == expected


def _info(hdu: Any) -> dict[str, int]:
    info: dict[str, int] = hdu.fileinfo()
    return info
