"""`levelmatch run`: match exposures and write corrected files.

Slow imports are made inside functions, so that help appears immediately.
"""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from flows.commands.console import BELOW, OK, UNFINISHED, clean_errors, lines_of_result, report, say, say_lines
from flows.commands.options import examples, inputs_argument, located, matching_options, output_option, settings_of
from flows.garbage_collection import importing

if TYPE_CHECKING:
    from flows.nothing_new import LastRun
    from levelmatch_core.pipeline import Request
    from levelmatch_core.products.grade import Grade

_OF_THE_RESULT = ("program", "recursive", "group_by", "prune")
"""Options besides the settings that may change what a run does."""


@cloup.command(
    short_help="Match exposures, and write corrected files.",
    epilog=examples(
        "levelmatch run cal/ --output matched",
        "levelmatch run cal/ --output matched --dry-run",
        "levelmatch run cal/ --output matched --set recombine_lyot=true --set fit_type_mosaic_tiles=level+slope",
        "levelmatch run cal/ --output matched --config m33.toml --program m33 --band F770W --workers 4",
        "levelmatch run survey/ --output matched --group-by 'field_[0-9]+'",
    ),
)
@inputs_argument
@output_option("Folder for the results.")
@matching_options
@cloup.option(
    "--require",
    type=click.Choice(["good", "fair"]),
    help="Exit with 4 if the grade of the result is lower (good: residuals are noise; fair: up to 5 times that).",
)
@cloup.option(
    "--prune",
    is_flag=True,
    help="Remove corrected files of earlier runs whose input is missing or damaged now, and take inputs as they are "
    "that hold less than when they were corrected.",
)
@cloup.option("--again", is_flag=True, help="Make a run also where nothing is new since the last one.")
@cloup.option("--dry-run", is_flag=True, help="Show tiles, fields, pairs, references and cost; write nothing.")
def run(inputs: tuple[Path, ...], output: Path, log_level: str | None, **options: Any) -> None:  # noqa: ANN401 - click's
    """Match the exposures of INPUT (files, or folders of FITS files) and write the results to DIR.

    A corrected file in DIR whose input is missing or damaged now, or has lost HDUs, stays, is named, and goes only by
    --prune.

    Exit code: 0 all matched, reference or alone; 3 finished, but some are untied, failed or stale; 4 finished, but the
    grade is lower than --require asks for; 2 bad usage, settings or DIR, nothing written; 1 anything else.
    """
    with clean_errors(log_level):
        if options["dry_run"]:
            from levelmatch_core.plan import describe, plan_run  # noqa: PLC0415 - see the module

            return say_lines(describe(plan_run(_request(inputs, output, options))))
        from flows import home, nothing_new  # noqa: PLC0415 - see the module

        question = nothing_new.Question.of(
            inputs, output, settings_of(options), {name: options[name] for name in _OF_THE_RESULT}
        )
        last = question.answer() if question is not None and not options["again"] else None
        if last is not None:
            _tell(last, log_level)
            sys.exit(_code_for(last.grade, options["require"]))
        from flows.orchestration import ephemeral_server  # noqa: PLC0415 - see the module

        warnings: list[str] = []
        with home.home_in_use():  # Prefect complains at import of a home that is not there
            server = ephemeral_server.start()  # its start takes as long as everything that follows
            with importing():
                from flows.launch import launch  # noqa: PLC0415
                from levelmatch_core.process.beside import working_beside  # noqa: PLC0415

            request = _request(inputs, output, options)
            chosen = request.settings
            with working_beside(wanted=chosen.runner == "threads" and chosen.figures != "none"):
                summary = launch(request, log_level, server, warnings)
        report(summary)
        if question is not None and server is not None:
            question.keep(summary, lines_of_result(summary.model_copy(update={"changed": False})), warnings)
        code = _code_for(summary.grade, options["require"])
    sys.exit(code or (OK if summary.complete else UNFINISHED))


def _code_for(grade: "Grade", required: str | None) -> int:
    """Return the exit code that a grade alone gives, and say so where it is too low."""
    if required is None or grade.rank >= type(grade)(required).rank:
        return OK
    say(f"the grade is {grade.value}, and --require asks for {required}", err=True)
    return BELOW


def _tell(last: "LastRun", log_level: str | None) -> None:
    """Print what the last run of the same things said."""
    from flows.home import set_environment  # noqa: PLC0415 - see the module

    set_environment(dict(os.environ), quiet=True)  # tells which settings come from files of this folder
    if log_level != "error":
        for line in last.warnings:
            say(line, err=True)
    for line in last.lines:
        say(line)
    ended = datetime.fromtimestamp(last.ended, UTC)
    say(f"looked:  nothing is new since the run of {ended:%Y-%m-%d %H:%M:%S} UTC; --again makes one all the same")


def _request(inputs: tuple[Path, ...], output: Path, options: dict[str, Any]) -> "Request":
    from levelmatch_core.pipeline import Request  # noqa: PLC0415

    found = located(inputs, recursive=options["recursive"])
    return Request(
        inputs=found.paths,
        missing=found.missing,
        output=output.absolute(),
        settings=settings_of(options),
        program=options["program"],
        recursive=options["recursive"],
        group_by=options["group_by"],
        prune=options["prune"],
    )
