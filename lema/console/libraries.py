"""Silences what libraries print by themselves, but for errors. `conf/config.yaml` does the same for what they log.

Warnings of Python that arise in our own code are shown. `hydra.verbose=true` leaves the libraries as they are.
"""

import logging
import os
import sys
import warnings

# Read by the libraries when they are imported, which happens where they are used. The user's own values stay.
_VERBOSITY = ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "HF_HUB_VERBOSITY")
_BARS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")


def quiet() -> None:
    """Silence what is no error; call it before they are imported."""
    if logging.lastResort:  # which speaks where no logging is set up, as before the cells of a sweep
        logging.lastResort.setLevel(logging.ERROR)
    for name in _VERBOSITY:
        os.environ.setdefault(name, "error")
    for name in _BARS if not (sys.stderr and sys.stderr.isatty()) else ():
        os.environ.setdefault(name, "1")
    if not sys.warnoptions:  # -W and PYTHONWARNINGS
        warnings.filterwarnings("ignore")
        warnings.filterwarnings("default", module=r"(lema|__main__)\b")
