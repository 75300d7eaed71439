"""What libraries log before Hydra has set up logging: errors alone."""

import subprocess
import sys

SPEAKING = """
import logging
from lema.console import libraries
libraries.quiet()
logging.getLogger("bitsandbytes").warning("a kernel is missing")
logging.getLogger("bitsandbytes").error("no kernel at all")
"""


def test_a_warning_of_a_library_stays_off_the_terminal_and_an_error_does_not() -> None:
    done = subprocess.run([sys.executable, "-c", SPEAKING], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == "no kernel at all\n"
