"""What each instrument makes of names, headers and settings."""

import pytest
from astropy.io import fits

from levelmatch_core.images.exposure import Window
from levelmatch_core.images.instruments import Part, Source, by_name, instruments, recognise
from levelmatch_core.images.instruments.jwst import parse_name
from levelmatch_core.settings import MatchSettings

POINTING = "jw02107001001_02101"
FULL = (1024, 1032)


def split(file: str, *, tile: str | None = None, shape: tuple[int, int] = FULL, **settings: bool) -> tuple[Part, ...]:
    primary = fits.Header({"TELESCOP": "JWST", "INSTRUME": "MIRI"})
    name = file.rpartition("/")[2]
    source = Source(file, "", shape, primary, tile)
    return recognise(name, primary).split(source, MatchSettings(**settings))


def test_generic_is_asked_last() -> None:
    families = ["2mass", "hst", "jwst", "mosaic camera", "spitzer"]
    assert [one.name for one in instruments()] == ["miri", "nircam", *families, "generic"]
    assert by_name("generic").rank == 2


@pytest.mark.parametrize(
    ("name", "cards", "expected"),
    [
        ("jw02107001001_02101_00001_mirimage_cal.fits", {}, "miri"),
        ("jw02107001001_02101_00001_mirimagel_crf.fits.gz", {}, "miri"),
        ("JW02107001001_02101_00001_NRCA1_cal.fits.fz", {}, "nircam"),
        ("jw02107001001_02101_00001_nrcblong_cal.fits", {}, "nircam"),
        ("jw02107001001_02101_00001_nis_cal.fits", {}, "jwst"),
        ("jw02107001001_02101_00001_mirifulong_cal.fits", {}, "jwst"),
        ("anything.fits", {"TELESCOP": "JWST", "INSTRUME": "MIRI"}, "miri"),
        ("anything.fits", {"TELESCOP": "JWST", "INSTRUME": "NIRCAM"}, "nircam"),
        ("anything.fits", {"TELESCOP": "JWST", "INSTRUME": "NIRISS"}, "jwst"),
        ("anything.fits", {"TELESCOP": "HST"}, "hst"),
        ("anything.fits", {"TELESCOP": "Spitzer"}, "spitzer"),
        ("aK_asky.fits", {"ORIGIN": "2MASS"}, "2mass"),
        ("anything.fits", {"TELESCOP": "VLT"}, "generic"),
        ("jw02107-o001_t001_miri_f770w_i2d.fits", {}, "generic"),
    ],
)
def test_recognises(name: str, cards: dict[str, str], expected: str) -> None:
    assert recognise(name, fits.Header(cards)).name == expected


def test_name_of_a_segment_and_a_parallel_activity() -> None:
    named = parse_name("some folder/jw01234567890_0310a_00002-seg001_nrcb4_rate.fits")
    assert named is not None
    assert (named.pointing, named.exposure, named.detector) == ("jw01234567890_0310a", "00002-seg001", "nrcb4")


def test_a_tile_is_pointing_and_detector() -> None:
    (part,) = split(f"a/{POINTING}_00003_mirimage_cal.fits")
    assert part.tile == f"{POINTING}_mirimage"
    assert part.groups == {"dithers": part.tile, "mosaic_tiles": ""}
    assert part.anchors == ()
    assert part.product == ""


def test_a_whole_miri_image_is_split_at_the_lyot_window() -> None:
    lyot, main = split(f"{POINTING}_00001_mirimage_cal.fits", recombine_lyot=True)
    assert (lyot.suffix, main.suffix) == ("@lyot", "@main")
    assert lyot.window == Window(rows=(735, 1024), columns=(0, 290), inside=True)
    assert main.window == Window(rows=(735, 1024), columns=(0, 290), inside=False)
    assert (lyot.detector, main.detector) == ("mirimagel", "mirimages")
    assert lyot.groups == {
        "dithers": f"{POINTING}_mirimagel",
        "recombine_lyot": f"{POINTING}_mirimage",
        "mosaic_tiles": "",
    }
    assert main.groups["dithers"] == f"{POINTING}_mirimages"
    assert main.groups["recombine_lyot"] == lyot.groups["recombine_lyot"]
    assert (lyot.anchors, main.anchors) == ((), ("recombine_lyot",))
    assert (lyot.product, main.product) == ("", "")


def test_separated_halves_are_labelled_as_the_split_ones_and_make_one_product() -> None:
    whole = split(f"d/{POINTING}_00001_mirimage_cal.fits", recombine_lyot=True)
    for half, letter in zip(whole, "ls", strict=True):
        (part,) = split(f"d/{POINTING}_00001_mirimage{letter}_cal.fits", recombine_lyot=True)
        assert (part.detector, part.tile, part.groups, part.anchors) == (
            half.detector,
            half.tile,
            half.groups,
            half.anchors,
        )
        assert part.identity == half.identity
        assert (part.window, part.suffix) == (half.window, "")
        assert part.product == f"d/{POINTING}_00001_mirimage_cal.fits"


@pytest.mark.parametrize("letter", "ls")
def test_halves_are_plain_tiles_unless_recombined(letter: str) -> None:
    (part,) = split(f"{POINTING}_00001_mirimage{letter}_cal.fits")
    assert part.tile == f"{POINTING}_mirimage{letter}"
    assert set(part.groups) == {"dithers", "mosaic_tiles"}
    assert part.product == ""


def test_a_subarray_has_no_lyot_window() -> None:
    (part,) = split(f"{POINTING}_00001_mirimage_cal.fits", shape=(512, 512), recombine_lyot=True)
    assert "recombine_lyot" not in part.groups
    source = Source("x.fits", "", FULL, fits.Header({"SUBARRAY": "BRIGHTSKY", "DETECTOR": "MIRIMAGE"}))
    assert len(by_name("miri").split(source, MatchSettings(recombine_lyot=True))) == 1


@pytest.mark.parametrize("module", "ab")
@pytest.mark.parametrize("chip", "1234")
def test_short_chips_combine_within_their_module(module: str, chip: str) -> None:
    (part,) = split(f"{POINTING}_00001_nrc{module}{chip}_cal.fits", combine_nircam_short=True)
    assert part.tile == part.groups["dithers"] == f"{POINTING}_nrc{module}{chip}"
    assert part.groups["combine_nircam_short"] == f"{POINTING}_nrc{module}"


@pytest.mark.parametrize("detector", ["nrcalong", "nrcblong", "nrca5", "mirimage"])
def test_others_do_not_combine(detector: str) -> None:
    (part,) = split(f"{POINTING}_00001_{detector}_cal.fits", combine_nircam_short=True)
    assert "combine_nircam_short" not in part.groups


def test_chips_do_not_combine_unless_asked() -> None:
    (part,) = split(f"{POINTING}_00001_nrca1_cal.fits", recombine_lyot=True)
    assert set(part.groups) == {"dithers", "mosaic_tiles"}


def test_the_users_tile_wins_but_keeps_halves_and_chips_apart() -> None:
    (plain,) = split(f"{POINTING}_00001_mirimage_cal.fits", tile="mine")
    assert plain.tile == plain.groups["dithers"] == "mine"
    for tile in ("mine", "mine_mirimage"):
        lyot, main = split(f"{POINTING}_00001_mirimage_cal.fits", tile=tile, recombine_lyot=True)
        assert (lyot.tile, main.tile) == ("mine_mirimagel", "mine_mirimages")
        assert lyot.groups["recombine_lyot"] == main.groups["recombine_lyot"] == "mine_mirimage"
    for tile in ("mine", "mine_nrcb2"):
        (chip,) = split(f"{POINTING}_00001_nrcb2_cal.fits", tile=tile, combine_nircam_short=True)
        assert (chip.tile, chip.groups["combine_nircam_short"]) == ("mine_nrcb2", "mine_nrcb")


def test_generic_makes_a_tile_of_each_exposure() -> None:
    source = Source("a/b.fits", "#2", (10, 10), fits.Header({"DETECTOR": " CCD1 "}))
    (part,) = by_name("generic").split(source, MatchSettings(recombine_lyot=True, combine_nircam_short=True))
    assert part == Part(detector="ccd1", tile="a/b.fits#2", groups={"dithers": "a/b.fits#2", "mosaic_tiles": ""})
