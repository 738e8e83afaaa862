"""Nothing that is given is without effect: it acts, or is refused with what was expected."""

import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core import LevelMatchStep
from levelmatch_core.errors import SettingsError, UsageError
from levelmatch_core.products.figures import pair as drawing


def network(count=6, seed=3, k=1):
    """Return the matrices of a chain of members with a few closing pairs, and their true corrections."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(count, k))
    delta = true[:, None] - true[None, :]
    near = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    valid = ((near > 0) & (near < 3)).astype(int)
    return (delta * valid[..., None]).squeeze(-1) if k == 1 else delta * valid[..., None], valid, true


def call(step, delta, valid, **options):
    return step.find_optimum_deltas(delta, 1000 * valid, 0.1 * valid, valid, valid, **options)


def test_fit_types_are_those_of_the_spec_and_its_prose(step, program, tmp_path):
    for wrong in ("plane", "slope", "", None):
        for use in (
            lambda kind: step.match_dithers(program.tiles, kind),
            lambda kind: step.match_mosaic_tiles(program.tiles, kind),
            lambda kind: step.get_per_dither_delta(program.tiles, kind),
            lambda kind: step.calculate_delta(program.tiles, kind),
            lambda kind: step.get_level_match(*program.tiles[0][:2], kind),
            lambda kind: call(step, *network()[:2], fit_type=kind),
            lambda kind: LevelMatchStep(tmp_path, tmp_path, None, 1, None, fit_type_dithers=kind),
        ):
            with pytest.raises(SettingsError, match=r"level\+slope"):
                use(wrong)
    prose = step.get_level_match(*program.tiles[0][:2], "level+match").coefficients
    assert len(prose) == 3
    np.testing.assert_array_equal(prose, step.get_level_match(*program.tiles[0][:2], "level+slope").coefficients)
    assert LevelMatchStep("a", "b", None, 1, None, fit_type_dithers="level+match").fit_type_dithers == "level+slope"


def test_settings_are_attributes_that_act_or_are_refused(step, program):
    assert (step.procs, step.band, step.sigma, step.weight_method, step.overwrite) == (1, None, 3, "equal", False)
    file = program.tiles[0][0]
    with fits.open(file) as hdus:
        header, shape = hdus["SCI"].header, hdus["SCI"].data.shape
    before = step.calculate_delta(program.tiles[0]).rms_mat[1, 0]
    step.sigma = 1.5
    assert step.settings.sigma == 1.5
    assert step.calculate_delta(program.tiles[0]).rms_mat[1, 0] < 0.8 * before
    step.sigma = 3
    step.fit_type_mosaic_tiles = "level+match"
    assert step.fit_type_mosaic_tiles == "level+slope"
    for name, value in {"sigma": -1, "fit_type_dithers": "plane", "procs": 0, "weight_method": "best"}.items():
        with pytest.raises(SettingsError, match=name):
            setattr(step, name, value)
    with pytest.raises(SettingsError, match=r"unknown setting 'do_sigma_cilp': did you mean do_sigma_clip"):
        step.do_sigma_cilp = True
    with pytest.raises(SettingsError, match="expected MatchSettings"):
        step.settings = {"sigma": 4}
    with pytest.raises(AttributeError, match="no attribute 'sigmma'"):
        step.sigmma  # noqa: B018
    assert "rms_sig_limit" in dir(step)
    assert header["NAXIS"] == len(shape)


def test_other_settings_are_given_to_the_constructor_by_name():
    step = LevelMatchStep("in", "out", None, 1, None, slope_prior=0.3, solver="iterative")
    assert (step.slope_prior, step.solver) == (0.3, "iterative")
    with pytest.raises(SettingsError, match="slope_prior"):
        LevelMatchStep("in", "out", None, 1, None, slope_prior=-1)
    with pytest.raises(SettingsError, match="did you mean slope_prior"):
        LevelMatchStep("in", "out", None, 1, None, slope_priors=1)


def test_the_slope_prior_of_the_constructor_acts(planes, tmp_path):
    def slopes(**further):
        step = LevelMatchStep(planes.folder, tmp_path, "cal", 1, None, **further)
        found = step.match_mosaic_tiles(planes.tiles, "level+slope").values()
        return np.array([plane.slope_x for plane in found])

    assert np.ptp(slopes(slope_prior=1e-4)) < 0.1 * np.ptp(slopes(slope_prior="off"))


def test_options_of_the_iterative_solver_act(step):
    delta, valid, true = network()
    exact = call(step, delta, valid, ref_idx=0)
    np.testing.assert_allclose(exact, true[:, 0] - true[0, 0], atol=1e-9)
    iterative = call(step, delta, valid, ref_idx=0, solver="iterative")
    np.testing.assert_allclose(iterative, exact, atol=1e-4)
    assert not np.array_equal(iterative, exact)
    few = call(step, delta, valid, ref_idx=0, n_iter=2)  # an option of the iterative solver asks for it
    assert np.max(np.abs(few - exact)) > 0.1
    delta, valid, true = network(count=60)  # long enough to converge slowly
    for loose in ({"convergence_abs_tol": 1.0}, {"convergence_rel_tol": 0.3}):
        far = call(step, delta, valid, ref_idx=0, **loose) - (true[:, 0] - true[0, 0])
        assert 1e-3 < np.max(np.abs(far)) < 10
    noisy, valid, true = network(k=3)
    noisy = noisy + 0.1 * np.random.default_rng(1).normal(size=noisy.shape)
    noisy = noisy - noisy.swapaxes(0, 1)
    few, many = (call(step, noisy, valid, fit_type="level+slope", n_draws=n, solver="iterative") for n in (3, 400))
    assert np.max(np.abs(few - many)) > 1e-3
    np.testing.assert_allclose(many - many.mean(0), 2 * (true - true.mean(0)), atol=0.5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"n_iter": 0}, "n_iter"),
        ({"n_draws": -1}, "n_draws"),
        ({"convergence_abs_tol": -1.0}, "convergence_abs_tol"),
        ({"convergence_rel_tol": float("nan")}, "convergence_rel_tol"),
        ({"solver": "montage"}, "solver"),
        ({"n_iter": 5, "solver": "least_squares"}, "does not iterate"),
    ],
)
def test_nonsense_is_refused(step, options, expected):
    delta, valid, _ = network()
    with pytest.raises(SettingsError, match=expected):
        call(step, delta, valid, **options)


def test_limits_of_the_clipped_fit_are_checked_and_act(step, program):
    pair = program.tiles[0][:2]
    for wrong in ({"maxiters": 0}, {"plane_fit_maxiters": -3}, {"plane_fit_abs_tol": -1}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            step.get_level_match(*pair, "level", **wrong)
    step.sigma = 1.8
    for kind, name in (("level", "maxiters"), ("level+slope", "plane_fit_maxiters")):
        one, many = (step.get_level_match(*pair, kind, **{name: n}).rms for n in (1, 20))
        assert many < one


def test_matrices_are_lists_or_arrays_with_both_triangles(step):
    delta, valid, true = network()
    listed = step.find_optimum_deltas(
        *(matrix.tolist() for matrix in (delta, 1000 * valid, 0.1 * valid, valid, valid)), ref_idx=np.int64(1)
    )
    np.testing.assert_allclose(listed, true[:, 0] - true[1, 0], atol=1e-9)
    with pytest.raises(UsageError, match=r"delta_mat: \[0, 1\] is .* both triangles filled .* antisymmetric"):
        call(step, np.triu(delta), np.triu(valid))
    with pytest.raises(UsageError, match="antisymmetric"):
        call(step, np.abs(delta), valid)
    holed = np.where(valid > 0, np.nan, 0.0)
    with pytest.raises(UsageError, match="finite numbers"):
        call(step, holed, valid)
    with pytest.raises(UsageError, match="rms_mat is no array of numbers"):
        step.find_optimum_deltas(delta, valid, [[1.0], [1.0, 2.0]], valid, valid)
    with pytest.raises(UsageError, match=r"expected delta_mat \(N, N, 3\)"):
        call(step, delta, valid, fit_type="level+slope")
    with pytest.raises(UsageError, match="matrices of shapes"):
        call(step, delta[:, :3], valid)


@pytest.mark.parametrize("wrong", [6, -1, 1.5, True, "0", [0]])
def test_a_reference_that_is_no_member_is_refused(step, wrong):
    delta, valid, _ = network()
    with pytest.raises(UsageError, match="expected the index of a member, 0 to 5"):
        call(step, delta, valid, ref_idx=wrong)


def test_plots_lie_in_the_steps_plot_folder_in_the_datas_unit(step, program, monkeypatch):
    units = []
    draw = drawing.draw_pair
    monkeypatch.setattr(
        drawing, "draw_pair", lambda *given, unit, **more: (units.append(unit), draw(*given, unit=unit, **more))
    )
    name = step.get_plot_name(*program.tiles[0][:2])
    assert name.startswith(str(step.plot_dir))
    assert not step.plot_dir.exists()
    step.get_level_match(*program.tiles[0][:2], "level", plot_name=name)
    assert (step.plot_dir / name).read_bytes().startswith(b"\x89PNG")
    assert units == ["MJy/sr"]
    assert step.do_step().complete  # which takes a folder with other files in it for somebody else's
