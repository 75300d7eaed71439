"""Commands of this program that can be pasted into the shell that started it, and what others may see of them."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from lema.identity import placeless, without_paths

_DEFAULT = Path("runs")  # of conf/config.yaml


def command(*arguments: str, root: Path = _DEFAULT) -> str:
    """The command with these arguments on a runs folder: `python run.py task=math 'backbone.path=/my models/a'`."""
    return f"{_program()} {shlex.join([*arguments, *_on(root)])}".rstrip()


def _on(root: Path) -> list[str]:
    """The override that names a runs folder, quoted for Hydra where it must be."""
    # Neither `2026_11_27` nor `1e5` nor `true`, which Hydra reads as other than texts.
    plain = re.fullmatch(r"[\w./-]*[/-][\w./-]*|(?!true|false|null|nan|inf)[a-z_]+", str(root), re.ASCII)
    value = str(root) if plain else QuotedString(str(root), Quote.double).with_quotes()
    return [] if root == _DEFAULT else [f"runs_dir={value}"]


def _program() -> str:
    """How this program was started; `python` alone where the shell finds the same one by that name."""
    found, script = shutil.which("python"), Path(sys.argv[0])
    python = "python" if found and os.path.dirname(found) == os.path.dirname(sys.executable) else sys.executable
    return shlex.join([python, str(script) if script.name == "run.py" else "run.py"])


def shared(text: str, overrides: Iterable[str], root: Path) -> str:
    """A text with commands of these overrides, as others may see it: FOLDER stands for each path of this machine."""
    text = text.replace(_program(), "python run.py")
    for override in sorted({*overrides, *_on(root)}, key=len, reverse=True):
        if (told := placeless(override)) != override:
            text = text.replace(shlex.quote(override), told)
    note = "\n\nFOLDER stands for a path of the machine that wrote this: name yours." if "=FOLDER" in text else ""
    return without_paths(text) + note
