"""The WCS of a header against `astropy.wcs.WCS` of the whole of it, and headers that neither should believe."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from levelmatch_core.errors import NoWcsError
from levelmatch_core.images.fits_headers import quiet, read_headers
from levelmatch_core.images.reading import wcs_of
from levelmatch_core.images.wcs.transforms import frame_of, sky_transforms

ROWS, COLUMNS = 120, 150
X, Y = (axis.ravel() for axis in np.meshgrid(np.linspace(0, COLUMNS - 1, 6), np.linspace(0, ROWS - 1, 5)))
TOLERANCE = 1e-6
"""Pixels."""
INVERSE = 5e-6
"""Pixels: each iterates its inverse to its own 1e-6 or so."""

# -- headers -----------------------------------------------------------------------------------------------------------
_SPELLINGS = (None, "deg", "degree", "Degrees", "DEG", "degrees", "Deg")
_PLAIN = ("TAN", "SIN", "ARC", "STG", "ZEA", "SFL", "CAR", "MOL", "AIT", "CEA")
_KINDS = (
    *_PLAIN,
    "TAN-SIP",
    "loose SIP",
    "SIP and inverse",
    "TPV",
    "TPV with stale SIP",
    "TAN with PV",
    "SIP beside PV",
    "ZPN",
    "TNX",
    "ZPX",
    "CPDIS",
    "D2IM",
    "SIP and CPDIS",
    "DSS",
    "TAB",
)


@st.composite
def headers(draw: st.DrawFn) -> tuple[fits.Header, str, int]:
    """Draw the header of an image, the kind of its distortion, and a seed for what that holds."""
    kind = draw(st.sampled_from(_KINDS))
    seed = draw(st.integers(0, 999))
    header = fits.Header()
    code = kind if kind in {*_PLAIN, "TPV", "ZPN", "TNX", "ZPX"} else "TPV" if kind.startswith("TPV") else "TAN"
    suffix = "-SIP" if kind in {"TAN-SIP", "SIP and inverse", "SIP beside PV", "SIP and CPDIS"} else ""
    frame = draw(st.sampled_from(("ICRS", "FK5", "FK4", "GAL", "none", "RADECSYS", "EPOCH")))
    lng, lat = ("GLON", "GLAT") if frame == "GAL" else ("RA--", "DEC-")
    swapped = (
        draw(st.booleans()) and kind not in {"ZPN", "TNX", "ZPX", "TAN with PV", "SIP beside PV"} and "TPV" not in kind
    )
    first, second = (2, 1) if swapped else (1, 2)
    header[f"CTYPE{first}"], header[f"CTYPE{second}"] = f"{lng}-{code}{suffix}", f"{lat}-{code}{suffix}"
    ra, dec = draw(st.floats(0, 359.99)), draw(st.floats(-80, 80))
    if code in {"SFL", "CAR", "MOL", "AIT", "CEA"}:
        dec = 0.0
    header[f"CRVAL{first}"], header[f"CRVAL{second}"] = ra, dec
    header["CRPIX1"], header["CRPIX2"] = draw(st.floats(-50, 200)), draw(st.floats(-50, 200))
    # wcslib takes the polynomials of these for pixels where there is a CDELT, and then finds no way back
    in_degrees = kind in {"TNX", "ZPX"} or "PV" in kind
    _linear(header, draw, ("CD",) if in_degrees else ("CD", "PC", "CROTA", "old PC"))
    if frame in {"ICRS", "FK5", "FK4"}:
        header["RADESYS"] = frame
        if frame == "FK4":
            header["EQUINOX"] = 1950.0
    elif frame == "RADECSYS":
        header["RADECSYS"], header["EQUINOX"] = "FK5", draw(st.sampled_from((2000.0, 1975.0)))
    elif frame == "EPOCH":
        header["EPOCH"] = 2000.0
    header["DATE-OBS"] = draw(st.sampled_from(("2003-04-05", "05/04/93", "2003-04-05T01:02:03.5", "")))
    unit = draw(st.sampled_from(_SPELLINGS))
    if unit is not None:
        header["CUNIT1"] = header["CUNIT2"] = unit
    header["FILTER"] = "g"
    return header, kind, seed


def _linear(header: fits.Header, draw: st.DrawFn, forms: tuple[str, ...]) -> None:
    scale = draw(st.floats(0.05, 5)) / 3600
    turn = np.radians(draw(st.floats(-180, 180)))
    parity = draw(st.sampled_from((-1, 1)))
    matrix = np.array([[parity * np.cos(turn), -np.sin(turn)], [parity * np.sin(turn), np.cos(turn)]])
    form = draw(st.sampled_from(forms))
    if form == "CROTA":
        header["CDELT1"], header["CDELT2"] = parity * scale, scale
        header["CROTA2"] = np.degrees(turn)
        return
    if form != "CD":
        header["CDELT1"] = header["CDELT2"] = scale
    for i in (1, 2):
        for j in (1, 2):
            value = float(matrix[i - 1, j - 1])
            name = f"PC{i:03d}{j:03d}" if form == "old PC" else f"{form}{i}_{j}"
            header[name] = value * scale if form == "CD" else value


def _distorted(header: fits.Header, kind: str, seed: int) -> list[fits.hdu.base.ExtensionHDU]:
    """Put the cards of a distortion into a header; return what lies in further HDUs."""
    rng = np.random.default_rng(seed)
    if "SIP" in kind:
        _sip(header, rng, inverse=kind == "SIP and inverse")
    if "PV" in kind:
        _polynomials(header, rng)
    if kind == "ZPN":
        header["PV2_1"], header["PV2_3"], header["PV2_5"] = 1.0, float(rng.uniform(1e3, 1e4)), 0.0
    if kind in {"TNX", "ZPX"}:
        _wat(header, kind.lower(), rng)
    if kind == "DSS":
        _plate(header, rng)
    if kind == "TAB":
        return _tabular(header, rng)
    tables = []
    if "CPDIS" in kind:
        tables += _lookup(header, "CPDIS", "DP", "WCSDVARR", rng)
    if kind == "D2IM":
        tables += _lookup(header, "D2IMDIS", "D2IM", "D2IMARR", rng)
    return tables


def _polynomials(header: fits.Header, rng: np.random.Generator) -> None:
    """SCAMP's: radial and mixed terms, in degrees."""
    for axis in (1, 2):
        header[f"PV{axis}_0"], header[f"PV{axis}_1"], header[f"PV{axis}_2"] = 1e-6, 1.0, 1e-4
        for term in range(4, 8):
            header[f"PV{axis}_{term}"] = float(rng.uniform(-1, 1)) * 0.01


def _sip(header: fits.Header, rng: np.random.Generator, *, inverse: bool) -> None:
    for stem in ("A", "B", *(("AP", "BP") if inverse else ())):
        header[f"{stem}_ORDER"] = 3
        for i in range(4):
            for j in range(4 - i):
                if i + j >= 2:
                    header[f"{stem}_{i}_{j}"] = float(rng.uniform(-1, 1)) * 1e-4 * 3e-3 ** (i + j - 2)
    header["A_DMAX"] = 1.5


def _wat(header: fits.Header, kind: str, rng: np.random.Generator) -> None:
    """IRAF's polynomials, of three terms each way, over the image's degrees."""
    header["WCSDIM"], header["WAT0_001"] = 2, "system=image"
    size = 600 * 5 / 3600
    for axis, name, word in ((1, "ra", "lngcor"), (2, "dec", "latcor")):
        basis = rng.choice([1, 2, 3])
        terms = " ".join(f"{value:.12g}" for value in rng.uniform(-1, 1, 6) * 1e-5)
        radial = "projp1=1. projp3=0.5 " if kind == "zpx" else ""
        text = f'wtype={kind} axtype={name} {radial}{word} = "{basis}. 3. 3. 2. {-size} {size} {-size} {size} {terms} "'
        for number, start in enumerate(range(0, len(text), 68), start=1):
            header[f"WAT{axis}_{number:03d}"] = text[start : start + 68]


def _plate(header: fits.Header, rng: np.random.Generator) -> None:
    """A plate solution of the Digitized Sky Survey beside an approximate TAN."""
    cards: dict[str, Any] = {"PLTRAH": 17, "PLTRAM": 40, "PLTRAS": 12.5, "PLTDECSN": "-", "PLTDECD": 30, "PLTDECM": 5}
    cards |= {"PLTDECS": 3.2, "PLTSCALE": 67.2, "XPIXELSZ": 25.28445, "YPIXELSZ": 25.28445, "PLATEID": "A123"}
    cards |= {"CNPIX1": 7100, "CNPIX2": 6500, "PPO1": 0.0, "PPO2": 0.0, "PPO3": 177500.0, "PPO4": 0.0, "PPO5": 0.0}
    header.update({**cards, "PPO6": 177500.0})
    for axis in "XY":
        terms = np.zeros(20)
        terms[:13] = rng.uniform(-1, 1, 13) * [0.1, 0.1, 10, 1e-5, 1e-5, 1e-6, 0, 1e-6, 1e-8, 1e-6, 1e-8, 0, 1e-12]
        terms[0] += 67.2
        header.update({f"AMD{axis}{n}": float(value) for n, value in enumerate(terms, start=1)})


def _lookup(header: fits.Header, card: str, record: str, name: str, rng: np.random.Generator) -> list[Any]:
    """Tables of a distortion in pixels, one an axis (FITS WCS paper IV, as HST's files have them)."""
    made = []
    for axis in (1, 2):
        table = fits.ImageHDU(rng.uniform(-0.3, 0.3, (7, 9)).astype(np.float32), name=name, ver=axis)
        table.header.update({"CRPIX1": 1.0, "CRPIX2": 1.0, "CRVAL1": 1.0, "CRVAL2": 1.0})
        table.header.update({"CDELT1": COLUMNS / 8, "CDELT2": ROWS / 6})
        header[f"{card}{axis}"] = "LOOKUP"
        for field, value in (("EXTVER", axis), ("NAXES", 2), ("AXIS.1", 1), ("AXIS.2", 2)):
            header.append(fits.Card.fromstring(f"{record + str(axis):8}= '{field}: {value}'"))
        header[f"{'CPERR' if card == 'CPDIS' else 'D2IMERR'}{axis}"] = 0.5
        made.append(table)
    return made


def _tabular(header: fits.Header, rng: np.random.Generator) -> list[Any]:
    """Longitude and latitude looked up in an array of coordinates (FITS WCS paper III, -TAB)."""
    for name in [card for card in header if card[:2] in {"CD", "PC", "CR"} and card not in {"CRPIX1", "CRPIX2"}]:
        del header[name]
    header["CTYPE1"], header["CTYPE2"] = header["CTYPE1"][:4] + "-TAB", header["CTYPE2"][:4] + "-TAB"
    header.update({"CRPIX1": 1.0, "CRPIX2": 1.0, "CRVAL1": 1.0, "CRVAL2": 1.0})
    header.update({"CDELT1": 6 / (COLUMNS - 1), "CDELT2": 5 / (ROWS - 1), "CUNIT1": "deg", "CUNIT2": "deg"})
    for axis in (1, 2):
        header[f"PS{axis}_0"], header[f"PS{axis}_1"] = "WCS-TABLE", "COORDS"
        header[f"PV{axis}_1"], header[f"PV{axis}_2"], header[f"PV{axis}_3"] = 1, 1, axis
    j, i = np.mgrid[:6.0, :7.0]
    i, j = (grid + rng.uniform(-0.1, 0.1, grid.shape) for grid in (i, j))
    places = {"RA": 120 - i * 0.02, "DEC": 30 + j * 0.02, "GLON": 120 - i * 0.02, "GLAT": 30 + j * 0.02}
    axes = [places[header[f"CTYPE{axis}"][:4].rstrip("-")] for axis in (1, 2)]
    coords = np.stack(axes, axis=-1)
    column = fits.Column("COORDS", format=f"{coords.size}D", dim=str(coords.shape[::-1]), array=coords[None])
    return [fits.BinTableHDU.from_columns([column], name="WCS-TABLE")]


def _written(path: Path, header: fits.Header, shape: tuple[int, ...], tables: list[Any]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList([fits.PrimaryHDU(np.zeros(shape, np.uint8), header), *tables]).writeto(path, overwrite=True)
    return path


# -- the comparison ----------------------------------------------------------------------------------------------------
def _by_astropy(path: Path, index: int = 0) -> tuple[Any, Any, float]:
    """Return RA, Dec (ICRS, degrees) of the places by astropy's own reading, and the pixel's size in degrees."""
    with warnings.catch_warnings(), fits.open(path) as hdus:
        warnings.simplefilter("ignore")
        header = hdus[index].header
        try:
            whole = WCS(header, fobj=hdus)
        except ValueError:  # SIP beside further axes: astropy reads two of them only, and no other spelling of deg
            header.update({name: "deg" for name in ("CUNIT1", "CUNIT2") if name in header})
            whole = WCS(header, fobj=hdus, naxis=2)
        world = whole.all_pix2world(X, Y, *[np.zeros_like(X)] * (whole.naxis - 2), 0)
        kinds = [str(kind)[:4].rstrip("-") for kind in whole.wcs.ctype]
        lng, lat = next((kinds.index(a), kinds.index(b)) for a, b in (("RA", "DEC"), ("GLON", "GLAT")) if a in kinds)
        named = WCS(naxis=2)
        named.wcs.ctype = [f"{kinds[lng]:-<4}-TAN", f"{kinds[lat]:-<4}-TAN"]
        named.wcs.radesys, named.wcs.equinox = whole.wcs.radesys, whole.wcs.equinox
        named.wcs.dateobs = whole.wcs.dateobs
        frame = wcs_to_celestial_frame(named)
    sky = SkyCoord(world[lng], world[lat], unit="deg", frame=frame).icrs
    step = sky[0].separation(sky[1]).deg / (X[1] - X[0])
    return sky.ra.deg, sky.dec.deg, float(step)


def _compare(path: Path, index: int = 0) -> None:
    ra, dec, step = _by_astropy(path, index)
    to_sky, to_pixel = sky_transforms(wcs_of(read_headers(path)[index], path, "image"))
    ours = to_sky(X, Y)
    apart = SkyCoord(*ours, unit="deg").separation(SkyCoord(ra, dec, unit="deg")).deg / step
    assert apart.max() < TOLERANCE
    np.testing.assert_allclose(to_pixel(ra, dec), [X, Y], rtol=0, atol=INVERSE)


VARIANTS = {"drawn": headers(), "axes": st.sampled_from((2, 2, 3, 4)), "coupled": st.booleans()}
Drawn = tuple[fits.Header, str, int]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**VARIANTS)
def test_reads_what_astropy_reads(tmp_path: Path, drawn: Drawn, axes: int, *, coupled: bool) -> None:
    """Every kind of header gives the places that astropy gives, to 1e-6 pixel, and back."""
    _compare_variant(tmp_path, drawn, axes, coupled=coupled)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Do not use the .random. module")  # what numpy draws for a name of a file
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**VARIANTS)
def test_reads_what_astropy_reads_at_length(tmp_path: Path, drawn: Drawn, axes: int, *, coupled: bool) -> None:
    """The same on many more."""
    _compare_variant(tmp_path, drawn, axes, coupled=coupled)


def _compare_variant(tmp_path: Path, drawn: Drawn, axes: int, *, coupled: bool) -> None:
    header, kind, seed = drawn
    header = header.copy()
    tables = _distorted(header, kind, seed)
    if axes > 2 and kind in {*_PLAIN, "TPV", "TAN-SIP"}:
        _degenerate(header, axes, coupled=coupled and kind in _PLAIN)
        shape = (*[1] * (axes - 2), ROWS, COLUMNS)
    else:
        shape = (ROWS, COLUMNS)
    _compare(_written(tmp_path / "image.fits", header, shape, tables))


def _degenerate(header: fits.Header, axes: int, *, coupled: bool) -> None:
    header["CTYPE3"], header["CRVAL3"], header["CRPIX3"] = "FREQ", 1.42e9, 5.0
    if axes == 4:
        header["CTYPE4"], header["CRVAL4"], header["CRPIX4"] = "STOKES", 1.0, 1.0
    if "CD1_1" in header:
        header["CD3_3"] = 1e6
        if axes == 4:
            header["CD4_4"] = 1.0
        if coupled:
            header["CD1_3"], header["CD2_3"] = 2e-5, -1e-5
    else:
        header["CDELT3"] = 1e6
        if axes == 4:
            header["CDELT4"] = 1.0
        if coupled and "PC1_1" in header:
            header["PC1_3"], header["PC2_3"] = 0.1, -0.2


@pytest.mark.parametrize("kind", _KINDS)
def test_each_kind(tmp_path: Path, kind: str) -> None:
    """No kind depends on what is drawn to be tried: each once, and its distortion is there."""
    header = fits.Header()
    code = kind if kind in {*_PLAIN, "TPV", "ZPN", "TNX", "ZPX"} else "TPV" if kind.startswith("TPV") else "TAN"
    suffix = "-SIP" if kind in {"TAN-SIP", "SIP and inverse", "SIP beside PV", "SIP and CPDIS"} else ""
    dec = 0.0 if code in {"SFL", "CAR", "MOL", "AIT", "CEA"} else 35.0
    header.update({"CTYPE1": f"RA---{code}{suffix}", "CTYPE2": f"DEC--{code}{suffix}", "CRVAL1": 120.0, "CRVAL2": dec})
    header.update({"CRPIX1": 70.0, "CRPIX2": 61.0, "CD1_1": -4e-4, "CD1_2": 1e-5, "CD2_1": 1e-5, "CD2_2": 4e-4})
    bare = header.copy()
    tables = _distorted(header, kind, 3)
    path = _written(tmp_path / "image.fits", header, (ROWS, COLUMNS), tables)
    _compare(path)
    if kind not in _PLAIN:
        bare["CTYPE1"], bare["CTYPE2"] = "RA---TAN", "DEC--TAN"
        plain = SkyCoord(*WCS(bare).all_pix2world(X, Y, 0), unit="deg")
        ra, dec, step = _by_astropy(path)
        assert plain.separation(SkyCoord(ra, dec, unit="deg")).deg.max() / step > 0.01


# -- what neither should believe ---------------------------------------------------------------------------------------
def _plain(**cards: str) -> bytes:
    """Return a header as text, card by card, as no FITS library would write it."""
    known = {"SIMPLE": "T", "BITPIX": "8", "NAXIS": "2", "NAXIS1": str(COLUMNS), "NAXIS2": str(ROWS)}
    known |= {"CTYPE1": "'RA---TAN'", "CTYPE2": "'DEC--TAN'", "CRVAL1": "120.0", "CRVAL2": "35.0"}
    known |= {"CRPIX1": "70.0", "CRPIX2": "61.0", "CD1_1": "-4.0E-4", "CD1_2": "0.0", "CD2_1": "0.0", "CD2_2": "4.0E-4"}
    text = "".join(f"{name:8}= {value:>20}".ljust(80) for name, value in (known | cards).items()) + "END".ljust(80)
    return text.ljust(-(-len(text) // 2880) * 2880).encode("ascii")


def _raw(path: Path, **cards: str) -> Path:
    path.write_bytes(_plain(**cards) + bytes(-(-ROWS * COLUMNS // 2880) * 2880))
    return path


@pytest.mark.parametrize(
    "card", ["CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD2_2", "PV1_1", "A_2_0", "EQUINOX"]
)
@pytest.mark.parametrize("value", ["NaN", "nan", "-NAN", "inf", "+Infinity"])
def test_a_number_that_is_none_is_refused(tmp_path: Path, card: str, value: str) -> None:
    """astropy takes a default, such as 0 degrees, for it, and says nothing."""
    path = _raw(tmp_path / "image.fits", **{card: value})
    with pytest.raises(NoWcsError, match=rf"{card} is .*finite number"):
        wcs_of(read_headers(path)[0], path, "image")


@pytest.mark.parametrize("cards", [{"CRVAL1": "'120.0'"}, {"CRPIX2": ""}, {"CD1_1": "T"}, {"CRVAL2": "1.0E999"}])
def test_no_number_at_all_is_refused(tmp_path: Path, cards: dict[str, str]) -> None:
    path = _raw(tmp_path / "image.fits", **cards)
    with pytest.raises(NoWcsError, match=f"{next(iter(cards))} is "):
        wcs_of(read_headers(path)[0], path, "image")


def test_a_broken_record_of_a_distortion_costs_the_image_alone(tmp_path: Path) -> None:
    """wcslib calls it a want of memory."""
    path = _raw(tmp_path / "image.fits", CQDIS1="'TPD'", DQ1="'WAT.POLY: 3.0'")
    with pytest.raises(NoWcsError, match="image: its WCS cannot be used"):
        wcs_of(read_headers(path)[0], path, "image")


def test_undefined_poles_take_their_default(tmp_path: Path) -> None:
    path = _raw(tmp_path / "image.fits", LONPOLE="", LATPOLE="")
    _compare(path)


def test_an_exponent_with_d_is_one(tmp_path: Path) -> None:
    """The standard allows 1.2D2 for 120 (FITS 4.0, section 4.2.4); wcslib takes it for 1.2."""
    path = _raw(tmp_path / "d.fits", CRVAL1="1.2D2", CD1_1="-4.0D-4", CD2_2="4.d-4")
    same = _raw(tmp_path / "e.fits")
    found = [sky_transforms(wcs_of(read_headers(one)[0], one, "image"))[0](X, Y) for one in (path, same)]
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("kind", ["TAN-SIP", "TNX", "TPV", "CPDIS"])
def test_compressed_images_are_read_alike(tmp_path: Path, kind: str) -> None:
    """A compressed image's header is that of a table; its WCS is that of the image."""
    header = fits.Header()
    code = "TAN" if kind == "CPDIS" else kind
    header.update({"CTYPE1": f"RA---{code}", "CTYPE2": f"DEC--{code}", "CRVAL1": 120.0, "CRVAL2": 35.0})
    header.update({"CRPIX1": 70.0, "CRPIX2": 61.0, "CD1_1": -4e-4, "CD1_2": 1e-5, "CD2_1": 1e-5, "CD2_2": 4e-4})
    tables = _distorted(header, kind, 3)
    plain = _written(tmp_path / "plain.fits", header, (ROWS, COLUMNS), tables)
    packed = tmp_path / "packed.fits.fz"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = fits.CompImageHDU(np.zeros((ROWS, COLUMNS), np.int16), header)
        fits.HDUList([fits.PrimaryHDU(), image, *tables]).writeto(packed)
    ours = [
        sky_transforms(wcs_of(read_headers(path)[index], path, "image"))[0](X, Y)
        for path, index in ((plain, 0), (packed, 1))
    ]
    np.testing.assert_array_equal(ours[0], ours[1])


@pytest.mark.parametrize("kind", ["TNX", "ZPX", "TPV", "SIP beside PV", "TAN with PV"])
def test_what_astropy_writes_of_a_wcs_is_read(tmp_path: Path, kind: str) -> None:
    """Polynomials come out of `to_header` as records of FITS WCS paper IV (CQDIS, DQ), or under other CTYPEs."""
    header = fits.Header()
    code = {"SIP beside PV": "TAN-SIP", "TAN with PV": "TAN"}.get(kind, kind)
    header.update({"CTYPE1": f"RA---{code}", "CTYPE2": f"DEC--{code}", "CRVAL1": 120.0, "CRVAL2": 35.0})
    header.update({"CRPIX1": 70.0, "CRPIX2": 61.0, "CD1_1": -4e-4, "CD1_2": 1e-5, "CD2_1": 1e-5, "CD2_2": 4e-4})
    _distorted(header, kind, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = WCS(header)
        second = first.to_header(relax=True)
    path = _written(tmp_path / "image.fits", second, (ROWS, COLUMNS), [])
    found = sky_transforms(wcs_of(read_headers(path)[0], path, "image"))[0](X, Y)
    np.testing.assert_allclose(found, first.all_pix2world(X, Y, 0), rtol=0, atol=TOLERANCE * 4e-4)


def test_axes_of_length_one_may_lie_between(tmp_path: Path) -> None:
    """RA, FREQ, DEC with one channel: the image's rows are declination."""
    header = fits.Header()
    header.update({"CTYPE1": "RA---SIN", "CTYPE2": "FREQ", "CTYPE3": "DEC--SIN", "CRVAL1": 120.0, "CRVAL2": 1e9})
    header.update({"CRVAL3": 35.0, "CRPIX1": 70.0, "CRPIX2": 1.0, "CRPIX3": 61.0})
    header.update({"CDELT1": -4e-4, "CDELT2": 1e6, "CDELT3": 4e-4, "PC1_3": 0.1, "PC3_1": -0.1})
    path = _written(tmp_path / "image.fits", header, (ROWS, 1, COLUMNS), [])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = WCS(header).all_pix2world(X, np.zeros_like(X), Y, 0)
    found = sky_transforms(wcs_of(read_headers(path)[0], path, "image"))[0](X, Y)
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=TOLERANCE * 4e-4)
    np.testing.assert_allclose(found[1], expected[2], rtol=0, atol=TOLERANCE * 4e-4)


def test_a_real_tnx_solution_puts_its_stars_in_place(real: Callable[[str], Path]) -> None:
    """Two reference stars of a Mosaic-2 image lie within 0.03 arcsec of where its observers measured them."""
    path = real("tnx_flip") / "a.fits"
    to_sky, _ = sky_transforms(wcs_of(read_headers(path)[0], path, "image"))
    found = SkyCoord(*to_sky(np.array([31.0, 245.0]), np.array([90.0, 325.0])), unit="deg")
    stars = SkyCoord(
        ["17:46:53.214511 -30:08:47.895372", "17:46:58.100741 -30:07:50.121787"], unit=("hourangle", "deg")
    )
    assert found.separation(stars).arcsec.max() < 0.05


@pytest.mark.parametrize("code", ["TPV", "TAN"])
@pytest.mark.parametrize(
    "linear",
    [
        {"CDELT1": -1 / 3600, "CDELT2": 1 / 3600},
        {"CDELT1": -1 / 3600, "CDELT2": 1 / 3600, "PC1_1": 0.9, "PC1_2": 0.1, "PC2_1": -0.1, "PC2_2": 0.9},
        {"CDELT1": -1 / 3600, "CDELT2": 1 / 3600, "CROTA2": 20.0},
        {"CDELT1": -2.0, "CDELT2": 2.0, "CD1_1": -1 / 3600, "CD1_2": 1e-5, "CD2_1": 0.0, "CD2_2": 1 / 3600},
    ],
)
def test_polynomials_beside_a_step_are_astropys(tmp_path: Path, code: str, linear: dict[str, float]) -> None:
    """However wcslib takes the polynomial where CDELT is not 1, so it is taken."""
    header = fits.Header({"CTYPE1": f"RA---{code}", "CTYPE2": f"DEC--{code}", "CRVAL1": 150.0, "CRVAL2": 20.0})
    header.update({"CRPIX1": 32.5, "CRPIX2": 30.0, "RADESYS": "ICRS", **linear})
    header.update({"PV1_0": 1e-5, "PV1_1": 1.01, "PV1_4": 2.0, "PV2_1": 0.99, "PV2_6": -3.0, "PV1_7": 8.0})
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(np.zeros((64, 64), np.float32), header).writeto(path)
    y, x = np.mgrid[:64:7, :64:7].astype(float)
    found = wcs_of(read_headers(path)[0], path, "a").all_pix2world(x, y, 0)
    with quiet():
        expected = WCS(fits.getheader(path)).all_pix2world(x, y, 0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 / 3600)


@pytest.mark.parametrize(
    ("name", "equinox", "frame"), [("J2000", 2000.0, "fk5"), ("fk5", 2000.0, "fk5"), ("B1950", 1950.0, "fk4")]
)
def test_a_frame_of_no_known_name_is_that_of_the_equinox(name: str, equinox: float, frame: str) -> None:
    wcs = WCS(fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "RADESYS": name, "EQUINOX": equinox}))
    assert frame_of(wcs).name == frame
