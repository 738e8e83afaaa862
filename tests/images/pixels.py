"""The pixels of an exposure, as the library reads them."""

from levelmatch_core.images.exposure import Exposure
from levelmatch_core.images.reading import Pixels, read_exposure


def read_pixels(exposure: Exposure) -> Pixels:
    """Return the pixels without the WCS that is read with them."""
    return read_exposure(exposure)[1]
