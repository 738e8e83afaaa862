"""What lies beside images is never an exposure: by its name, by its header; and images are images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core.errors import NoInputError
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.settings import MatchSettings
from tests.images.pixels import read_pixels

SIZE = 32


def write(path: Path, header: Any, seed: int = 0, data: Any = None, **cards: Any) -> None:
    header = header.copy()
    header.update(cards)
    if data is None:
        data = np.random.default_rng(seed).normal(100, 3, (SIZE, SIZE)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(data, header).writeto(path)


def taken(folder: Path, **options: Any) -> tuple[list[str], str]:
    """Return the exposures' names, and all notes."""
    inventory = take_inventory([folder], MatchSettings(**options))
    assert not inventory.failures
    names = [one.name for field in inventory.fields for one in field.exposures]
    return sorted(names), "\n".join(inventory.notes)


PAIRS = [
    ("a.resamp.fits", "a.resamp.weight.fits", "weight map"),
    ("c4d_1_ooi_z_v1.fits", "c4d_1_oow_z_v1.fits", "weight map"),
    ("c4d_1_ooi_z_v1.fits", "c4d_1_ood_z_v1.fits", "mask"),
    ("SPITZER_I1_1_0001_0000_2_bcd.fits", "SPITZER_I1_1_0001_0000_2_bunc.fits", "uncertainty map"),
    ("SPITZER_I1_1_0001_0000_2_cbcd.fits", "SPITZER_I1_1_0001_0000_2_bimsk.fits", "mask"),
    ("m31_drz_sci.fits", "m31_drz_wht.fits", "weight map"),
    ("m31.fits", "m31_rms.fits", "uncertainty map"),
    ("m31.fits", "m31_mask.fits.gz", "mask"),
    ("m31.fits", "m31.flag.fits", "mask"),
    ("m31_image.fits", "m31_exp.fits", "coverage map"),
    ("m31.fits", "m31_msk.fits", "mask"),
    ("m31.fits", "m31-coverage.fits", "coverage map"),
    ("m31.fits", "m31_conf.fits", "weight map"),  # VISTA and WFCAM
    ("m31_image.fits", "m31_pb.fits", "model, or what is left of one"),
    ("m31-int.fits", "m31-rrhr.fits", "coverage map"),  # GALEX
    ("m31_sci.fits", "m31_bkg.fits", "background"),
    ("m31_sci.fits", "m31_snr.fits", "model, or what is left of one"),
    ("m31.fits", "m31weight.fits", "weight map"),
    ("ais-nd-int.fits", "ais-nd-rr.fits", "coverage map"),
    ("ais-nd-int.fits", "ais-nd-thresh.fits", "background"),
    ("ais-nd-int.fits", "ais-nd-objmask.fits", "segmentation map"),
    ("KiDS_1_r_sci.fits", "KiDS_1_r_wei.fits", "weight map"),
    ("u2ab0101t_c0m.fits", "u2ab0101t_c1m.fits", "mask"),  # WFPC2
    ("ais-nd-int.fits", "ais-nd-intbgsub.fits", "image on another scale, or without its sky"),
    ("ais-nd-int.fits", "ais-nd-cnt.fits", "image on another scale, or without its sky"),
    ("ztf_1_q1_sciimg.fits", "ztf_1_q1_scimrefdiffimg.fits", "difference from a reference image"),
    ("ztf_1_q1_sciimg.fits", "ztf_1_q1_sciunc.fits", "uncertainty map"),
]


@pytest.mark.parametrize(("image", "companion", "what"), PAIRS)
def test_a_companion_is_left_out_by_its_name(
    tmp_path: Path, sky_header: Callable[..., Any], image: str, companion: str, what: str
) -> None:
    write(tmp_path / image, sky_header())
    write(tmp_path / companion, sky_header(), data=np.ones((SIZE, SIZE), np.float32))
    names, notes = taken(tmp_path, companions="ignore")
    assert names == [image]
    assert f"{companion} ({what}, by its name, of {image})" in notes


@pytest.mark.parametrize(
    "cards",
    [
        {"PRODTYPE": "dqmask"},
        {"PRODTYPE": "wtmap"},
        {"FILETYPE": "WEIGHT MAP"},
        {"OBSTYPE": "dome flat"},
        {"IMAGETYP": "Bias Frame"},
        {"IMAGETYP": "dark"},
        {"IMAGETYP": "FLAT,SKY"},
        {"OBSTYPE": "MASTERFLAT"},
        {"FRAMETYP": "dark"},
        {"OBS_TYPE": "DARK"},
        {"DATA-TYP": "DOMEFLAT"},
        {"HIERARCH ESO DPR TYPE": "FLAT,LAMP"},
        {"HIERARCH ESO PRO CATG": "MASTER_BIAS"},
        {"BUNIT": "(MJy/sr)^2"},
        {"BUNIT": "1/(MJy/sr)**2"},
        {"BUNIT": "MJy2/sr2"},
        {"BUNIT": "Jy-2"},
        {"BUNIT": "S/N"},
        {"BUNIT": "electrons**2"},
        {"BUNIT": "s"},
        {"BUNIT": "1/(adu)^2"},
        {"EXTNAME": "WHT"},
        {"EXTNAME": "VARIANCE"},
    ],
)
def test_or_by_what_its_header_calls_it(tmp_path: Path, sky_header: Callable[..., Any], cards: dict[str, str]) -> None:
    write(tmp_path / "a.fits", sky_header())
    write(tmp_path / "b.fits", sky_header(), seed=1, **cards)
    names, notes = taken(tmp_path)
    assert names == ["a.fits"]
    assert "b.fits" in notes


@pytest.mark.parametrize(
    "cards",
    [
        {"PRODTYPE": "image", "OBSTYPE": "object"},
        {"OBSTYPE": "sky"},
        {"IMAGETYP": "Light Frame"},
        {"FILETYPE": "SCI"},
        {"FILETYPE": "flat-fielded"},
        {"HIERARCH ESO DPR TYPE": "OBJECT"},
        {"BUNIT": "erg/(s cm2)"},
        {"BUNIT": "MJy/sr"},
        {"BUNIT": "mag arcsec^-2"},
        {"BUNIT": "electron/s"},
        {"BUNIT": "DN"},
        {"BUNIT": "nW m-2 sr-1"},
        {"EXTNAME": "ccd3"},
    ],
)
def test_images_are_images(tmp_path: Path, sky_header: Callable[..., Any], cards: dict[str, str]) -> None:
    write(tmp_path / "exp_0001.fits", sky_header(), **cards)
    write(tmp_path / "exp_0002.fits", sky_header(ra=10.0004), seed=1, **cards)
    names, _ = taken(tmp_path)
    assert names == ["exp_0001.fits", "exp_0002.fits"]


def test_a_word_that_may_be_a_name_needs_the_image_that_it_belongs_to(
    tmp_path: Path, sky_header: Callable[..., Any]
) -> None:
    write(tmp_path / "long_exp.fits", sky_header())
    write(tmp_path / "var_1.fits", sky_header(ra=10.0004), seed=1)
    write(tmp_path / "1.fits", sky_header(ra=10.0002), seed=2)  # of another place: no image of var_1
    assert taken(tmp_path)[0] == ["1.fits", "long_exp.fits", "var_1.fits"]


@pytest.mark.parametrize(
    ("cards", "names"),
    [
        ({}, ["m31.fits"]),
        ({"DATE-OBS": "2024-03-01", "FILTER": "R"}, ["m31.fits"]),
        ({"DATE-OBS": "2024-03-02", "FILTER": "R"}, ["m31.fits", "m31_extra.fits"]),
        ({"FILTER": "V"}, ["m31.fits", "m31_extra.fits"]),
        ({"CRVAL1": 10.0004}, ["m31.fits", "m31_extra.fits"]),
    ],
)
def test_what_has_an_images_name_and_more_is_of_it_unless_it_was_observed_by_itself(
    tmp_path: Path, sky_header: Callable[..., Any], cards: dict[str, Any], names: list[str]
) -> None:
    write(tmp_path / "m31.fits", sky_header(), **{"DATE-OBS": "2024-03-01", "FILTER": "R"})
    write(tmp_path / "m31_extra.fits", sky_header(), seed=1, **cards)
    found, notes = taken(tmp_path)
    assert found == names
    assert ("m31_extra.fits (m31.fits has the same place, shape and name but for 'extra'" in notes) == (len(names) == 1)


@pytest.mark.parametrize(
    ("image", "others"),
    [
        (
            "field-image-r.fits",
            ("field-galdepth-r.fits", "field-psfsize-r.fits", "field-chi2-r.fits"),
        ),  # Legacy Surveys
        ("3.IRAC.1.mosaic.fits", ("3.IRAC.1.median_mosaic.fits", "3.IRAC.1.unc.fits")),  # Spitzer's enhanced products
    ],
)
def test_what_stands_in_place_of_the_word_for_an_image_or_within_its_name_belongs_to_it(
    tmp_path: Path, sky_header: Callable[..., Any], image: str, others: tuple[str, ...]
) -> None:
    for seed, name in enumerate((image, *others)):
        write(tmp_path / name, sky_header(), seed=seed)
    assert taken(tmp_path)[0] == [image]


def test_weights_belong_to_the_image_and_to_nothing_else_beside_it(
    tmp_path: Path, sky_header: Callable[..., Any]
) -> None:
    """`blobmodel` comes before `image`, and what masks that masks nothing."""
    weight = np.ones((SIZE, SIZE), np.float32)
    weight[5, 6] = 0
    for seed, name in enumerate(("field-blobmodel-r.fits", "field-image-r.fits")):
        write(tmp_path / name, sky_header(), seed=seed)
    write(tmp_path / "field-invvar-r.fits", sky_header(), data=weight)
    (field,) = take_inventory([tmp_path], MatchSettings()).fields
    assert [one.name for one in field.exposures] == ["field-image-r.fits"]
    assert field.exposures[0].weight is not None


def test_words_in_place_of_the_one_for_an_image_may_be_another_exposures(
    tmp_path: Path, sky_header: Callable[..., Any]
) -> None:
    write(tmp_path / "m31-image-r.fits", sky_header(), FILTER="r")
    write(tmp_path / "m31-deep-r.fits", sky_header(ra=10.0003), seed=1)
    write(tmp_path / "m31-green-r.fits", sky_header(), seed=2, FILTER="g")
    assert len(taken(tmp_path)[0]) == 3


def test_whole_numbers_in_what_an_instrument_calls_its_image_may_be_a_mask(
    tmp_path: Path, sky_header: Callable[..., Any]
) -> None:
    """WFPC2's data quality is called SCI, as its image is."""
    rng = np.random.default_rng(1)
    flags = ((rng.random((SIZE, SIZE)) < 0.3) * rng.choice([1, 4, 64], (SIZE, SIZE))).astype(np.int16)
    sky = rng.normal(100, 3, (SIZE, SIZE))
    for name, data in (("dq", flags), ("raw", np.round(sky).astype(np.int16)), ("c0m", sky.astype(np.float32))):
        first = fits.PrimaryHDU()
        first.header.update(TELESCOP="HST", INSTRUME="WFPC2", FILTNAM1="F606W", EXPTIME=10.0)
        fits.HDUList([first, fits.ImageHDU(data, sky_header(), name="SCI")]).writeto(tmp_path / f"u{name}.fits")
    inventory = take_inventory([tmp_path], MatchSettings())
    assert sorted(one.name for field in inventory.fields for one in field.exposures) == ["uc0m.fits", "uraw.fits"]
    assert "udq.fits (its pixels hold" in "\n".join(inventory.notes)


def test_an_image_of_another_roll_is_no_part_of_one_at_the_same_place(
    tmp_path: Path, sky_header: Callable[..., Any]
) -> None:
    """A second visit to the places of a survey, which turned by some degrees."""
    write(tmp_path / "m31.fits", sky_header())
    write(tmp_path / "second_m31.fits", sky_header(angle=4.0), seed=1)
    assert taken(tmp_path)[0] == ["m31.fits", "second_m31.fits"]


@pytest.mark.parametrize("other", ["m31_2.fits", "m31_b.fits", "m31_night2.fits", "2_m31.fits"])
def test_a_number_or_letter_more_is_another_exposure(
    tmp_path: Path, sky_header: Callable[..., Any], other: str
) -> None:
    write(tmp_path / "m31.fits", sky_header())
    write(tmp_path / other, sky_header(), seed=1)
    assert taken(tmp_path)[0] == sorted(["m31.fits", other])


@pytest.mark.parametrize("folder", ["weights", "masks", "rms", "variance"])
def test_companions_in_a_folder_of_their_own_are_left_out(
    tmp_path: Path, sky_header: Callable[..., Any], folder: str
) -> None:
    for name in ("a.fits", "b.fits"):
        write(tmp_path / name, sky_header(ra=10.0 if name == "a.fits" else 10.0004))
        write(tmp_path / folder / name, sky_header(ra=10.0 if name == "a.fits" else 10.0004), seed=1)
    inventory = take_inventory([tmp_path], MatchSettings(companions="ignore"), recursive=True)
    assert [one.name for field in inventory.fields for one in field.exposures] == ["a.fits", "b.fits"]
    assert f"{folder}/a.fits" in "\n".join(inventory.notes)


def test_masks_and_weights_take_pixels_out(tmp_path: Path, sky_header: Callable[..., Any]) -> None:
    mask, weight = np.zeros((SIZE, SIZE), np.int32), np.ones((SIZE, SIZE), np.float32)
    mask[3, 4], weight[5, 6] = 8, 0
    write(tmp_path / "a.fits", sky_header())
    write(tmp_path / "a_mask.fits", sky_header(), data=mask)
    write(tmp_path / "a_weight.fits.gz", sky_header(), data=weight)
    for choice, out in (("use", [[3, 4], [5, 6]]), ("ignore", [])):
        (field,) = take_inventory([tmp_path], MatchSettings(companions=choice)).fields
        pixels = read_pixels(field.exposures[0])
        assert np.argwhere(np.isnan(pixels.data)).tolist() == out


def test_a_mask_of_what_is_good_is_not_used(tmp_path: Path, sky_header: Callable[..., Any]) -> None:
    write(tmp_path / "a.fits", sky_header())
    write(tmp_path / "a_mask.fits", sky_header(), data=np.ones((SIZE, SIZE), np.int16))
    (field,) = take_inventory([tmp_path], MatchSettings()).fields
    assert np.isfinite(read_pixels(field.exposures[0]).data).all()


def test_bits_of_spitzer_masks_that_are_no_fault_mask_nothing(tmp_path: Path, sky_header: Callable[..., Any]) -> None:
    mask = np.zeros((SIZE, SIZE), np.int16)
    mask[3, 4], mask[5, 6] = 1 << 13, 1 << 2
    cards = {"TELESCOP": "Spitzer", "CHNLNUM": 1}
    write(tmp_path / "SPITZER_I1_1_0001_0000_2_bcd.fits", sky_header(), **cards)
    write(tmp_path / "SPITZER_I1_1_0001_0000_2_bimsk.fits", sky_header(), data=mask, **cards)
    (field,) = take_inventory([tmp_path], MatchSettings()).fields
    assert np.argwhere(np.isnan(read_pixels(field.exposures[0]).data)).tolist() == [[3, 4]]


def test_nothing_but_companions_is_no_input(tmp_path: Path, sky_header: Callable[..., Any]) -> None:
    write(tmp_path / "a_weight.fits", sky_header())
    with pytest.raises(NoInputError, match=r"a_weight.fits: no exposure: weight map"):
        take_inventory([tmp_path], MatchSettings())


@pytest.mark.parametrize(
    ("cards", "names"),
    [
        ({"DATE-OBS": "2004-03-01T10:20:30"}, ["i1_7_bcd.fits"]),
        ({"MJD-OBS": 53065.430902778}, ["i1_7_bcd.fits"]),
        ({"DATE-OBS": "2004-03-01"}, ["i1_7_bcd.fits", "i1_7_cbcd.fits"]),  # of one night, no more
        ({}, ["i1_7_bcd.fits", "i1_7_cbcd.fits"]),
    ],
)
def test_of_products_of_one_observation_one_is_taken(
    tmp_path: Path, sky_header: Callable[..., Any], cards: dict[str, Any], names: list[str]
) -> None:
    """Frames before and after a correction: both would be matched as if they had been observed by themselves."""
    for seed, name in enumerate(("i1_7_cbcd.fits", "i1_7_bcd.fits")):
        write(tmp_path / name, sky_header(), seed=seed, **cards)
    found, notes = taken(tmp_path)
    assert found == names
    assert ("i1_7_cbcd.fits (of the same observation as i1_7_bcd.fits" in notes) == (len(names) == 1)


def test_images_are_taken_where_the_primary_beam_is_corrected(tmp_path: Path, sky_header: Callable[..., Any]) -> None:
    write(tmp_path / "a.image.fits", sky_header())
    write(tmp_path / "a.image.pbcor.fits", sky_header(), seed=1)
    write(tmp_path / "b.image.fits", sky_header(ra=10.001), seed=2)
    found, notes = taken(tmp_path)
    assert found == ["a.image.pbcor.fits", "b.image.fits"]
    assert "a.image.fits (not corrected for the primary beam" in notes


def test_filters_chips_and_numbers_are_no_products_of_one_observation(
    tmp_path: Path, sky_header: Callable[..., Any]
) -> None:
    moment = {"DATE-OBS": "2004-03-01T10:20:30"}
    write(tmp_path / "m31_red.fits", sky_header(), **moment, FILTER="r")
    write(tmp_path / "m31_green.fits", sky_header(), seed=1, **moment, FILTER="g")
    write(tmp_path / "m31_c1.fits", sky_header(), seed=2, **moment)
    write(tmp_path / "m31_c2.fits", sky_header(), seed=3, **moment)
    write(tmp_path / "m31_left.fits", sky_header(ra=10.001), seed=4, **moment)
    assert len(taken(tmp_path)[0]) == 5
