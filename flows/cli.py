"""The command `levelmatch`. Slow imports are made inside functions, so that help and version appear immediately."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, ClassVar

import click
import cloup

from flows.commands.options import examples
from flows.garbage_collection import collect_rarely, end_at_once
from flows.interruption import listen, work_interruptibly


class _Lazy(cloup.Group):
    """A group of commands that are imported only when they are called, and whose help has sections."""

    names: ClassVar[tuple[str, ...]] = (
        *(
            "alerts",
            "apply",
            "cache",
            "completion",
            "demo",
            "deploy",
            "explain",
            "log",
            "promote",
            "prune",
            "run",
            "settings",
            "simulate",
            "sweep",
        ),
        *("ui", "undo", "verify", "warm-up"),
    )
    """The commands; each is in the module of the same name in `flows.commands`, unless another one is named."""
    modules: ClassVar[dict[str, str]] = {"alerts": "deploy", "promote": "sweep", "warm-up": "cache"}
    sections: ClassVar[dict[str, tuple[str, ...]]] = {
        "Match": ("run", "sweep", "promote", "settings"),
        "Look at a result": ("explain", "verify", "ui"),
        "Take it elsewhere": ("undo", "apply", "log"),
        "Try it": ("demo", "simulate"),
    }
    """Sections of the help, with their commands; all other commands are in the last section."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return sorted(self.names)

    def list_sections(self, ctx: click.Context, include_default_section: bool = True) -> list[cloup.Section]:
        titles = dict(self.sections)
        if include_default_section:
            listed = {name for names in self.sections.values() for name in names}
            titles["Keep it running"] = tuple(name for name in self.list_commands(ctx) if name not in listed)
        return [
            cloup.Section(title, {name: command for name in names if (command := self.get_command(ctx, name))})
            for title, names in titles.items()
        ]

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:  # noqa: ANN401 - click's
        if args is None:  # a command of its own, to the end of the process
            listen()
        return super().main(args, *rest, **options)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's
        def work() -> Any:  # noqa: ANN401 - click's
            with ctx.scope(cleanup=False):  # click's context is specific to the thread
                return super(_Lazy, self).invoke(ctx)

        return work_interruptibly(work)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in self.names:
            return None
        module = self.modules.get(cmd_name, cmd_name)
        command: click.Command = getattr(import_module(f"flows.commands.{module}"), cmd_name.replace("-", "_"))
        return command


@cloup.group(
    cls=_Lazy,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "formatter_settings": cloup.HelpFormatter.settings(max_width=110),
    },
    epilog=examples("levelmatch demo", "levelmatch run FOLDER --output OUT", "levelmatch explain OUT"),
)
@click.version_option(package_name="levelmatch")
def main() -> None:
    """Match the sky levels of overlapping astronomical exposures."""
    collect_rarely()
    end_at_once()
