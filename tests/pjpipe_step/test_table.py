"""The table that maps the names of the step to where they live: complete, and every name in it exists."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from levelmatch_core import LevelMatchStep

TABLE = Path(__file__).resolve().parents[2] / "levelmatch_core" / "STEP.md"

# the spec's methods, word for word
METHODS = {
    "calculate_delta": "files, fit_type='level', stacked_image=False, procs=None",
    "do_step": "",
    "find_optimum_deltas": "delta_mat, npix_mat, rms_mat, lin_size_mat, valid_mat, fit_type='level', n_draws=25, "
    "n_iter=10000, convergence_abs_tol=1e-08, convergence_rel_tol=1e-05, ref_idx=None",
    "get_level_match": "files1, files2, fit_type, ref_x=0, ref_y=0, plot_name=None, maxiters=10, "
    "plane_fit_maxiters=20, plane_fit_abs_tol=1e-08, plane_fit_rel_tol=1e-05",
    "get_per_dither_delta": "dithers, fit_type='level', procs=1",
    "get_plot_name": "files1, files2",
    "get_reproject": "file, optimal_wcs, optimal_shape, stacked_image=False",
    "make_stacked_images": "dithers, stacked_dir, procs=1",
    "match_dithers": "dithers, fit_type='level'",
    "match_lyot_science": "dithers, fit_type='level'",
    "match_mosaic_tiles": "dithers, fit_type='level'",
    "match_nircam_short": "dithers, fit_type='level'",
}
PARALLEL = {
    "parallel_delta_matrix": "ij, file_reproj, files, fit_type='level', ref_x=0, ref_y=0",
    "parallel_get_reproject": "idx, files, optimal_wcs, optimal_shape, stacked_image=False",
    "parallel_make_stacked_image": "dither, out_dir",
    "parallel_match_lyot_science": "dither, stacked_dir, fit_type",
    "parallel_match_nircam_short": "dither, stacked_dir, fit_type",
    "parallel_per_dither_delta": "dither, fit_type='level'",
}


def rows():
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {line.split("`")[1]: line for line in lines}


@pytest.mark.parametrize(("name", "arguments"), [*METHODS.items(), *PARALLEL.items()])
def test_methods_have_the_specs_arguments(name, arguments):
    shown = [
        each.name if each.default is each.empty else f"{each.name}={each.default!r}"
        for each in inspect.signature(getattr(LevelMatchStep, name)).parameters.values()
        if each.kind is not each.KEYWORD_ONLY or each.default is each.empty  # what is ours beside the spec's
    ]
    assert ", ".join(shown[1:]) == arguments
    assert inspect.getdoc(getattr(LevelMatchStep, name))


def test_every_name_of_the_spec_is_in_the_table():
    assert set(rows()) == {"LevelMatchStep", *METHODS, *PARALLEL}
    for name in (*METHODS, *PARALLEL):
        assert f"`levelmatch_core.pjpipe_step.LevelMatchStep.{name}`" in rows()[name]


def test_every_name_in_the_table_exists():
    named = re.findall(r"`((?:levelmatch_core|flows)\.[\w.]+)`", TABLE.read_text(encoding="utf-8"))
    assert len(named) > 30
    for name in named:
        assert found(name) is not None, name


def test_every_row_names_a_test_that_exists():
    for name, row in rows().items():
        tests = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
        assert tests, name
        for file, test in tests:
            tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
            assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, row


def found(name):
    """Return what a dotted name leads to: the longest module of it, and attributes from there."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            thing = getattr(thing, part)
        return thing
    return None
