"""`levelmatch completion`: shell completion of commands, options, settings and their values."""

import click
import cloup
from click.shell_completion import get_completion_class

from flows.commands.options import examples


@cloup.command(
    epilog=examples(
        'eval "$(levelmatch completion bash)"      in ~/.bashrc',
        'eval "$(levelmatch completion zsh)"       in ~/.zshrc',
        "levelmatch completion fish | source       in ~/.config/fish/config.fish",
    )
)
@cloup.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), help="Your shell.")
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of levelmatch for SHELL."""
    made = get_completion_class(shell)
    if made is None:
        message = f"no completion for {shell}"
        raise click.UsageError(message)
    click.echo(made(context.find_root().command, {}, "levelmatch", "_LEVELMATCH_COMPLETE").source())
