"""The end of this process: the work waits for it, so that what is to be said last is said at once."""

import threading

ending = threading.Event()
"""Set where this process is about to exit, whatever its threads do."""


def wait_if_ending() -> None:
    """Wait for ever where this process is about to exit."""
    if ending.is_set():
        threading.Event().wait()
