"""Shut W&B's service process down with a timeout: `wandb.teardown` waits for ever if the process misses its message."""

import sys
import threading

SECONDS = 30.0  # the runs are finished by then, so the process has little left to do


def end() -> None:
    """Call `wandb.teardown`; after the timeout the process is left alone, and ends with this one."""
    if (wandb := sys.modules.get("wandb")) is None:
        return
    ending = threading.Thread(target=wandb.teardown, daemon=True)
    ending.start()
    ending.join(SECONDS)
