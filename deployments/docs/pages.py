"""Pages that are written from the code: every setting, and every command. Plain Python, which tests read as well."""

from collections.abc import Callable

import cloup

from flows.cli import main
from flows.settings_help import Described, described
from levelmatch_core.settings import roles_by_name

GROUPS = {
    "input": "Which input, and how it is read",
    "fit": "Level or plane",
    "mask": "Masks",
    "resample": "Resampling",
    "measure": "The difference of a pair",
    "solve": "Pairs, weights and the solution",
    "sky": "The local sky",
    "write": "What is written",
    "draw": "Figures",
    "run": "How to run",
}
"""Role of a setting -> the heading under which it is listed."""

WIDTH = 92
"""Columns of the commands' help."""


def settings_page() -> str:
    """Return all settings as Markdown: a heading for each role, and an entry for each setting."""
    roles = roles_by_name()
    parts = []
    for role, title in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [_entry(one) for one in described() if roles[one.name] == role]
    return "\n".join(parts)


def _entry(one: Described) -> str:
    """Return one setting: a heading that can be linked to, its two defaults, its choices, and its meaning."""
    values = [f"default `{one.default}`"]
    if one.best != one.default:
        values = [f"preset `pjpipe`: `{one.default}`", f"preset `best`: **`{one.best}`**"]
    if one.choices:
        values.append(" or ".join(f"`{choice}`" for choice in one.choices.split(" | ")))
    return f"### `{one.name}`\n\n{' · '.join(values)}\n\n{_plain(one.meaning)}\n"


def _plain(text: str) -> str:
    """Return text in which Markdown finds no emphasis, link or directive."""
    for sign in "*_[]<>{}$":
        text = text.replace(sign, f"\\{sign}")
    return text


def commands_page() -> str:
    """Return the help of all commands as Markdown, in the sections of `levelmatch --help`."""
    formatter = cloup.HelpFormatter.settings(width=WIDTH)
    context = cloup.Context(main, info_name="levelmatch")
    parts = []
    for section in main.list_sections(context):
        parts.append(f"## {section.title}\n")
        for name, command in section.commands.items():
            inner = cloup.Context(command, info_name=name, parent=context, formatter_settings=formatter)
            parts.append(f"### levelmatch {name}\n\n```text\n{command.get_help(inner)}\n```\n")
    return "\n".join(parts)


GENERATED: dict[str, Callable[[], str]] = {
    "<!-- every setting -->": settings_page,
    "<!-- every command -->": commands_page,
}
"""What a page holds in the place of its generated part -> what writes it."""
