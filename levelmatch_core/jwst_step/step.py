"""The step: models in, corrected models out."""

import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from stpipe import Step, config_parser

from levelmatch_core.errors import UsageError
from levelmatch_core.jwst_step.models import (
    ALIAS,
    Model,
    Models,
    each_science_model,
    opened,
    record_state,
    take_over,
    write_input,
)
from levelmatch_core.jwst_step.spec import settings_of_parameters, spec_of_settings
from levelmatch_core.library import match_levels
from levelmatch_core.match_result import LevelMatch
from levelmatch_core.matching.corrections import Correction, Status
from levelmatch_core.products.corrected.known_solution import PRODUCTS
from levelmatch_core.products.corrected.write import products_of, write_corrected
from levelmatch_core.settings import MatchSettings

logger = logging.getLogger(f"stpipe.{ALIAS}")  # below stpipe's, so that a pipeline with this hook shows it
_SUFFIX = re.compile(r"(.+)_(?:cal|calints|crf|crfints|i2d|rate|[a-z]+step)")
_COMPLETE = {Status.MATCHED, Status.REFERENCE, Status.ALONE}


class LevelMatchStep(Step):
    """Match the levels of overlapping exposures: the corrections are subtracted from their images."""

    class_alias = ALIAS
    reference_file_types: ClassVar[list[str]] = []

    spec = f"""
    output_ext = string(default='.fits')  # Output file type
    output_use_model = boolean(default=True)  # Files are named as their models
    suffix = string(default='levelmatch')  # Suffix of output files
    in_memory = boolean(default=True)  # Whether the models of an association are in memory all at once
    report_dir = string(default=None)  # Folder for report, tables, mosaics and figures; None writes none of them
    {spec_of_settings()}
    """

    def process(self, input_models: object) -> Models:
        """Match levels.

        Parameters
        ----------
        input_models
            An association (path or content), a ModelLibrary, datamodels or their files.

        Returns
        -------
        ModelLibrary or list of datamodels, or one datamodel if one was given
            The same library, corrected; copies of datamodels unless the step is part of a pipeline. Each has
            `meta.cal_step.level_match`: COMPLETE, or SKIPPED where nothing connects the exposure to the others.

        Raises
        ------
        UsageError
            If the input or a parameter cannot be used.
        NoInputError
            If no exposure is usable.
        """
        models = opened(input_models, in_memory=self.in_memory, copied=self.parent is None)
        settings = settings_of_parameters(vars(self))
        with tempfile.TemporaryDirectory(prefix="levelmatch-") as scratch:
            folder = Path(scratch)
            files = each_science_model(models, lambda model: write_input(model, folder), modify=False)
            result = match_levels(files, self.report_dir, settings)
            _log(result)
            self._correct(models, result, settings, folder)
        alone = isinstance(models, list) and not isinstance(input_models, Sequence)
        return models[0] if alone else models

    def _correct(self, models: Models, result: LevelMatch, settings: MatchSettings, folder: Path) -> None:
        """Correct the models by the corrected files, of which one at a time is on disk."""
        parts_of = products_of(result.corrections)
        _refuse_two_in_one(parts_of)
        grids = {match.field.name: match.grid for match in result.fields}

        def correct(model: Model) -> None:
            name = f"{Path(model.meta.filename or 'model').stem}.fits"
            parts = parts_of.get(name, [])
            if parts and result.output is not None:
                take_over(model, result.output / PRODUCTS / name)
            elif parts:
                corrected = folder / "corrected.fits"
                made = write_corrected(corrected, parts, grids, settings)
                for note in made.notes:
                    logger.warning("%s", note)
                take_over(model, corrected)
                corrected.unlink()
            done = bool(parts) and all(part.status in _COMPLETE for part in parts)
            record_state(model, "COMPLETE" if done else "SKIPPED")

        each_science_model(models, correct, modify=True)

    @staticmethod
    def remove_suffix(name: str) -> tuple[str, str]:
        """Return a name without the suffix of its product, and what stands between them."""
        found = _SUFFIX.fullmatch(name)
        return (found[1] if found else name), "_"

    @classmethod
    def get_config_from_reference(cls, *_dataset: object, **_options: object) -> Any:  # noqa: ANN401 - stpipe's
        """Return no parameters: CRDS has none for this step, and is not asked."""
        return config_parser.config_from_dict({})

    @staticmethod
    def get_stpipe_loggers() -> tuple[str, ...]:
        """Return the loggers whose lines are shown."""
        return ("stpipe", "levelmatch_core", "stdatamodels", "py.warnings")


def _refuse_two_in_one(parts_of: Mapping[str, Sequence[Correction]]) -> None:
    """Refuse two models that make one image.

    Raises
    ------
    UsageError
        If there are such.
    """
    for name, parts in parts_of.items():
        files = sorted({part.exposure.file for part in parts})
        if len(files) > 1:
            message = (
                f"{' and '.join(files)} form one image ({name}), which a step cannot return: take files that hold "
                f"both, recombine_lyot=false, or `levelmatch run`"
            )
            raise UsageError(message)


def _log(result: LevelMatch) -> None:
    """Say how good it is, and what was left out."""
    logger.info("%s: %s", result.grade.value, result.verdict)
    for failure in result.failures:
        logger.warning("left out: %s", failure.reason)
    for one in result.corrections:
        if one.status is Status.UNTIED:
            logger.warning("%s: nothing connects it to the others", one.exposure.name)
        else:
            logger.info("%s: %s, level %.6g %s", one.exposure.name, one.status, one.total.level, one.exposure.unit)
