"""Text from files in Markdown on Prefect's and MLflow's pages: it is shown as text, and loads no images."""

import re

from levelmatch_core.text.plain_text import one_line

_SIGNS = re.compile(r"[\\`*_{}\[\]()<>#!|~&$@]|:(?=//)|(?<=www)\.")


def escaped(text: object) -> str:
    """Return a text that Markdown shows literally, without links, images, tables, headings or HTML."""
    return _SIGNS.sub(r"\\\g<0>", one_line(str(text)))


def code(text: object) -> str:
    """Return a text as literal code."""
    shown = one_line(str(text)).replace("|", "¦")  # a border in a table, even within code
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    space = " " if "`" in shown else ""
    return f"{fence}{space}{shown}{space}{fence}"
