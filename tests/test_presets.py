"""Presets: what settings are that are not given."""

import pytest

from flows.settings_help import described
from levelmatch_core.errors import SettingsError
from levelmatch_core.presets import BEST
from levelmatch_core.settings import MatchSettings


def test_the_defaults_are_those_of_the_step():
    plain = MatchSettings()
    assert plain.preset == "pjpipe"
    assert (plain.min_area_percent, plain.min_linear_frac, plain.rms_sig_limit) == (0.002, 0.2, 2.0)
    assert plain.weight_method == "equal"


def test_best_fills_in_what_is_not_given_and_single_settings_win():
    best = MatchSettings.from_mapping({"preset": "best"})
    assert {name: getattr(best, name) for name in BEST} == dict(BEST)
    mixed = MatchSettings.from_mapping({"preset": "best", "weight_method": "npix"})
    assert mixed.weight_method == "npix"
    assert mixed.min_linear_frac == BEST["min_linear_frac"]


def test_a_settings_file_or_an_option_says_which(tmp_path):
    config = tmp_path / "settings.toml"
    config.write_text('preset = "pjpipe"\nsigma = 4\n')
    assert MatchSettings.load().preset == "best"
    assert MatchSettings.load(config).preset == "pjpipe"
    assert MatchSettings.load(config, preset="best").weight_method == BEST["weight_method"]
    assert MatchSettings.load(None, ["weight_method=rms"]).weight_method == "rms"


def test_an_unknown_preset_is_refused():
    with pytest.raises(SettingsError, match="preset"):
        MatchSettings.from_mapping({"preset": "finest"})


def test_the_list_of_settings_shows_both():
    (weight,) = described(["weight_method"])
    assert (weight.default, weight.best) == ('"equal"', f'"{BEST["weight_method"]}"')


def test_what_is_written_down_reads_back_the_same():
    best = MatchSettings.from_mapping({"preset": "best", "sigma": 4.0})
    assert MatchSettings.from_mapping(best.model_dump(mode="json")) == best
