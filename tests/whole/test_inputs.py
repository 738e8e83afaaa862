"""What reproject's users have is taken as it is, and gives the truth; what cannot be taken is refused by name."""

import numpy as np
import pytest
from astropy import coordinates
from astropy import units as u
from astropy.io import fits
from astropy.modeling import models
from astropy.nddata import CCDData, NDData
from astropy.wcs import WCS
from astropy.wcs.wcsapi import HighLevelWCSWrapper

from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.errors import LevelMatchError, SettingsError, UsageError
from levelmatch_core.nddata import write_images
from levelmatch_core.simulate import SimulatedProgram, simulate


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program") / "in"
    return folder, simulate(folder, SimulatedProgram.of(tiles=(2, 1), dithers=2, size=96, stars=5, overlap=0.3))


@pytest.fixture(scope="module")
def files(program):
    """Per file: masked data, the header of its image, its primary header, and its true level."""
    found = []
    for one in program[1].exposures:
        with fits.open(program[0] / one.file) as hdus:
            data = np.where((hdus["DQ"].data & 513) > 0, np.nan, hdus["SCI"].data)
            found.append((data, hdus["SCI"].header, hdus[0].header, one.plane.level))
    return found


def gwcs_of(header, distortion):
    """Return a gwcs: a distortion of the pixels, and the linear and celestial part of a header."""
    gwcs = pytest.importorskip("gwcs")
    wcs = WCS(header)
    x0, y0 = wcs.wcs.crpix - 1
    lon, lat = wcs.wcs.crval
    turned = models.AffineTransformation2D(wcs.wcs.cdelt[:, None] * wcs.wcs.get_pc())
    sky = models.Pix2Sky_TAN() | models.RotateNative2Celestial(lon, lat, 180)
    detector = gwcs.coordinate_frames.Frame2D(name="detector", unit=(u.pix, u.pix))
    frame = gwcs.coordinate_frames.CelestialFrame(reference_frame=coordinates.ICRS(), unit=(u.deg, u.deg))
    shift = models.Shift(-x0) & models.Shift(-y0)
    return gwcs.WCS([(detector, distortion | shift | turned | sky), (frame, None)])


BENT = models.Mapping((0, 1, 0, 1)) | (
    models.Polynomial2D(3, c1_0=1.0, c2_0=3e-4, c0_2=-1e-4, c3_0=1e-6) & models.Polynomial2D(2, c0_1=1.0, c1_1=2e-4)
)  # by up to four pixels
WAVY = (models.Identity(1) + models.Sine1D(amplitude=1.0, frequency=0.1)) & models.Identity(1)
NONE = models.Identity(2)


FORMS = {
    "an HDU": lambda data, header, _: fits.ImageHDU(data, header),
    "a primary HDU": lambda data, header, _: fits.PrimaryHDU(data, WCS(header).to_header(relax=True)),
    "a compressed HDU": lambda data, header, _: fits.CompImageHDU(
        data.astype("f4"), WCS(header).to_header(relax=True), quantize_level=0
    ),
    "an HDUList": lambda data, header, primary: fits.HDUList(
        [fits.PrimaryHDU(header=primary), fits.ImageHDU(data, header, name="SCI")]
    ),
    "array and header": lambda data, header, _: (data, header),
    "array and WCS": lambda data, header, _: (data, WCS(header)),
    "masked array and WCS": lambda data, header, _: (np.ma.masked_invalid(data), WCS(header)),
    "Quantity and WCS": lambda data, header, _: (data * u.Unit("MJy/sr"), WCS(header)),
    "NDData": lambda data, header, _: NDData(data, wcs=WCS(header), unit="MJy/sr"),
    "CCDData": lambda data, header, _: CCDData(data, wcs=WCS(header), unit="MJy/sr"),
    "APE 14": lambda data, header, _: (data, HighLevelWCSWrapper(WCS(header))),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_true_levels(files, form):
    images = []
    for number, (data, header, primary, _) in enumerate(files):
        named = primary.copy()
        named["FILENAME"] = f"shot{number}.fits"
        images.append(FORMS[form](data, header, named))
    result = match_levels(images)
    found = np.array([one.total.level for one in result.corrections])
    true = np.array([level for *_, level in files])
    assert result.complete
    np.testing.assert_allclose(found - found.mean(), true - true.mean(), atol=0.03)
    if form not in {"array and WCS", "masked array and WCS", "APE 14", "a primary HDU", "a compressed HDU"}:
        assert {u.Unit(one.exposure.unit) for one in result.corrections} == {u.MJy / u.sr}


def test_one_image_alone_is_an_input(files):
    data, header, *_ = files[0]
    for one in (
        fits.ImageHDU(data, header),
        (data, header),
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(data, header)]),
    ):
        assert [str(found.status) for found in match_levels(one).corrections] == ["alone"]


def test_a_gwcs_gives_the_true_levels(files):
    images = [NDData(data, wcs=gwcs_of(header, NONE), unit="MJy/sr") for data, header, *_ in files]
    result = match_levels(images)
    found = np.array([one.total.level for one in result.corrections])
    true = np.array([level for *_, level in files])
    np.testing.assert_allclose(found - found.mean(), true - true.mean(), atol=0.05)  # without 0.1 pixels of distortion
    sloped = match_levels(images, settings={"preset": "best", "fit_type_mosaic_tiles": "level+slope"})
    name = next(one.exposure.name for one in sloped.corrections if not one.total.is_level)
    assert np.nanstd(images[0].data - sloped.corrected(images[int(name[5:8]) - 1], name).data) > 0


def test_a_distorted_gwcs_is_written_to_a_fiftieth_of_a_pixel(files, tmp_path):
    data, header, *_ = files[0]
    wcs = gwcs_of(header, BENT)
    (path,) = write_images([(data, wcs)], tmp_path)
    with fits.open(path) as hdus:
        written = WCS(hdus["SCI"].header)
    y, x = np.mgrid[0:96:7, 0:97:7].astype(float)
    sky = wcs(x, y)
    np.testing.assert_allclose(np.hypot(*(written.all_world2pix(*sky, 0) - np.array([x, y]))), 0, atol=0.02)
    plain = np.hypot(*(WCS(header).wcs_world2pix(*sky, 0) - np.array([x, y])))
    assert plain.max() > 2
    with pytest.raises(
        UsageError, match=r"image001\.fits: its WCS, a WCS, is up to .* pixels off as SIP polynomials, expected 0\.02"
    ):
        write_images([(data, gwcs_of(header, WAVY))], tmp_path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (3, "type int"),
        ([np.zeros((4, 4))], "type ndarray: expected a path, NDData"),
        ([(np.zeros((4, 4)), "wcs")], "its wcs is str, expected a celestial WCS"),
        ([(np.zeros((4, 4, 4)), fits.Header())], "expected a two-dimensional image"),
        ([(np.zeros((4, 4)), None)], "its wcs is NoneType"),
        ([fits.ImageHDU()], "expected a two-dimensional image"),
        ([fits.ImageHDU(np.ones((4, 4)))], "no celestial WCS"),
        ([fits.HDUList()], "image001.fits"),
    ],
)
def test_what_is_no_image_is_refused(given, expected):
    with pytest.raises(LevelMatchError, match=expected):
        match_levels(given)


def test_settings_are_a_dict_or_settings(program):
    result = match_levels(program[0], settings={"fit_type_mosaic_tiles": "level+slope"})
    assert result.settings == MatchSettings(preset="best", fit_type_mosaic_tiles="level+slope")
    assert match_levels(program[0], settings={"rms_sig_limit": 3}, preset="pjpipe").settings.preset == "pjpipe"
    for wrong, expected in (
        ({"rms_sig_limits": 3}, "did you mean rms_sig_limit"),
        ({"sigma": -1}, "sigma"),
        ([("sigma", 3)], "expected MatchSettings, or a dict"),
        ("best", "expected MatchSettings, or a dict"),
    ):
        with pytest.raises(SettingsError, match=expected):
            match_levels(program[0], settings=wrong)
    with pytest.raises(SettingsError, match="preset"):
        match_levels(program[0], preset="worst")
    with pytest.raises(UsageError, match="output=3: expected the path"):
        match_levels(program[0], 3)
