"""W&B's own process, ended within a bound: one that loses the word that it should end is waited for without an end."""

import sys
import threading

SECONDS = 30.0  # runs are finished before, so little is left to do


def end() -> None:
    """As `wandb.teardown`, which also runs at exit if this has not; after the bound the process is left to itself.

    It ends with ours.
    """
    if (wandb := sys.modules.get("wandb")) is None:
        return
    ending = threading.Thread(target=wandb.teardown, daemon=True)
    ending.start()
    ending.join(SECONDS)
