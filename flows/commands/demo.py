"""`levelmatch demo`: simulate exposures with known levels, match them, and compare."""

import sys
from pathlib import Path

import cloup

from flows.commands.console import OK, UNFINISHED, clean_errors, report, say
from flows.commands.options import log_level_option, type_of_path


@cloup.command(short_help="Simulate exposures, match them, and recover the known levels.")
@cloup.option(
    "--output",
    type=type_of_path,
    default=Path("levelmatch-demo"),
    show_default=True,
    metavar="DIR",
    help="Folder for input and results.",
)
@log_level_option
def demo(output: Path, log_level: str | None) -> None:
    """Simulate a MIRI program, match it, and show how well the known levels are recovered."""
    with clean_errors(log_level):
        from flows.demo import recovery, simulated  # noqa: PLC0415 - slow to import
        from flows.launch import launch  # noqa: PLC0415
        from levelmatch_core.pipeline import Request  # noqa: PLC0415
        from levelmatch_core.settings import MatchSettings  # noqa: PLC0415

        inputs, results = output.absolute() / "input", output.absolute() / "output"
        truth = simulated(inputs)
        say(f"simulated: {len(truth.exposures)} exposures of a MIRI program in {inputs}")
        request = Request(inputs=(inputs,), output=results, settings=MatchSettings(preset="best"), program="demo")
        summary = launch(request, log_level)
        report(summary)
        for line in recovery(truth, inputs, results, summary):
            say(line)
    sys.exit(OK if summary.complete else UNFINISHED)
