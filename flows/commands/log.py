"""`levelmatch log`: send the MLflow record of a finished run later, with the same code that sends it immediately."""

import sys
from pathlib import Path

import cloup

from flows.commands.console import OK, TROUBLE, clean_errors, say
from flows.commands.options import examples, type_of_path
from flows.home import prepare_environment


@cloup.command(
    name="log", short_help="Send the record of a finished run to MLflow.", epilog=examples("levelmatch log matched")
)
@cloup.argument("folder", type=type_of_path, metavar="DIR", help="The output of a finished run.")
def log(folder: Path) -> None:
    """Send the record of the run that made DIR to MLflow, if the store was unreachable when the run ended.

    The store is that of MLFLOW_TRACKING_URI, else that of LEVELMATCH_HOME. An existing record is left alone, an
    incomplete one is completed.

    Exit code: 0 the record exists; 1 the store is unreachable; 2 DIR is not a finished output, or there is no stored
    record of its run.
    """
    with clean_errors():
        # imported here, since MLflow takes seconds to import, and help should appear immediately
        from flows.tracking.outbox import kept_run  # noqa: PLC0415
        from levelmatch_core.products.output.folder import note_in_log  # noqa: PLC0415

        home = prepare_environment()
        kept = kept_run(home, folder)
        from flows.tracking.tracker import Tracker  # noqa: PLC0415

        tracking = Tracker(home).send(kept.result, kept.summary, kept.facts)
        if tracking.lost:
            say(tracking.lost, err=True)
            sys.exit(TROUBLE)
        if tracking.new:
            note_in_log(folder, {"mlflow_run": tracking.run_id})
    say(f"MLflow: run {tracking.run_id} in {tracking.store}{'' if tracking.new else ' (existed already)'}")
    sys.exit(OK)
