r"""Text from files, made fit to be shown: what would steer a terminal, or turn a line around, is shown and not sent.

A name or a header's value may hold escape sequences that rewrite the screen, line breaks that forge a line of a log, or
marks that turn the direction of writing. They come out as the escapes of a Python string, such as ``\x1b``.
"""

import re
import unicodedata

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def one_line(text: str) -> str:
    r"""Return a text in one line in which nothing is hidden.

    Parameters
    ----------
    text
        Anything; what has no place in a line is written as its escape, a line break as ``\n``.
    """
    return _UNPRINTABLE.sub(_escape, text)


def lines_of(text: str) -> str:
    """Return a text of several lines in which nothing else is hidden."""
    return _UNPRINTABLE.sub(lambda found: found[0] if found[0] in "\n\t" else _escape(found), text)


def _escape(found: re.Match[str]) -> str:
    sign = found[0]
    if unicodedata.category(sign) == "Cs":  # a byte of a file's name that is not UTF-8 comes as half of a pair
        return f"\\x{ord(sign) - 0xDC00:02x}" if 0xDC80 <= ord(sign) <= 0xDCFF else f"\\u{ord(sign):04x}"
    return sign.encode("unicode_escape").decode("ascii")
