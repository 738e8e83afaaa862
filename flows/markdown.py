"""Text from files in Markdown, which Prefect's and MLflow's pages show: it stays text, and fetches no image."""

import re

from levelmatch_core.plain_text import one_line

_SIGNS = re.compile(r"[\\`*_{}\[\]()<>#!|~&$@]|:(?=//)|(?<=www)\.")


def escaped(text: object) -> str:
    """Return a text that Markdown shows as it is: no link, image, table, heading or HTML comes of it."""
    return _SIGNS.sub(r"\\\g<0>", one_line(str(text)))


def code(text: object) -> str:
    """Return a text in the type of code, as it is."""
    shown = one_line(str(text)).replace("|", "¦")  # which a table would take for a border even there
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    space = " " if "`" in shown else ""
    return f"{fence}{space}{shown}{space}{fence}"
