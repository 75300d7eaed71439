"""What Python's fork server imports before it starts the process of a cell: what a cell on a CPU needs, in seconds."""

import logging
import signal
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from lema.stopping import SIGNALS

# Whoever signals the whole process group means the sweep, which ends its cell, and then this server.
for _number in SIGNALS:
    if signal.getsignal(_number) is not signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)

logging.disable(logging.WARNING)  # as conf/config.yaml does; here nothing has set up logging yet
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for _name in (
        *("lema.pipeline", "lema.engines.transformers", "lema.models.processes", "lema.models.tiny"),
        *(f"lema.stages.{each.name}" for each in iter_modules([str(Path(__file__).parents[1] / "stages")])),
        *("lema.reporting.runs", "transformers.models.llama.modeling_llama", "peft", "wandb", "datasets"),
    ):
        with suppress(ImportError):  # the cell itself says what it lacks
            import_module(_name)
logging.disable(logging.NOTSET)
