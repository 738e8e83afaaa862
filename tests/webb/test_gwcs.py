"""The gwcs of files that stdatamodels wrote, in place of their headers' approximation."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.errors import NoInputError, SettingsError
from levelmatch_core.images.agreement import disagreement
from levelmatch_core.images.fits_headers import read_headers
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.images.reading import read_wcs
from levelmatch_core.images.wcs import gwcs as reader
from levelmatch_core.images.wcs.transforms import sky_transforms
from levelmatch_core.products.corrected.reapply import apply_solution
from levelmatch_core.products.corrected.undo import undo
from levelmatch_core.products.corrected.verify import verify
from tests.webb.conftest import PROGRAM
from tests.webb.files import write_webb

GWCS = MatchSettings(wcs_source="gwcs", figures="none")


def rms_of_levels(result, levels):
    found = np.array([result.level(name).value for name in levels])
    return np.std(found - np.array(list(levels.values())))


@pytest.mark.parametrize("source", ["header", "gwcs"])
def test_known_levels_come_back_with_both_sources(webb, source):
    folder, levels = webb
    assert np.std(list(levels.values())) > 1
    result = match_levels(folder, settings=MatchSettings(wcs_source=source))
    assert result.complete
    assert rms_of_levels(result, levels) < 0.01
    assert {one.exposure.wcs_source for one in result.corrections} == {source}


def test_the_gwcs_is_read_as_it_was_written_and_reaches_beyond_the_image(webb):
    folder, _ = webb
    exposure = take_inventory([folder], GWCS).fields[0].exposures[0]
    from stdatamodels.jwst.datamodels import open as open_model

    with open_model(exposure.path) as model:
        theirs = model.meta.wcs
        x, y = np.array([0.0, 100.0, 255.0]), np.array([0.0, 30.0, 255.0])
        expected = np.stack(theirs(x, y))
    to_sky, to_pixel = sky_transforms(read_wcs(exposure))
    np.testing.assert_allclose(to_sky(x, y), expected, atol=1e-11)
    beyond = np.array([-60.0]), np.array([320.0])
    # the file's own way back is good to 0.02 pixel only
    np.testing.assert_allclose(to_pixel(*to_sky(*beyond)), beyond, atol=0.02)
    np.testing.assert_allclose(to_pixel(*to_sky(x, y)), [x, y], atol=5e-4)


def test_where_header_and_gwcs_differ_the_user_is_told_by_how_much(webb, tmp_path):
    folder, _ = webb
    assert not [note for note in take_inventory([folder], MatchSettings()).notes if "gwcs" in note]
    write_webb(tmp_path, PROGRAM, shift=(0.3, 0.4))
    for source in ("header", "gwcs"):
        (note,) = take_inventory([tmp_path], MatchSettings(wcs_source=source)).notes
        assert "0.50 pixel apart" in note
        assert "in 2 of 2 exposures" in note
        assert f"used is the {source}" in note
    sources = [MatchSettings(wcs_source=source) for source in ("header", "gwcs")]
    header, gwcs = (take_inventory([tmp_path], settings).fields[0].exposures[0] for settings in sources)
    assert disagreement(read_wcs(header), read_wcs(gwcs), header.shape) == pytest.approx(0.5, abs=0.02)
    moved = (np.array(header.footprint) - gwcs.footprint) * [np.cos(np.radians(PROGRAM.centre[1])), 1] * 3600
    # the distortion stretches pixels in the corners by up to 6 percent
    np.testing.assert_allclose(np.hypot(*moved.T) / header.scale, 0.5, rtol=0.07)


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
def test_astrometry_that_only_the_gwcs_has_is_used_by_every_step(tmp_path):
    """Half of the headers are off by two pixels: what the gwcs matches well, the headers do not."""
    levels = write_webb(tmp_path / "in", PROGRAM)
    write_webb(tmp_path / "off", PROGRAM, shift=(2, 0))
    for number, name in enumerate(levels):
        if number % 2:
            (tmp_path / "off" / name).replace(tmp_path / "in" / name)
    rms = {}
    for source in ("header", "gwcs"):
        result = match_levels(tmp_path / "in", settings=MatchSettings(wcs_source=source))
        rms[source] = np.mean(result.pairs_table()["rms"])
        if source == "gwcs":
            assert rms_of_levels(result, levels) < 0.01
    assert rms["header"] > 1.2 * rms["gwcs"]


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
def test_slopes_go_through_the_gwcs_and_come_back(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    levels = write_webb(folder, PROGRAM, shift=(2, 1))  # so that the header would give other values
    settings = GWCS.model_copy(update={"fit_type_mosaic_tiles": "level+slope", "slope_prior": "off"})
    result = match_levels(folder, out, settings)
    assert set(result.corrections_table()["wcs_source"]) == {"gwcs"}
    assert any(not one.total.is_level for one in result.corrections)
    assert verify(out).mismatches == ()
    assert undo(out, tmp_path / "back").complete
    assert apply_solution(out / "corrections.ecsv", [folder], tmp_path / "again").complete
    for name in levels:
        came, back = fits.getdata(folder / name, "SCI"), fits.getdata(tmp_path / "back" / name, "SCI")
        np.testing.assert_allclose(back, came, rtol=2e-7, atol=4e-6)
        assert (tmp_path / "again" / name).read_bytes() == (out / "tiles" / name).read_bytes()
    table = (out / "corrections.ecsv").read_text()
    assert "gwcs\n" in table
    (out / "corrections.ecsv").write_text(table.replace("gwcs\n", "header\n"))
    assert [one for one in verify(out).mismatches if "LVLLEVEL" in one.what]


@pytest.mark.slow
def test_reproject_takes_a_gwcs(webb):
    folder, levels = webb
    result = match_levels(folder, settings=GWCS.model_copy(update={"reproject_func": "exact"}))
    assert rms_of_levels(result, levels) < 0.01


def test_without_the_extra_the_header_serves_and_the_gwcs_is_refused(webb, monkeypatch):
    folder, levels = webb
    monkeypatch.setattr(reader, "find_spec", lambda name: None if name == "asdf" else object())
    with pytest.raises(SettingsError, match=r"needs asdf: pip install 'levelmatch\[jwst\]'"):
        match_levels(folder, settings=GWCS)
    assert rms_of_levels(match_levels(folder), levels) < 0.01


def with_asdf(source: Path, target: Path, content: bytes | None) -> Path:
    """Write a file with another ASDF tree, or none."""
    with fits.open(source) as hdus:
        del hdus["ASDF"]
        if content is not None:
            array = np.frombuffer(content, np.uint8)[None]
            column = fits.Column(name="ASDF_METADATA", format=f"{len(content)}B", array=array)
            hdus.append(fits.BinTableHDU.from_columns([column], name="ASDF"))
        hdus.writeto(target)
    return target


def test_a_file_without_gwcs_keeps_its_header(webb, tmp_path):
    first, second, *_ = sorted(webb[0].glob("*.fits"))
    with_asdf(first, tmp_path / first.name, None)
    with_asdf(second, tmp_path / second.name, b"no tree")
    inventory = take_inventory([tmp_path], GWCS)
    assert {one.wcs_source for one in inventory.fields[0].exposures} == {"header"}
    assert any(note.startswith("no gwcs, so that the header's WCS is used, in 2 exposures") for note in inventory.notes)


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ("meta:\n  wcs: 1\n", "is a int, expected a gwcs"),
        ("meta:\n  wcs: !core/ndarray-1.1.0 {source: 'file:///etc/x.asdf', shape: [2], datatype: int8}\n", "refers to"),
        ("meta:\n  wcs: {$ref: 'http://example.org/x.asdf#/wcs'}\n", "refers to other files"),
        ("meta: {wcs: [\n", "cannot be read"),
        ("meta:\n  wcs: !<tag:stsci.edu:gwcs/wcs-1.4.0> {name: x}\n", "is a TaggedDict, expected a gwcs"),
        ("meta:\n  wcs: !!python/object/apply:os.system ['touch pickled']\n", "gwcs"),
    ],
)
def test_a_tree_that_is_damaged_or_reaches_out_costs_its_exposure(webb, tmp_path, tree, reason, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = "#ASDF 1.0.0\n#ASDF_STANDARD 1.6.0\n%YAML 1.1\n%TAG ! tag:stsci.edu:asdf/\n--- !core/asdf-1.1.0\n"
    file = min(webb[0].glob("*.fits"))
    path = with_asdf(file, tmp_path / file.name, f"{head}{tree}...\n".encode())
    with pytest.raises(NoInputError, match=reason):
        take_inventory([path], GWCS)
    inventory = take_inventory([path], MatchSettings())
    assert len(inventory.fields[0].exposures) == 1
    assert any("cannot be compared" in note for note in inventory.notes)
    assert [one.name for one in tmp_path.iterdir()] == [file.name]


def test_a_truncated_block_costs_its_exposure(webb, tmp_path):
    file = min(webb[0].glob("*.fits"))
    with fits.open(file) as hdus:
        raw = hdus["ASDF"].data["ASDF_METADATA"].tobytes()
    path = with_asdf(file, tmp_path / file.name, raw[: raw.find(b"\xd3BLK") + 60])
    with pytest.raises(NoInputError, match="gwcs cannot be read"):
        take_inventory([path], GWCS)


def test_gzipped_files_have_their_gwcs_too(webb, tmp_path):
    file = min(webb[0].glob("*.fits"))
    path = tmp_path / f"{file.name}.gz"
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb") as out:
        out.write(file.read_bytes())
    path.write_bytes(buffer.getvalue())
    exposure = take_inventory([path], GWCS).fields[0].exposures[0]
    assert exposure.wcs_source == "gwcs"
    assert reader.gwcs_of(read_headers(path), path, path.name) is not None
