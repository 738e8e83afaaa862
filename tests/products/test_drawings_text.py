"""What is written in drawings fits where it is written."""

import re
from typing import Any

from levelmatch_core.products.drawings.differences import differences
from levelmatch_core.products.drawings.matrices import AFTER, matrix

LETTER = 4.4
"""Least width of a letter of 9 pixels."""


def test_names_of_pairs_end_within_the_drawing(make: Any) -> None:
    drawing = differences(make.match(4, 1).stages[-1], "")
    markup = str(drawing.in_page())
    height = float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', markup)[1])
    turned = re.findall(r'<text [^>]*?y="([\d.]+)"[^>]*?rotate\(90[^>]*>([^<]+)</text>', markup)
    assert turned
    assert all(float(y) + LETTER * 1.25 * len(label) <= height for y, label in turned)


def test_grey_is_explained_where_a_pair_was_rejected(make: Any) -> None:
    assert "grey: rejected" not in str(matrix(make.match(3, 1, reject=0).stages[-1], "", AFTER).in_page())
    assert "grey: rejected" in str(matrix(make.match(3, 1, reject=1).stages[-1], "", AFTER).in_page())
