"""A Dask cluster whose workers are Slurm jobs, for programs with `runner = "dask"`; it lasts until Ctrl-C.

    pip install dask-jobqueue
    python deployments/dask_on_slurm.py --jobs 8 --cores 4 --memory 16GB --walltime 04:00:00 --interface ib0

What a site needs besides (account, partition, modules to load) goes into dask-jobqueue's own file,
~/.config/dask/jobqueue.yaml. `--show` prints the script of a job and submits none; `--here` starts the same workers on
this machine, to try the rest.
"""

import argparse
import signal
import threading

from dask_jobqueue import JobQueueCluster, SLURMCluster
from dask_jobqueue.local import LocalCluster


def main(words: list[str] | None = None) -> None:
    """Start the cluster, print the settings that name it, and wait."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="number of jobs")
    parser.add_argument("--cores", type=int, default=1, help="workers of a job, with one thread each")
    parser.add_argument("--memory", default="4GB", help="memory of a job")
    parser.add_argument("--walltime", default="02:00:00", help="time limit of a job")
    parser.add_argument("--interface", help="network between the nodes, such as ib0")
    parser.add_argument("--port", type=int, default=8786, help="port of the scheduler on this machine")
    parser.add_argument("--show", action="store_true", help="print the script of a job, and end")
    parser.add_argument("--here", action="store_true", help="workers on this machine in place of jobs")
    asked = parser.parse_args(words)
    with cluster(asked) as workers:
        if asked.show:
            print(workers.job_script())
            return
        workers.scale(jobs=asked.jobs)
        print(f"--set runner=dask --set scheduler={workers.scheduler_address}", flush=True)
        asked_to_end = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: asked_to_end.set())
        asked_to_end.wait()


def cluster(asked: argparse.Namespace) -> JobQueueCluster:
    """Return the cluster, which has no workers yet."""
    common = {
        "cores": asked.cores,
        "processes": asked.cores,  # one thread each: results do not depend on it, and it is the fastest
        "memory": asked.memory,
        "interface": "lo" if asked.here else asked.interface,
        "scheduler_options": {"port": asked.port, "dashboard_address": None},
    }
    if asked.here:
        return LocalCluster(**common)
    return SLURMCluster(walltime=asked.walltime, **common)


if __name__ == "__main__":
    main()
