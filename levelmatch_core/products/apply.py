"""Corrected exposures: the input's bytes, but for the image minus its correction and the cards that say so."""

import gzip
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from levelmatch_core.errors import DuplicateExposureError, ShapeMismatchError
from levelmatch_core.images.exposure import Exposure, Window
from levelmatch_core.images.headers import quiet
from levelmatch_core.images.instruments import by_name
from levelmatch_core.images.reading import read_wcs
from levelmatch_core.matching.corrections import Correction, Status
from levelmatch_core.products.headers import LocalPlane, put_cards, put_window_cards
from levelmatch_core.products.rawfits import RawFile, RawHeader, open_raw, padded, renew_checksums
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.pixelmap import plane_on_image, sky_transforms
