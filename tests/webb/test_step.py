"""The step of JWST's pipeline: models in, corrected models out, against the true levels and against `match_levels`."""

import json
import logging
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("stpipe", reason="stpipe is missing: install the extra, levelmatch[jwst]")
pytest.importorskip("stdatamodels", reason="stdatamodels is missing: install the extra, levelmatch[jwst]")

from stdatamodels.jwst import datamodels
from stpipe.exceptions import ValidationError

from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.errors import LevelMatchError, SettingsError, UsageError
from levelmatch_core.jwst_step import LevelMatchStep, get_steps
from levelmatch_core.jwst_step.spec import LEFT_OUT
from tests.webb.conftest import PROGRAM
from tests.webb.files import write_webb

SIZE = PROGRAM.noise / np.sqrt(500)
"""An error that a level may have."""


@pytest.fixture(autouse=True)
def _quiet_logs():
    """Leave the loggers as they were: stpipe takes over the root logger where nobody else has set it up."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def models_of(folder):
    return [datamodels.open(path) for path in sorted(folder.glob("*.fits"))]


def association(folder, path, **further):
    members = [{"expname": str(file), "exptype": "science"} for file in sorted(folder.glob("*.fits"))]
    asn = {"asn_type": "image3", "asn_rule": "x", "asn_id": "a3001", "asn_pool": "x", "program": "1234"}
    path.write_text(json.dumps({**asn, **further, "products": [{"name": "mosaic", "members": members}]}))
    return path


def taken_out(before, after):
    """Return what was subtracted from each model, at its good pixels."""
    return np.array([np.median((a.data - b.data)[a.dq == 0]) for a, b in zip(before, after, strict=True)])


def test_models_have_their_true_levels_and_those_given_stay(webb):
    folder, levels = webb
    given = models_of(folder)
    kept = [model.data.copy() for model in given]
    done = LevelMatchStep(output_ext=".fits").process(given)
    truth = np.array([levels[model.meta.filename] for model in given])
    off = taken_out(given, done) - truth
    assert np.ptp(off) < SIZE
    for model, data, corrected in zip(given, kept, done, strict=True):
        np.testing.assert_array_equal(model.data, data)
        assert isinstance(corrected, datamodels.ImageModel)
        assert corrected.meta.cal_step.instance["level_match"] == "COMPLETE"
        assert corrected.data.dtype == data.dtype
        np.testing.assert_array_equal(corrected.dq, model.dq)


def test_it_gives_what_the_library_gives_with_planes_too(webb, tmp_path):
    folder, _ = webb
    chosen = {"fit_type_dithers": "level+slope", "weight_method": "npix", "min_linear_frac": 0.1, "wcs_source": "gwcs"}
    match_levels(folder, tmp_path / "out", MatchSettings(figures="none", **chosen))
    done = LevelMatchStep(**chosen).process(models_of(folder))
    for model in done:
        with datamodels.open(tmp_path / "out" / "tiles" / model.meta.filename) as ours:
            np.testing.assert_allclose(model.data, ours.data, rtol=1e-6, atol=1e-6)
            mine = {card[0]: card[1] for card in model.extra_fits.SCI.header if str(card[0]).startswith("LVL")}
            theirs = {card[0]: card[1] for card in ours.extra_fits.SCI.header if str(card[0]).startswith("LVL")}
            assert mine.keys() == theirs.keys()
            assert mine["LVLLEVEL"] == pytest.approx(theirs["LVLLEVEL"], rel=1e-6)


def test_what_was_done_to_models_in_memory_counts(webb):
    """As in a pipeline, whose earlier steps have changed pixels and WCS without writing them."""
    folder, levels = webb
    given = models_of(folder)
    for number, model in enumerate(given):
        model.data = model.data + np.float32(10 * number)
    done = LevelMatchStep().process(given)
    truth = np.array([levels[model.meta.filename] + 10 * number for number, model in enumerate(given)])
    assert np.ptp(taken_out(given, done) - truth) < SIZE


def test_a_corrected_model_is_refused_as_a_corrected_file_is(webb, tmp_path):
    folder, levels = webb
    step = LevelMatchStep(output_dir=str(tmp_path), save_results=True)
    done = step.run(models_of(folder))
    names = sorted(path.name for path in tmp_path.glob("*.fits"))
    assert names == sorted(name.replace("_cal", "_levelmatch") for name in levels)
    with pytest.raises(LevelMatchError, match="was matched before"):
        LevelMatchStep().process(done)
    with pytest.raises(LevelMatchError, match="was matched before"):
        match_levels(tmp_path)
    with datamodels.open(tmp_path / names[0]) as model:
        assert model.meta.cal_step.instance["level_match"] == "COMPLETE"


def test_report_and_tables_are_written_where_it_is_asked_for(webb, tmp_path):
    folder, levels = webb
    done = LevelMatchStep(report_dir=str(tmp_path / "report"), figures="none").process(models_of(folder))
    assert (tmp_path / "report" / "corrections.ecsv").is_file()
    for model in done:
        with datamodels.open(tmp_path / "report" / "tiles" / model.meta.filename) as ours:
            np.testing.assert_array_equal(model.data, ours.data)
    LevelMatchStep(report_dir=str(tmp_path / "report"), figures="none", sigma=4.0).process(models_of(folder))
    assert len(levels) == len(done)


def test_an_exposure_without_usable_pixels_is_skipped_and_comes_back_as_it_was(webb, caplog):
    folder, _ = webb
    given = models_of(folder)
    given[0].data = np.full_like(given[0].data, np.nan)
    with caplog.at_level(logging.WARNING, "stpipe"):
        done = LevelMatchStep().process(given)
    states = [model.meta.cal_step.instance["level_match"] for model in done]
    assert states == ["SKIPPED", *["COMPLETE"] * (len(done) - 1)]
    assert np.isnan(done[0].data).all()
    assert any(given[0].meta.filename in record.getMessage() for record in caplog.records)


def test_the_background_is_recorded_where_it_is_asked_for(webb):
    done = LevelMatchStep(write_background=True).process(models_of(webb[0]))
    for model in done:
        background = model.meta.background.instance
        assert (background["method"], background["subtracted"]) == ("levelmatch", True)


def test_one_model_is_alone(webb):
    (first, *_) = models_of(webb[0])
    done = LevelMatchStep().process(first)
    assert done.meta.cal_step.instance["level_match"] == "COMPLETE"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no datamodel was given"),
        (3, "expected an association"),
        ([3], "expected datamodels"),
        ("nothing.json", "no such file"),
        ([datamodels.CubeModel((2, 8, 8))], "expected a 2-D ImageModel"),
    ],
)
def test_what_is_no_image_is_refused(given, message):
    with pytest.raises(UsageError, match=message):
        LevelMatchStep().process(given)


def test_two_models_of_one_name_are_refused(webb):
    first = models_of(webb[0])[0]
    with pytest.raises(UsageError, match="two models are called"):
        LevelMatchStep().process([first, first.copy()])


def test_parameters_are_the_settings_with_their_defaults():
    step = LevelMatchStep()
    for name, default in MatchSettings().model_dump().items():
        if name in LEFT_OUT:
            assert not hasattr(step, name)
        elif name == "wcs_source":
            assert step.wcs_source == "gwcs"
        else:
            assert getattr(step, name) == (list(default) if isinstance(default, tuple) else default), name


def test_parameters_act_or_are_refused(webb):
    with pytest.raises(SettingsError, match="rms_sig_limit"):
        LevelMatchStep(rms_sig_limit=-1).process(models_of(webb[0]))
    with pytest.raises(ValidationError, match="fit_type_dithers"):
        LevelMatchStep(fit_type_dithers="plane")
    with pytest.raises(LevelMatchError, match="band"):
        LevelMatchStep(band="F999W").process(models_of(webb[0]))
    done = LevelMatchStep(fit_type_dithers="level+match", slope_prior="0.5").process(models_of(webb[0]))
    cards = {card[0]: card[1] for card in done[0].extra_fits.SCI.header}
    assert cards["LVLSLPX"] != 0


def test_it_is_in_stpipes_list_and_imports_neither_engine_nor_tracker():
    from stpipe.entry_points import get_steps as listed

    (own,) = get_steps()
    assert own[1] == LevelMatchStep.class_alias
    assert own in [tuple(info)[:3] for info in listed()]
    program = (
        "import sys; import levelmatch_core.jwst_step as room; room.get_steps(); assert 'stpipe' not in sys.modules; "
        "room.LevelMatchStep; print(sorted({'prefect', 'mlflow', 'flows'} & {n.split('.')[0] for n in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_stpipe_the_step_says_what_to_install(tmp_path):
    (tmp_path / "stpipe.py").write_text("raise ModuleNotFoundError('no stpipe', name='stpipe')")
    program = "from levelmatch_core.jwst_step import LevelMatchStep"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert "ImportError: the step of JWST's pipeline needs stpipe: pip install 'levelmatch[jwst]'" in done.stderr
    assert "expected" not in done.stderr


@pytest.mark.slow
def test_strun_takes_an_association(webb, tmp_path):
    folder, levels = webb
    association(folder, tmp_path / "asn.json")
    strun = Path(sysconfig.get_path("scripts")) / "strun"
    command = [strun, "levelmatch_core.jwst_step.LevelMatchStep", "asn.json", "--fit_type_dithers=level+slope"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    names = sorted(path.name for path in tmp_path.glob("*.fits"))
    assert names == sorted(name.replace("_cal", "_levelmatch") for name in levels)
    off = []
    for name, level in levels.items():
        with (
            datamodels.open(folder / name) as came,
            datamodels.open(tmp_path / name.replace("_cal", "_levelmatch")) as went,
        ):
            off.append(np.median((came.data - went.data)[came.dq == 0]) - level)
    assert np.ptp(off) < SIZE
    assert "stpipe.level_match" in done.stderr + done.stdout


def test_a_program_of_another_suffix_keeps_its_names(tmp_path):
    pytest.importorskip("gwcs")
    write_webb(tmp_path / "in", PROGRAM, suffix="tweakregstep")
    step = LevelMatchStep(output_dir=str(tmp_path), save_results=True)
    step.run([str(path) for path in sorted((tmp_path / "in").glob("*.fits"))])
    assert all(path.name.endswith("_mirimage_levelmatch.fits") for path in tmp_path.glob("*.fits"))
