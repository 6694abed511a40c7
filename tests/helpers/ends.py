"""How a rank ends that does nothing else. Imports little, so that its process starts quickly."""

import logging
import os
import signal
import time

from metrad.errors import InputError

ENDS = {
    "raise": "rank 1 of 2: RuntimeError: planted in two lines",
    "exit": "rank 1 of 2: it ended with code 7",
    "kill": "rank 1 of 2: it was killed, as the system does for want of memory",
    "refuse": "seed must be another",
}


def end(how: str) -> None:
    """End as rank 1 in the way that ``ENDS`` names; as rank 0, wait for longer than anyone else does."""
    if os.environ["RANK"] == "0":
        logging.getLogger("metrad").warning("the first of %s", os.environ["WORLD_SIZE"])
        time.sleep(600)
    if how == "raise":
        raise RuntimeError("planted\nin two lines")
    if how == "refuse":
        raise InputError(ENDS[how])
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), signal.SIGKILL)


def name_ranks(folder: str) -> None:
    """Leave a file named after each rank."""
    open(os.path.join(folder, os.environ["RANK"]), "w").close()  # noqa: PTH118, PTH123 - pathlib takes time
