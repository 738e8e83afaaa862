"""Settings: the spec's names and defaults, and what a wrong one is told."""

import pytest

from levelmatch_core.errors import SettingsError
from levelmatch_core.settings import MatchSettings, roles_by_name

SPEC = {
    "fit_type_dithers": "level",
    "fit_type_recombine_lyot": "level",
    "fit_type_combine_nircam_short": "level",
    "fit_type_mosaic_tiles": "level",
    "recombine_lyot": False,
    "combine_nircam_short": False,
    "do_local_subtraction": True,
    "sigma": 3,
    "npixels": 3,
    "dilate_size": 7,
    "max_iters": 20,
    "max_points": 10000,
    "do_sigma_clip": False,
    "weight_method": "equal",
    "min_area_percent": 0.002,
    "min_linear_frac": 0.2,
    "rms_sig_limit": 2,
    "reproject_func": "interp",
    "overwrite": False,
    "n_draws": 25,
    "n_iter": 10000,
    "convergence_abs_tol": 1e-08,
    "convergence_rel_tol": 1e-05,
    "maxiters": 10,
    "plane_fit_maxiters": 20,
    "plane_fit_abs_tol": 1e-08,
    "plane_fit_rel_tol": 1e-05,
}


def test_the_specs_defaults():
    settings = MatchSettings()
    assert {name: getattr(settings, name) for name in SPEC} == SPEC


def test_every_setting_says_what_it_is_and_what_it_changes():
    assert set(roles_by_name()) == set(MatchSettings.model_fields)
    assert all(field.description for field in MatchSettings.model_fields.values())


@pytest.mark.parametrize(
    ("assignment", "name", "value"),
    [
        ("sigma=2.5", "sigma", 2.5),
        ("do_sigma_clip=TRUE", "do_sigma_clip", True),
        ("weight_method=error", "weight_method", "error"),
        ("reference=none", "reference", None),
        ("figures=none", "figures", "none"),
        ("reference='none'", "reference", "none"),
        ("band=F770W", "band", "F770W"),
    ],
)
def test_assignments(assignment, name, value):
    assert getattr(MatchSettings.load(assignments=[assignment]), name) == value


def test_assignments_override_the_file_and_named_values_both(tmp_path):
    config = tmp_path / "settings.toml"
    config.write_text("sigma = 4\nnpixels = 5\nprocs = 1\n")
    settings = MatchSettings.load(config, ["npixels=6", "procs=2"], procs=3)
    assert (settings.sigma, settings.npixels, settings.procs) == (4, 6, 3)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("rms_sig_limt=3", "did you mean rms_sig_limit"),
        ("sigma=wide", "sigma='wide'"),
        ("sigma=-1", "greater than 0"),
        ("weight_method=best", "'equal'"),
        ("sigma", "NAME=VALUE"),
    ],
)
def test_what_is_wrong_is_said(assignment, message):
    with pytest.raises(SettingsError, match=message):
        MatchSettings.load(assignments=[assignment])
