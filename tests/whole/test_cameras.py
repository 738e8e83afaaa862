"""What cameras deliver, as their headers have it, with known levels: images are matched, and nothing beside them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits

from levelmatch_core import match_levels
from levelmatch_core.errors import NoInputError
from levelmatch_core.settings import MatchSettings
from tests.whole.test_what_comes_in import LEVELS, NOISE, N, X, Y, sky_of, wcs_of

Planes = Iterator[tuple[str, list[Any]]]
Camera = Callable[[str], Planes]
"""The files of one exposure, each with its HDUs."""


def sky(name: str, scale: float = 1.0) -> np.ndarray:
    noise = np.random.default_rng(ord(name)).normal(0, NOISE, (N, N))
    return ((sky_of(wcs_of(name)) + LEVELS[name] + noise) * scale).astype(np.float32)


def header(name: str, **cards: Any) -> fits.Header:
    found = wcs_of(name).to_header()
    found.update(cards)
    return found


def bits(name: str) -> np.ndarray:
    rng = np.random.default_rng(ord(name))
    return ((rng.random((N, N)) < 0.02) * rng.choice([1, 4, 64, 2048], (N, N))).astype(np.int32)


def primary(data: np.ndarray | None = None, head: fits.Header | None = None, **cards: Any) -> fits.PrimaryHDU:
    hdu = fits.PrimaryHDU(data, head)
    hdu.header.update(cards)
    return hdu


def plane(data: np.ndarray, head: fits.Header, name: str, **options: Any) -> fits.ImageHDU:
    return fits.ImageHDU(data, head, name=name, **options)


def galex(name: str) -> Planes:
    head = header(name, TELESCOP="GALEX", EXPTIME=1500.0, BAND=1)
    blue = (0.9 * sky_of(wcs_of(name))).astype(np.float32)
    counts = np.random.default_rng(1).poisson(15 * sky(name))
    beside = {"cnt": counts, "rrhr": 1500 - X, "skybg": blue, "intbgsub": sky(name) - blue, "flags": bits(name)}
    for kind, data in {"int": sky(name), **beside}.items():
        yield f"{name}-nd-{kind}.fits", [primary(data.astype(np.float32), head)]


def uvot(name: str) -> Planes:
    time = 100.0 if name in "ab" else 300.0
    cards = {"TELESCOP": "SWIFT", "INSTRUME": "UVOTA", "FILTER": "UVW1", "EXPOSURE": time}
    image = plane(sky(name, time), header(name, **cards, BUNIT="count"), "uw1I")
    times = plane((time + 0.01 * X).astype(np.float32), header(name, **cards, BUNIT="s"), "uw1I")
    yield f"{name}_sk.fits", [primary(), image]
    yield f"{name}_ex.fits", [primary(), times]


def wfc3(name: str) -> Planes:
    time = 350.0 if name in "ab" else 700.0
    head = header(name, BUNIT="ELECTRONS")
    first = primary(TELESCOP="HST", INSTRUME="WFC3", DETECTOR="UVIS", FILTER="F606W", EXPTIME=time)
    planes = [plane(sky(name, time), head, "SCI", ver=1), plane(np.ones((N, N), np.float32), head, "ERR", ver=1)]
    tables = [fits.ImageHDU(np.zeros((16, 16), np.float32), name=kind) for kind in ("D2IMARR", "WCSDVARR")]
    yield f"{name}_flc.fits", [first, *planes, fits.ImageHDU(np.zeros((N, N), np.int16), name="DQ", ver=1), *tables]


def wfpc2(name: str) -> Planes:
    time = 100.0 if name in "ab" else 400.0
    first = primary(TELESCOP="HST", INSTRUME="WFPC2", FILTNAM1="F606W", EXPTIME=time)
    for kind, data in (("c0m", sky(name, time)), ("c1m", (bits(name) & 255).astype(np.int16))):
        yield f"{name}_{kind}.fits", [first.copy(), plane(data, header(name, BUNIT="COUNTS"), "SCI", ver=1)]


def nirc2(name: str) -> Planes:
    added = 1 if name in "ab" else 4
    head = header(name, INSTRUME="NIRC2", FILTER="Kp", ITIME=0.1, COADDS=added, BUNIT="DN")
    yield f"{name}.fits", [primary(sky(name, 0.1 * added), head)]


def hawc(name: str) -> Planes:
    head = header(name, TELESCOP="SOFIA", INSTRUME="HAWC_PLUS", BUNIT="Jy/pixel")
    rest = [
        plane(np.random.default_rng(3).normal(0, 0.5, (N, N)).astype(np.float32), head, kind)
        for kind in ("STOKES Q", "STOKES U")
    ]
    errors = [plane((0.5 + 0.001 * X).astype(np.float32), head, "ERROR I")]
    yield f"{name}_rgm.fits", [primary(sky(name), head, EXTNAME="STOKES I"), *errors, *rest]


def spitzer(name: str) -> Planes:
    head = header(name, TELESCOP="Spitzer", INSTRUME="IRAC", CHNLNUM=1, BUNIT="MJy/sr")
    head["DATE-OBS"] = f"2004-01-01T0{'abcd'.index(name)}:00:00.123"
    for kind in ("bcd", "cbcd"):
        yield f"{name}_SPITZER_I1_1_{kind}.fits", [primary(sky(name) + (0.3 if kind == "cbcd" else 0), head)]
    yield f"{name}_SPITZER_I1_1_bunc.fits", [primary(np.sqrt(sky(name)), head)]
    yield f"{name}_SPITZER_I1_1_bimsk.fits", [primary(bits(name).astype(np.int16), head)]


def ztf(name: str) -> Planes:
    head = header(name, TELESCOP="Palomar 48-inch", INSTRUME="ZTF/MOSAIC", FILTER="ZTF_r", EXPTIME=30.0, BUNIT="DN")
    less = sky(name) - sky_of(wcs_of(name)).astype(np.float32)
    beside = {"mskimg": bits(name), "scimrefdiffimg": less, "sciunc": np.sqrt(sky(name))}
    for kind, data in {"sciimg": sky(name), **beside}.items():
        yield f"{name}_ztf_zr_q1_{kind}.fits", [primary(data, head)]


def des(name: str) -> Planes:
    head = header(name, INSTRUME="DECam", BAND="r", BUNIT="electrons")
    planes = {"SCI": sky(name), "MSK": bits(name), "WGT": (4 + 0.01 * X).astype(np.float32)}
    yield f"{name}_r.fits.fz", [primary(), *(fits.CompImageHDU(data, head, name=one) for one, data in planes.items())]


def sdss(name: str) -> Planes:
    table = fits.BinTableHDU.from_columns([fits.Column("ALLSKY", "E", array=np.ones(3, np.float32))])
    head = header(name, FILTER="r", BUNIT="nanomaggy")
    yield f"{name}-frame-r.fits", [primary(sky(name), head), fits.ImageHDU(np.ones(N, np.float32)), table]


def vista(name: str) -> Planes:
    head = header(name, BUNIT="ADU", CTYPE1="RA---ZPN", CTYPE2="DEC--ZPN", PV2_1=1.0, PV2_3=44.0, PV2_5=-10300.0)
    first = primary(TELESCOP="VISTA", INSTRUME="VIRCAM", FILTER="Ks", EXPTIME=10.0)
    yield f"{name}_st.fit", [first, plane(sky(name), head, "DET1.CHIP1")]
    yield f"{name}_st_conf.fit", [first.copy(), plane((100 + X / 10).astype(np.int16), head, "DET1.CHIP1")]


def euclid(name: str) -> Planes:
    planes = {"1-1.SCI": sky(name), "1-1.RMS": np.sqrt(sky(name)), "1-1.FLG": bits(name)}
    head = header(name, BUNIT="electron")
    yield f"{name}_VIS.fits", [primary(INSTRUME="VIS", FILTER="VIS"), *(plane(v, head, k) for k, v in planes.items())]


def lsst(name: str) -> Planes:
    head = header(name, BUNIT="nJy")
    planes = [plane(sky(name), head, "IMAGE"), plane(bits(name), header(name), "MASK")]
    yield (
        f"{name}_calexp.fits",
        [primary(FILTER="r"), *planes, plane(sky(name), header(name, BUNIT="nJy**2"), "VARIANCE")],
    )


def drizzled(name: str) -> Planes:
    seen = X + Y >= 50
    first = primary(TELESCOP="HST", INSTRUME="ACS", DETECTOR="WFC", FILTER1="F606W", EXPTIME=500.0)
    planes = {"SCI": np.where(seen, sky(name), 0), "WHT": np.where(seen, 1000 + X, 0), "CTX": seen.astype(np.int32)}
    head = header(name, BUNIT="ELECTRONS/S")
    yield f"{name}_drc.fits", [first, *(plane(v.astype(np.float32), head, k, ver=1) for k, v in planes.items())]


def herschel(name: str) -> Planes:
    head, rng = header(name, BUNIT="Jy/beam"), np.random.default_rng(1)
    maps = {"image": sky(name), "error": 0.5 + 0.01 * rng.random((N, N)), "coverage": 3 + rng.random((N, N))}
    first = primary(TELESCOP="Herschel", INSTRUME="SPIRE", WAVELNTH=250.0)
    yield f"{name}_psw.fits", [first, *(plane(data.astype(np.float32), head, kind) for kind, data in maps.items())]


def interferometer(name: str) -> Planes:
    beam = np.exp(-((X - 70) ** 2 + (Y - 70) ** 2) / 4e4).astype(np.float32)
    head = header(name, BUNIT="Jy/beam", WCSAXES=4, CTYPE3="FREQ", CRVAL3=1e11, CTYPE4="STOKES", CRVAL4=1.0)
    maps = {"image.pbcor": sky(name), "image": sky(name) * beam, "pb": beam, "residual": sky(name) - 100}
    for kind, data in maps.items():
        yield f"{name}.cont.I.{kind}.fits", [primary(data[None, None], head)]


def ccddata(name: str) -> Planes:
    planes = [plane((bits(name) > 0).astype(np.uint8), fits.Header(), "MASK")]
    yield f"{name}.fits", [primary(sky(name), header(name, BUNIT="adu")), *planes]


def kids(name: str) -> Planes:
    head = header(name, INSTRUME="OMEGACAM", FILTER="r_SDSS", EXPTIME=1.0)
    beside = {"wei": ((3 + X / 100) / 100).astype(np.float32), "msk": bits(name)}
    for kind, data in {"sci": sky(name), **beside}.items():
        yield f"{name}_r_{kind}.fits", [primary(data, head)]


def legacy(name: str) -> Planes:
    head, model = header(name, FILTER="r", BUNIT="nanomaggy"), 0.01 * sky_of(wcs_of(name))
    beside = {"invvar": 4 + X / 100, "depth": 400 + X, "galdepth": 300 + X, "psfsize": 1.2 + X / 1000}
    for kind, data in {"image": sky(name), **beside, "model": model, "blobmodel": 1.1 * model}.items():
        yield f"{name}-{kind}-r.fits.fz", [primary(), fits.CompImageHDU(data.astype(np.float32), head)]


def hsc(name: str) -> Planes:
    hdus = [fits.ImageHDU(data, header(name, FILTER="HSC-R")) for data in (sky(name), bits(name), np.sqrt(sky(name)))]
    for hdu, kind in zip(hdus, ("IMAGE", "MASK", "VARIANCE"), strict=True):
        hdu.header["EXTTYPE"] = kind  # and no EXTNAME
    yield f"{name}-CORR.fits", [primary(), *hdus]


def equinoxes(name: str) -> Planes:
    """One sky, in part by old headers: what B1950 calls a place is 0.6 degrees from there."""
    head = header(name)
    if name in "bd":
        middle = SkyCoord(head["CRVAL1"], head["CRVAL2"], unit="deg")
        old, north = (place.transform_to("fk4") for place in (middle, middle.directional_offset_by(0, 0.1 * u.deg)))
        turn = old.position_angle(north).rad
        head = fits.Header(
            {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": head["CRPIX1"], "CRPIX2": head["CRPIX2"]}
        )
        head["CRVAL1"], head["CRVAL2"], head["EPOCH" if name == "b" else "EQUINOX"] = old.ra.deg, old.dec.deg, 1950.0
        for card, value in (
            ("CD1_1", -np.cos(turn)),
            ("CD1_2", np.sin(turn)),
            ("CD2_1", np.sin(turn)),
            ("CD2_2", np.cos(turn)),
        ):
            head[card] = value / 3600
    yield f"{name}.fits", [primary(sky(name), head)]


def swarp(name: str) -> Planes:
    head = header(name, FLXSCALE=1.0, EXPTIME=100.0, BUNIT="adu")
    yield f"{name}.resamp.fits", [primary(np.where(X < 20, 0, sky(name)), head)]
    yield f"{name}.resamp.weight.fits", [primary(np.where(X < 20, 0, 1 + X / 1000).astype(np.float32), head)]


CAMERAS: tuple[Camera, ...] = (
    *(
        galex,
        uvot,
        wfc3,
        hawc,
        spitzer,
        ztf,
        des,
        sdss,
        vista,
        euclid,
        lsst,
        drizzled,
        herschel,
        interferometer,
        ccddata,
    ),
    *(swarp, wfpc2, nirc2, kids, legacy, hsc, equinoxes),
)
TAKEN = {
    galex: "a-nd-int.fits",
    ztf: "a_ztf_zr_q1_sciimg.fits",
    interferometer: "a.cont.I.image.pbcor.fits",
    wfpc2: "a_c0m.fits",
    kids: "a_r_sci.fits",
    legacy: "a-image-r.fits.fz",
}


def written(folder: Path, camera: Camera) -> Path:
    folder.mkdir()
    for name in LEVELS:
        for file, hdus in camera(name):
            fits.HDUList(hdus).writeto(folder / file)
    return folder


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.__name__)
def test_known_levels_come_back_and_nothing_else_is_an_exposure(tmp_path: Path, camera: Camera) -> None:
    result = match_levels(written(tmp_path / "in", camera), settings=MatchSettings.load(figures="none"))
    names = sorted(one.exposure.name for one in result.corrections)
    assert [name[0] for name in names] == list(LEVELS)
    assert names[0] == TAKEN.get(camera, names[0])
    off = {one.exposure.name[0]: one.total.level - LEVELS[one.exposure.name[0]] for one in result.corrections}
    assert np.ptp(list(off.values())) < 0.05


@pytest.mark.parametrize(
    ("cards", "planes", "words"),
    [({"BSOFTEN": 50.0, "BOFFSET": 100.0}, 1, "asinh-scaled"), ({}, 3, "name a plane: --set plane=N")],
)
def test_what_is_no_level_of_the_sky_is_refused_by_name(
    tmp_path: Path, cards: dict[str, float], planes: int, words: str
) -> None:
    def camera(name: str) -> Planes:
        data = sky(name) if planes == 1 else np.stack([sky(name)] * planes)
        yield f"{name}.fits", [primary(data, header(name, **cards))]

    with pytest.raises(NoInputError, match=words):
        match_levels(written(tmp_path / "in", camera), settings=MatchSettings.load(figures="none"))
