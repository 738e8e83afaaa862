"""Regular expressions that users give: by RE2, whose searches take a time that grows with the text and never explodes.

Its expressions are Python's, without what needs backtracking: look-around and references to groups.
"""

from typing import Any

from levelmatch_core.errors import UsageError

MOST = 1000
"""Characters of an expression at most: what compiles for seconds is longer."""


class Pattern:
    """A compiled expression.

    Parameters
    ----------
    text
        The expression.
    ignore_case
        Whether letters match in either case.

    Raises
    ------
    UsageError
        If it is none, or one that RE2 does not know; the message tells the reason only.
    """

    def __init__(self, text: str, *, ignore_case: bool = False) -> None:
        # here and no earlier: few runs are given an expression
        import re2  # noqa: PLC0415

        self.text = text
        if len(text) > MOST:
            message = f"has {len(text)} characters, at most {MOST} are allowed"
            raise UsageError(message)
        options = re2.Options()
        options.log_errors = False
        options.case_sensitive = not ignore_case
        try:
            self._compiled: Any = re2.compile(text, options=options)
        except (re2.error, UnicodeEncodeError) as error:
            raise UsageError(_reason(error)) from error

    def first(self, text: str) -> str | None:
        """Return the first group of the first match in a text, the whole match where there is no group; else None."""
        found = self._compiled.search(text)
        if found is None:
            return None
        group: str | None = found[1 if self._compiled.groups else 0]
        return group


def _reason(error: Exception) -> str:
    told = error.args[0] if error.args else error
    return told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)
