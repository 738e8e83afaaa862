"""What a pixel's value is: a surface brightness, or the flux that falls into the pixel.

Flat-fielding makes a flat sky flat in counts, whatever the area of each pixel: calibrated counts are a surface
brightness, though their unit does not say so. A flux is what its unit calls one (Jy, erg, watt, maggies in each
pixel). An instrument's table may know better, and the user best of all.
"""

from typing import Literal

from levelmatch_core.images.wcs.pixel_area import is_counts, is_per_pixel
from levelmatch_core.settings import PixelChoice

PixelValues = Literal["surface_brightness", "flux"]


def pixel_values_of(unit: str, choice: PixelChoice, known: PixelValues | None) -> tuple[PixelValues, str]:
    """Return what a pixel's value is, and why.

    Parameters
    ----------
    unit
        BUNIT as written.
    choice
        The setting `pixel_values`.
    known
        What the instrument's table says; None where it says nothing.
    """
    if choice != "auto":
        return choice, f"pixel_values = {choice}"
    if known is not None:
        return known, "the instrument's table says so"
    if is_counts(unit):
        return "surface_brightness", "flat-fielded counts of a flat sky are flat"
    if is_per_pixel(unit):
        return "flux", "the unit is a flux in each pixel"
    return "surface_brightness", "the unit is no flux in each pixel"


def area_note(field: str, unit: str, values: PixelValues, why: str, part: float) -> str:
    """Return what to know of a field whose pixels differ in area.

    Parameters
    ----------
    field, unit
        What it is called, and its unit.
    values, why
        What its pixel values are, as :func:`pixel_values_of` has it.
    part
        By how much the largest pixel area exceeds the least, relative.
    """
    start = f"{field}: pixel areas differ by {100 * part:.3g} %, and {unit or 'values without a unit'}"
    if values == "flux":
        return (
            f"{start} is a flux in each pixel ({why}): matched per area of one pixel of the grid; "
            f"corrections are multiplied by each pixel's area when they are taken off"
        )
    return (
        f"{start} is taken for a surface brightness ({why}), which does not depend on the area; "
        f"if it is a flux in each pixel, set pixel_values=flux"
    )
