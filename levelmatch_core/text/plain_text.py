r"""Safe display of text from files: characters that would control a terminal or the direction of writing are escaped.

A file name or a header value may contain escape sequences that rewrite the screen, line breaks that forge log lines, or
marks that change the direction of writing. They are shown as escapes of a Python string, such as ``\x1b``.
"""

import re
import unicodedata

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def one_line(text: str) -> str:
    r"""Return a text in one line in which nothing is hidden.

    Parameters
    ----------
    text
        Any text; characters that are not allowed in a line are escaped, such as a line break as ``\n``.
    """
    return _UNPRINTABLE.sub(_escape, text)


def lines_of(text: str) -> str:
    """Return a text of several lines in which nothing is hidden."""
    return _UNPRINTABLE.sub(lambda found: found[0] if found[0] in "\n\t" else _escape(found), text)


def _escape(found: re.Match[str]) -> str:
    sign = found[0]
    if unicodedata.category(sign) == "Cs":  # a byte of a file name that is not UTF-8 is a lone surrogate
        return f"\\x{ord(sign) - 0xDC00:02x}" if 0xDC80 <= ord(sign) <= 0xDCFF else f"\\u{ord(sign):04x}"
    return sign.encode("unicode_escape").decode("ascii")
