"""`levelmatch log`: the MLflow record of a finished run, sent later by the same code that sends it at once."""

import sys
from pathlib import Path

import cloup

from flows.commands.console import OK, TROUBLE, clean_errors
from flows.commands.options import examples, type_of_path
from flows.home import prepare_environment


@cloup.command(
    name="log", short_help="Send a finished run's record to MLflow.", epilog=examples("levelmatch log matched")
)
@cloup.argument("folder", type=type_of_path, metavar="DIR", help="The output of a finished run.")
def log(folder: Path) -> None:
    """Send the record of the run that made DIR to MLflow, where that was out of reach when the run ended.

    The store is the one that MLFLOW_TRACKING_URI names, else that of LEVELMATCH_HOME. A record that is there already
    is left alone, one that is there in part is made whole.

    Exit code: 0 the record is there; 1 the store is out of reach; 2 DIR is no finished output, or nothing is known of
    its run.
    """
    with clean_errors():
        # help and version come at once: MLflow takes seconds to import
        from flows.tracking.outbox import kept_run  # noqa: PLC0415
        from levelmatch_core.products.output.folder import note_in_log  # noqa: PLC0415

        home = prepare_environment()
        kept = kept_run(home, folder)
        from flows.tracking.tracker import Tracker  # noqa: PLC0415

        tracking = Tracker(home).send(kept.result, kept.summary, kept.facts)
        if tracking.lost:
            cloup.echo(tracking.lost, err=True)
            sys.exit(TROUBLE)
        if tracking.new:
            note_in_log(folder, {"mlflow_run": tracking.run_id})
    cloup.echo(f"MLflow: run {tracking.run_id} in {tracking.store}{'' if tracking.new else ' (was there)'}")
    sys.exit(OK)
