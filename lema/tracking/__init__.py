"""Where runs are logged beside their own files: W&B, or nowhere. The only home of wandb."""

from lema.tracking.runs import Tracker, run_id

__all__ = ["Tracker", "run_id"]
