"""Every setting: its name, type, default, unit and source, checked in one place.

Names and defaults are those of the step that levelmatch succeeds (pjpipe's LevelMatchStep, as its documentation has
them); where its text is unsure the signature wins, and the field says so. Each field's `role` tells what it can
change: a cache key and the refusal of another setting on a finished output both read it.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, field_validator, model_validator

from levelmatch_core.errors import SettingsError
from levelmatch_core.files.regular import refuse_irregular
from levelmatch_core.instrument_tables import InstrumentTable, read_table
from levelmatch_core.presets import PRESETS, Preset

FitType = Literal["level", "level+slope"]
WcsSource = Literal["header", "gwcs"]
FitChoice = Literal["level", "level+slope", "auto"]
PixelChoice = Literal["auto", "surface_brightness", "flux"]
Role = Literal["input", "fit", "mask", "resample", "measure", "solve", "sky", "write", "draw", "run"]

FILES = ("levels", "locked", "pairs", "anchor_image", "exclude_regions")
"""Settings that name files and tiles: jobs carry what the files say, and hang on that, not on where they lie."""


def _setting(default: object, role: Role, description: str, **checks: Any) -> Any:  # noqa: ANN401 - as pydantic's Field
    return Field(default, description=description, json_schema_extra={"role": role}, **checks)


class MatchSettings(BaseModel):
    """All that a user may choose. Frozen; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    preset: Preset = _setting(
        "pjpipe",
        "run",
        "What settings are that are not given: 'pjpipe' the defaults of the step that levelmatch succeeds, 'best' what "
        "serves most skies best. `levelmatch run`, match_levels and the sample programs take 'best'. Single settings "
        "win over either.",
    )

    # -- which input ---------------------------------------------------------------------------------------------------
    band: str | None = _setting(
        None,
        "input",
        "Only exposures of this FILTER (or FILTER-PUPIL), case ignored; refused if none match. It also decides whether "
        "the Lyot (MIRI) and chip (NIRCam short) stages apply. None takes every band, each matched by itself.",
    )
    step_ext: str | None = _setting(
        None,
        "input",
        "Of folders take only *_<step_ext>.fits (and .fit, .fts, .gz and so on), such as 'cal' or 'crf'. None takes "
        "all.",
    )
    instruments: tuple[InstrumentTable, ...] = _setting(
        (),
        "input",
        "Cameras of your own: TOML tables (extension names, bits of the data quality, what names band and tile, a "
        "window that is never used), which are asked before those that levelmatch knows. Files in a settings file are "
        "relative to it. What counts is their content, which run.json keeps.",
    )
    recombine_lyot: bool = _setting(
        False,
        "input",
        "MIRI: match the Lyot window to the main chip and put both into one image. The main chip keeps correction 0.",
    )
    combine_nircam_short: bool = _setting(
        False, "input", "NIRCam: match the four short-wavelength chips of a module, then treat them as one tile."
    )
    checksums: Literal["verify", "ignore"] = _setting(
        "verify",
        "input",
        "Hold DATASUM and CHECKSUM against the bytes: an image of which one fails is left out by name. 'ignore' takes "
        "it; its corrected file keeps the sums that do not hold.",
    )
    wcs_source: WcsSource = _setting(
        "header",
        "input",
        "JWST: the WCS of each exposure is its header's SIP approximation, or the gwcs in its ASDF extension that the "
        "header approximates. 'gwcs' needs the extra levelmatch[jwst]; files without one keep their header's. Where "
        "the extra is installed, a note tells if the two differ by more than 0.1 pixel.",
    )
    pixel_values: PixelChoice = _setting(
        "auto",
        "input",
        "What a pixel's value is: a flux is matched per area where areas differ by more than 0.1 %. 'auto': counts and "
        "all that is per area are surface brightness; Jy, erg, watt and maggies in each pixel are a flux.",
    )
    plane: int | None = _setting(
        None,
        "input",
        "Which plane of cubes (more than two axes longer than 1) is matched, from 1, the third axis first; the others "
        "stay as they are. None refuses cubes.",
        ge=1,
    )
    blank: Literal["auto", "none"] | float = _setting(
        "auto",
        "input",
        "Which pixels, besides NaN, are blank, stay as they are and take part in nothing: 'auto': a constant that "
        "fills a region at an edge, or 1 % of an image, and 1e30, -32768 and their kind; or this value; or 'none'.",
    )
    companions: Literal["use", "ignore"] = _setting(
        "use", "input", "Weight maps and masks are never matched; 'use' masks what they give no weight or flag."
    )
    rates: Literal["auto", "on", "off"] = _setting(
        "auto", "input", "Divide counts by exposure times: 'auto' if these differ and zero points tell of no one scale."
    )

    # -- fit types -----------------------------------------------------------------------------------------------------
    fit_type_dithers: FitChoice = _setting(
        "level",
        "fit",
        "What to fit between the dithers of a tile: a constant, or a plane. 'auto' measures both and takes what "
        "predicts left-out pairs better. (pjpipe's text says 'level+match'; its signature, 'level+slope', holds.)",
    )
    fit_type_recombine_lyot: FitChoice = _setting("level", "fit", "The same between Lyot window and main chip.")
    fit_type_combine_nircam_short: FitChoice = _setting("level", "fit", "The same between the four chips.")
    fit_type_mosaic_tiles: FitChoice = _setting("level", "fit", "The same between the tiles of the mosaic.")

    # -- what is known beforehand --------------------------------------------------------------------------------------
    levels: Path | None = _setting(
        None,
        "solve",
        "Table (CSV or ECSV: tile, level, error) of corrections of tiles that are known from elsewhere, in the data's "
        "unit: normal priors on the mosaic stage's levels, which fix their component's zero. An error of 0 locks. A "
        "level of 0 for every tile, with the scatter that is expected, bounds the drift of long strips.",
    )
    locked: tuple[str, ...] = _setting(
        (), "solve", "Tiles whose correction in the mosaic stage is 0, or their level in `levels`: exactly."
    )
    pairs: Path | None = _setting(
        None,
        "solve",
        "Table (CSV or ECSV: first, second, action; for ties difference, error) of pairs of tiles: 'force' uses a pair "
        "whatever its numbers say, 'forbid' never uses it, 'tie' states the difference of their corrections, second - "
        "first, in the data's unit, also between tiles that do not overlap.",
    )
    anchor_image: Path | None = _setting(
        None,
        "solve",
        "An image of the same band and unit, such as a survey's: one more member of the mosaic stage, whose correction "
        "is 0, for zero and large-scale slope. It is never written, nor averaged into the mosaic.",
    )

    # -- masks ---------------------------------------------------------------------------------------------------------
    do_sigma_clip: bool = _setting(False, "mask", "Mask sources (segmentation, dilated) for measuring only.")
    sigma: float = _setting(
        3.0, "mask", "Threshold of source masks and limit of all sigma-clipping, in standard deviations.", gt=0
    )
    npixels: int = _setting(
        3,
        "mask",
        "Connected pixels that make a source. (pjpipe's text says 5, its signature 3, which holds.)",
        ge=1,
    )
    dilate_size: int = _setting(7, "mask", "Side of the square by which source masks are dilated, pixels.", ge=1)
    max_iters: int = _setting(20, "mask", "Most iterations of sigma-clipping for masks and the local sky.", ge=1)

    exclude_regions: Path | None = _setting(
        None,
        "mask",
        "DS9 region file (on the sky), or a FITS image with a celestial WCS that is not 0 where pixels are to be left "
        "out: saturated stars, ghosts, persistence. Applied before resampling, so that nothing of it is measured.",
    )

    # -- resampling ----------------------------------------------------------------------------------------------------
    reproject_func: Literal["interp", "spline", "adaptive", "exact"] = _setting(
        "interp",
        "resample",
        "Resampling: bilinear, a cubic spline (ours), or reproject's adaptive or exact (flux-conserving) method. "
        "Bilinear interpolation blurs by the sub-pixel phase, which biases crowds and sharp nebula 5 times more than "
        "noise. The spline takes pixels that stand out alone (cosmic rays, by 7 sigma of the noise) as invalid.",
    )

    # -- pair fits -----------------------------------------------------------------------------------------------------
    statistic: Literal["median", "clipped_mean", "huber", "adaptive"] = _setting(
        "median",
        "measure",
        "What a pair's difference is, of the pixels that clipping leaves: their median (for planes, which have none, "
        "least squares), their mean (planes: the same least squares), Huber's estimate, or (ours) the median where "
        "Huber's estimate contradicts it, else that, and nearly the mean where all pairs of a group agree that there "
        "is only noise. The median needs 1.25 times the noise of the mean and fears faint sources least.",
    )
    match_psf: bool = _setting(
        False,
        "measure",
        "Fit and take out (ours) what two PSFs or a small misregistration make of a pair's difference, by a kernel of "
        "5 x 5 pixels that moves no flux, where it explains part of the difference.",
    )
    maxiters: int = _setting(10, "measure", "Most iterations of sigma-clipping a pair's differences.", ge=1)
    plane_fit_maxiters: int = _setting(20, "measure", "Most iterations of a pair's clipped plane fit.", ge=1)
    plane_fit_abs_tol: float = _setting(
        1e-8, "measure", "A plane fit has settled when no coefficient moves by more (data unit over the overlap).", ge=0
    )
    plane_fit_rel_tol: float = _setting(1e-5, "measure", "The same relative to the coefficient.", ge=0)

    # -- rejection and solve -------------------------------------------------------------------------------------------
    weight_method: Literal["equal", "npix", "rms", "error"] = _setting(
        "equal",
        "solve",
        "Weight of a pair: every pair the same, its pixels, 1/rms^2, or (ours) the inverse variance of its fit: "
        "noise of correlated pixels, and what the pair shows beyond it.",
    )
    stack_method: Literal["mean", "robust"] = _setting(
        "mean",
        "solve",
        "What the members of a group become for the next stage: their mean, or (ours) that weighed by the inverse "
        "variance of their noise, without values that stand out from the median of three and more (cosmic rays).",
    )
    min_area_percent: float = _setting(
        0.002,
        "solve",
        "A pair with fewer pixels than this fraction of the average pair is rejected. A fraction in spite of its "
        "name: 0.002 = 0.2 %.",
        ge=0,
        le=1,
    )
    min_linear_frac: float = _setting(
        0.2,
        "solve",
        "A pair is kept if its overlap is at least this fraction of either member's extent along either detector axis.",
        ge=0,
        le=1,
    )
    rms_sig_limit: float = _setting(
        2.0, "solve", "A pair whose rms exceeds the mean rms by this many standard deviations is rejected.", ge=0
    )
    solver: Literal["least_squares", "iterative"] = _setting(
        "least_squares", "solve", "Sparse joint least squares, or pjpipe's Montage-like half steps."
    )
    robust: bool = _setting(
        False,
        "solve",
        "Leave out pairs that contradict the others, found by annealed redescending reweighting (least squares only).",
    )
    slope_prior: Literal["auto", "probable", "off"] | PositiveFloat = _setting(
        "auto",
        "solve",
        "Planes by least squares: 1 sigma of the slopes that are expected, as the change from a member's middle to its "
        "edge in the data's unit, which holds back ramps and bowls of the whole mosaic that no overlap can see. 'auto' "
        "learns it from the pairs; 'probable' holds few slopes more, and is 'auto' where the fit type is chosen.",
    )
    plane_gauge: Literal["reference", "mean"] = _setting(
        "reference",
        "solve",
        "What is zero where planes are matched between tiles: the reference's whole plane, which is taken out of all, "
        "so that the mosaic leans by the reference's own slopes; or the reference's level at its centre and the mean "
        "of all slopes, which keeps ramps over the whole mosaic small. They differ by one plane, the same for all.",
    )
    n_draws: int = _setting(25, "solve", "Iterative solver: points drawn from each pair's plane.", ge=3)
    n_iter: int = _setting(10_000, "solve", "Iterative solver: most sweeps.", ge=1)
    convergence_abs_tol: float = _setting(1e-8, "solve", "Iterative solver: absolute tolerance, data unit.", ge=0)
    convergence_rel_tol: float = _setting(1e-5, "solve", "Iterative solver: relative tolerance.", ge=0)
    seed: int = _setting(0, "solve", "Seed of the iterative solver's draws.", ge=0)
    reference: str | None = _setting(
        None,
        "solve",
        "The tile whose correction is 0 in its component. None chooses: closest in time to the dedicated backgrounds "
        "(DT_BGR), else the most usable pairs, then pixels, then name.",
    )

    # -- zero ----------------------------------------------------------------------------------------------------------
    do_local_subtraction: bool = _setting(
        True,
        "sky",
        "Take one constant a component from all its exposures: the source-masked, sigma-clipped median of the "
        "reference tile's first exposure. Off, with a warning, where fit_type_dithers is a plane.",
    )

    # -- corrected files -----------------------------------------------------------------------------------------------
    write_background: bool = _setting(
        False,
        "write",
        "JWST: let corrected files say what was subtracted (BKGLEVEL, BKGSUB, BKGMETH, and meta.background of the ASDF "
        "tree): resample and outlier detection take them as they are, a default skymatch step stops with an error "
        "instead of matching again. Off, what they said stays: set it where files carry a background that was "
        "computed and not subtracted, which resample would subtract after us.",
    )

    # -- figures, and how to run ---------------------------------------------------------------------------------------
    figures: Literal["none", "summary", "all"] = _setting(
        "all", "draw", "Figures: none, those of the whole field, or those and the worst and rejected pairs'."
    )
    max_points: int = _setting(
        10_000, "draw", "Most points in a histogram or scatter plot; the numbers always use all pixels.", ge=10
    )
    procs: int = _setting(1, "run", "Workers. The result does not depend on it.", ge=1)
    runner: Literal["threads", "processes", "dask"] = _setting(
        "threads",
        "run",
        "Who does the work: threads of this process, processes beside it, or a Dask cluster (the extra `dask`). The "
        "result does not depend on it. Python programs that choose processes or dask keep their own work under "
        "`if __name__ == '__main__':`.",
    )
    scheduler: str | None = _setting(
        None,
        "run",
        "Address of a running Dask scheduler, such as tcp://10.0.0.1:8786, for runner 'dask'; its workers see inputs, "
        "LEVELMATCH_HOME and output under the same paths. None starts `procs` workers on this machine.",
    )
    overwrite: bool = _setting(
        False, "run", "Replace an output that was made with other settings (only files that levelmatch wrote)."
    )
    settle_seconds: float = _setting(
        0.0,
        "run",
        "A file that was changed less than this long ago is still being written: it is pending, for the next run.",
        ge=0,
    )
    strict: bool = _setting(
        False, "run", "End at the first file, exposure or tile that fails, instead of going on without it."
    )

    @field_validator("instruments", mode="before")
    @classmethod
    def _tables(cls, given: object) -> object:
        """Read tables that are named by their files."""
        entries = [given] if isinstance(given, str | Path) else given
        if not isinstance(entries, list | tuple):
            return given
        return tuple(read_table(Path(entry)) if isinstance(entry, str | Path) else entry for entry in entries)

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:  # noqa: ANN401 - whatever is to be validated
        """Fill in what the preset holds, where it is not given."""
        if not isinstance(values, Mapping) or values.get("preset") not in PRESETS:
            return values
        return {**PRESETS[values["preset"]], **values}

    @model_validator(mode="after")
    def _scheduler_has_a_runner(self) -> Self:
        if self.scheduler is not None and self.runner != "dask":
            message = f"scheduler={self.scheduler!r} needs runner='dask', and runner is {self.runner!r}"
            raise ValueError(message)
        return self

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Validate `values`, with the nearest valid names in the error.

        Raises
        ------
        SettingsError
            If a name is unknown or a value has the wrong type or range.
        """
        unknown = [name for name in values if name not in cls.model_fields]
        if unknown:
            raise SettingsError("; ".join(cls.no_such(name) for name in unknown))
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            lines = [f"setting {'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg']}" for e in error.errors()]
            raise SettingsError("; ".join(lines)) from error

    @classmethod
    def no_such(cls, name: str) -> str:
        """Return what to say of a name that is no setting: the nearest ones."""
        near = difflib.get_close_matches(name, cls.model_fields, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"valid names: {', '.join(cls.model_fields)}"
        return f"unknown setting {name!r}: {hint}"

    @classmethod
    def load(cls, config: Path | None = None, assignments: Iterable[str] = (), **named: object) -> Self:
        """Read a TOML file, then `NAME=VALUE` assignments, then named values; the later wins. The preset is `best`.

        Parameters
        ----------
        config
            TOML file with settings at its top level.
        assignments
            `NAME=VALUE`; the value is read as TOML, and as a bare string where it is none.
        **named
            Settings by name; None is passed over.

        Raises
        ------
        SettingsError
            If the file cannot be read, or as in :meth:`from_mapping`.
        """
        values: dict[str, Any] = {}
        if config is not None:
            refuse_irregular(config, SettingsError, f"settings file {config}")
            try:
                values.update(tomllib.loads(config.read_text(encoding="utf-8")))
                values.update(_beside(config, values))
            except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
                message = f"settings file {config}: {error}"
                raise SettingsError(message) from error
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals:
                message = f"--set {assignment!r}: expected NAME=VALUE"
                raise SettingsError(message)
            values[name.strip()] = toml_value(name.strip(), text.strip())
        values.update({name: value for name, value in named.items() if value is not None})
        return cls.from_mapping({"preset": "best", **values})

    def of_role(self, *roles: Role) -> dict[str, Any]:
        """Return the settings with one of these roles: what a step's cache key must hold."""
        return {
            name: getattr(self, name) for name, role in roles_by_name().items() if role in roles and name not in FILES
        }

    def fit_choice(self, stage: str) -> FitChoice:
        """Return what was asked for as the fit type of a stage, by the stage's name."""
        value: FitChoice = getattr(self, f"fit_type_{stage}")
        return value

    def fit_types(self, stage: str) -> tuple[FitType, ...]:
        """Return the fit types that a stage is solved with: one, or both where the better one is to be chosen."""
        choice = self.fit_choice(stage)
        return ("level", "level+slope") if choice == "auto" else (choice,)

    def fit_type(self, stage: str) -> FitType:
        """Return the fit type of a stage that has one; levels, the first of the two, where it is to be chosen."""
        return self.fit_types(stage)[0]


@cache
def roles_by_name() -> dict[str, Role]:
    """Return each setting's role."""
    return {name: field.json_schema_extra["role"] for name, field in MatchSettings.model_fields.items()}  # type: ignore[index,misc]


def _beside(config: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings whose files are named relative to the settings file, with the paths that these have."""
    tables = values.get("instruments", [])
    entries = tables if isinstance(tables, list) else [tables]
    located = [config.parent / entry if isinstance(entry, str) else entry for entry in entries]
    return {"instruments": located} if located else {}


def toml_value(name: str, text: str) -> object:
    """Read a value as TOML, or as a bare string; `none` is no value, unless the setting has a choice of that name."""
    field = MatchSettings.model_fields.get(name)
    if text.lower() in {"none", "null"} and not (field and repr(text) in str(field.annotation)):
        return None
    lowered = text.lower() if text.lower() in {"true", "false"} else text
    try:
        return tomllib.loads(f"value = {lowered}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
