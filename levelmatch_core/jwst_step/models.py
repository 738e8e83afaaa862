"""Models of JWST's pipeline: as files that levelmatch reads, and corrected as the files that it writes."""

from collections.abc import Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from stdatamodels.jwst import datamodels
from stpipe.library import AbstractModelLibrary

from levelmatch_core.errors import UsageError
from levelmatch_core.images.associations import is_association, science_members

ALIAS = "level_match"
"""The short name of the step: `strun level_match`, `meta.cal_step.level_match`."""

Model = Any
"""A datamodel."""
Models = Any
"""A ModelLibrary, or a list of datamodels."""

T = TypeVar("T")


def opened(given: object, *, in_memory: bool, copied: bool) -> Models:
    """Return what a step was given as models.

    Parameters
    ----------
    given
        An association (its path or content), a file, a datamodel, several of them, or a library.
    in_memory
        Whether all models of an association are held in memory at once.
    copied
        Whether models are copied, so that those that were given stay as they are; a library never is.

    Returns
    -------
    ModelLibrary or list of datamodels
        A library of an association where jwst is installed, which has that class.

    Raises
    ------
    UsageError
        If it is none of these, or empty.
    """
    if isinstance(given, AbstractModelLibrary):
        return given
    if isinstance(given, MutableMapping) or (isinstance(given, str | Path) and is_association(Path(given))):
        return _of_association(given, in_memory=in_memory)
    parts = [given] if isinstance(given, str | Path | datamodels.JwstDataModel) else given
    if not isinstance(parts, Iterable):
        message = f"input of type {type(given).__name__}: expected an association, a ModelLibrary or datamodels"
        raise UsageError(message)
    models = [_model(part, copied=copied) for part in parts]
    if not models:
        message = "no datamodel was given: expected an association, a ModelLibrary or several datamodels"
        raise UsageError(message)
    return models


def _of_association(given: object, *, in_memory: bool) -> Models:
    try:
        from jwst.datamodels import ModelLibrary  # noqa: PLC0415 - may be missing
    except ImportError:
        if not isinstance(given, str | Path):
            message = "an association as a dict needs jwst's ModelLibrary: pip install jwst, or give a file"
            raise UsageError(message) from None
        return [datamodels.open(path) for path in science_members(Path(given))]
    if isinstance(given, str | Path):
        science_members(Path(given))  # says what is missing
    return ModelLibrary(given, asn_exptypes=["science"], on_disk=not in_memory)


def _model(part: object, *, copied: bool) -> Model:
    """Return a datamodel.

    Raises
    ------
    UsageError
        If it is neither one nor the path of one.
    """
    if isinstance(part, str | Path):
        if not Path(part).is_file():
            message = f"input {part}: no such file; expected an association, or files of datamodels"
            raise UsageError(message)
        return datamodels.open(part)
    if not isinstance(part, datamodels.JwstDataModel):
        message = f"input of type {type(part).__name__}: expected datamodels, or paths of their files"
        raise UsageError(message)
    return part.copy() if copied else part


def each_science_model(models: Models, function: Callable[[Model], T], *, modify: bool) -> list[T]:
    """Return what a function returns of each science exposure, one of which is in memory at a time if on disk.

    Parameters
    ----------
    models
        A library or list.
    function
        It takes a model.
    modify
        Whether it changes the model.
    """
    if not isinstance(models, AbstractModelLibrary):
        return [function(model) for model in models]
    members = [member for product in models.asn["products"] for member in product["members"]]
    found = []
    with models:
        for index, member in enumerate(members):
            if str(member["exptype"]).lower() != "science":
                continue
            model = models.borrow(index)
            try:
                found.append(function(model))
            finally:
                models.shelve(model, index, modify=modify)
    return found


def write_input(model: Model, folder: Path) -> Path:
    """Write what levelmatch reads of a model into a folder: image, errors, data quality, WCS and header.

    Raises
    ------
    UsageError
        If it is no image, or another one has its name.
    """
    name = f"{Path(model.meta.filename or 'model').stem}.fits"
    if not isinstance(model, datamodels.ImageModel) or np.ndim(model.data) != 2:
        message = f"{name}: a {type(model).__name__} of shape {np.shape(model.data)}; expected a 2-D ImageModel (_cal)"
        raise UsageError(message)
    path = folder / name
    if path.exists():
        message = f"two models are called {name} (meta.filename); give them different names"
        raise UsageError(message)
    with datamodels.ImageModel(data=model.data, err=model.err, dq=model.dq) as file:
        file.update(model, extra_fits=True)
        if model.meta.hasattr("wcs"):
            file.meta.wcs = model.meta.wcs
        file.save(path)
    return path


def take_over(model: Model, corrected: Path) -> None:
    """Put into a model what its corrected file holds: image, data quality, our cards, and the background if written."""
    with datamodels.open(corrected) as file:
        model.data = np.array(file.data, dtype=np.asarray(model.data).dtype)
        model.dq = np.array(file.dq)
        model.extra_fits = file.extra_fits.instance
        if file.meta.hasattr("background"):
            model.meta.background = file.meta.background.instance


def record_state(model: Model, state: str) -> None:
    """Record the state of the step in a model, COMPLETE or SKIPPED, as other steps do."""
    setattr(model.meta.cal_step, ALIAS, state)
