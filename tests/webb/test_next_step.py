"""Level 3 of the jwst pipeline on our files, where jwst is installed: not in CI, for it needs an older asdf than ours.

The steps are called by themselves, so that no reference file is asked for.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

os.environ.setdefault("CRDS_PATH", str(Path(__file__).parent / "no_crds"))
jwst = pytest.importorskip("jwst", reason="jwst is not installed: the next pipeline step is not tried here")

from levelmatch_core import MatchSettings, match_levels  # noqa: E402 - after the skip
from levelmatch_core.images.instruments import by_name  # noqa: E402 - after the skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # jwst's own
]


@pytest.fixture(scope="module", params=[False, True], ids=["as it came", "write_background"])
def matched(request, webb, tmp_path_factory):
    out = tmp_path_factory.mktemp("matched") / "out"
    settings = MatchSettings(figures="none", write_background=request.param)
    match_levels(webb[0], out, settings)
    return request.param, sorted((out / "tiles").glob("*.fits"))


def library(files):
    from jwst.datamodels import ModelLibrary
    from stdatamodels.jwst import datamodels

    return ModelLibrary([datamodels.open(file) for file in files])


def levels_of(models):
    found = []
    with models:
        for index in range(len(models)):
            model = models.borrow(index)
            found.append((model.meta.background.level, model.meta.background.subtracted))
            models.shelve(model, index, modify=False)
    return found


def test_a_default_skymatch_matches_again_or_stops(matched):
    from jwst.skymatch import SkyMatchStep

    written, files = matched
    if written:
        with pytest.raises(ValueError, match="'subtract' step's specification is inconsistent"):
            SkyMatchStep().process(library(files))
        step = SkyMatchStep()
        step.subtract = True
        assert {subtracted for _, subtracted in levels_of(step.process(library(files)))} == {True}
    else:
        # it runs, and finds nothing of the tiles' steps of some 18 left
        levels = [level for level, _ in levels_of(SkyMatchStep().process(library(files)))]
        assert np.ptp(levels) < 2


# tweakreg and the source catalogue need reference files
OFFLINE = {"CRDS_SERVER_URL": "https://127.0.0.1:9", "STPIPE_DISABLE_CRDS_STEPPARS": "true"}
UNSERVED = ("tweakreg", "source_catalog")


@pytest.mark.parametrize("form", ["strun", "python"])
def test_level_3_runs_without_skymatch_as_report_and_readme_say(matched, webb, tmp_path, form):
    _, files = matched
    members = [{"expname": str(file), "exptype": "science"} for file in files]
    asn = {"asn_type": "image3", "asn_rule": "x", "asn_id": "a3001", "asn_pool": "x", "program": "1234"}
    asn["products"] = [{"name": "mosaic", "members": members}]
    (tmp_path / "asn.json").write_text(json.dumps(asn))
    shell, python = by_name("miri").next_step.split("\n\n")
    assert shell in (Path(__file__).parents[2] / "README.md").read_text()
    if form == "strun":
        program, *arguments = shell.split()
        further = [f"--steps.{step}.skip=true" for step in UNSERVED]
        command = [Path(sysconfig.get_path("scripts")) / program, *arguments, *further]
    else:
        further = "".join(f', "{step}": {{"skip": True}}' for step in UNSERVED)
        call = python.replace("True}}", "True}" + further + "}")
        command = [sys.executable, "-c", f"from jwst.pipeline import Image3Pipeline\n{call}"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | OFFLINE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    mosaic = fits.getdata(tmp_path / "mosaic_i2d.fits", "SCI")
    assert fits.getval(tmp_path / "mosaic_i2d.fits", "S_SKYMAT") == "SKIPPED"
    assert abs(step_across(mosaic)) < 0.2 * abs(step_across(resample_of(sorted(webb[0].glob("*.fits")))))


STEP = "levelmatch_core.jwst_step.LevelMatchStep"


@pytest.mark.parametrize("parameters", ["", "(fit_type_dithers='level+slope', weight_method='npix')"])
def test_our_step_stands_in_for_skymatch_within_level_3(webb, tmp_path, parameters):
    files = sorted(webb[0].glob("*.fits"))
    asn = {"asn_type": "image3", "asn_rule": "x", "asn_id": "a3001", "asn_pool": "x", "program": "1234"}
    asn["products"] = [{"name": "mosaic", "members": [{"expname": str(f), "exptype": "science"} for f in files]}]
    (tmp_path / "asn.json").write_text(json.dumps(asn))
    strun = Path(sysconfig.get_path("scripts")) / "strun"
    command = [strun, "calwebb_image3", "asn.json", "--steps.skymatch.skip=true"]
    command += [f'--steps.skymatch.pre_hooks="{STEP}{parameters}",']  # a list of one
    command += [f"--steps.{step}.skip=true" for step in UNSERVED]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | OFFLINE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "stpipe.level_match" in done.stderr + done.stdout
    mosaic = fits.getdata(tmp_path / "mosaic_i2d.fits", "SCI")
    assert abs(step_across(mosaic)) < 0.2 * abs(step_across(resample_of(files)))


@pytest.mark.parametrize("on_disk", [False, True])
def test_our_step_takes_a_library_and_returns_it(webb, tmp_path, on_disk):
    from jwst.datamodels import ModelLibrary

    from levelmatch_core.jwst_step import LevelMatchStep

    folder, levels = webb
    members = [{"expname": str(f), "exptype": "science"} for f in sorted(folder.glob("*.fits"))]
    shutil.copy(members[0]["expname"], tmp_path / "background_cal.fits")
    members.append({"expname": str(tmp_path / "background_cal.fits"), "exptype": "background"})
    asn = {"asn_type": "image3", "asn_id": "a3001", "asn_pool": "x", "products": [{"name": "m", "members": members}]}
    (tmp_path / "asn.json").write_text(json.dumps(asn))
    models = ModelLibrary(str(tmp_path / "asn.json"), on_disk=on_disk, temp_directory=tmp_path)
    done = LevelMatchStep().process(models)
    assert done is models
    off = []
    with done:
        for index in range(len(levels)):
            model = done.borrow(index)
            with fits.open(folder / model.meta.filename) as came:
                good = came["DQ"].data == 0
                off.append(np.median((came["SCI"].data - model.data)[good]) - levels[model.meta.filename])
            done.shelve(model, index, modify=False)
    assert np.ptp(off) < 0.1


def test_outlier_detection_and_resample_take_the_files(matched, webb):
    from jwst.outlier_detection import OutlierDetectionStep
    from jwst.resample import ResampleStep

    _, files = matched
    outliers = OutlierDetectionStep()
    outliers.weight_type = "exptime"
    models = outliers.process(library(files))
    resample = ResampleStep()
    resample.weight_type = "exptime"
    after = resample.process(models).data
    before = resample_of(sorted(webb[0].glob("*.fits")))
    assert after.shape == before.shape
    assert abs(step_across(after)) < 0.2 * abs(step_across(before))


def resample_of(files):
    from jwst.resample import ResampleStep

    step = ResampleStep()
    step.weight_type = "exptime"
    return step.process(library(files)).data


def step_across(image):
    """Return how much the two sides of a mosaic's middle differ."""
    middle = image.shape[1] // 2
    return np.nanmedian(image[:, : middle - 40]) - np.nanmedian(image[:, middle + 40 :])
