"""Worked examples that stand before a question: corrections for a corrector, solutions for a model that is sampled."""

from importlib import resources
from pathlib import Path

from lema.config.files import read
from lema.types import MAY_BE_RIGHT, UserError

_OR_NONE = "Where every step is correct, write none in the place of the step, and nothing else."
_FORMS = {"math": "latex", "csqa": "choice"}  # of the others, number


def demonstrations(kind: str, grader: str, file: str | None, key: str) -> str:
    """The instruction and the examples of a `kind`, "correct" or "solve", for a task's `grader`, or those of the
    user's own `file`, byte for byte. Raises `UserError` when it cannot be read; `key` is the setting that names it.
    """
    form = _FORMS.get(grader, "number")
    if file is None:
        return _ours(f"{kind}_{form}.txt")
    if kind == "correct" and file == MAY_BE_RIGHT:
        instruction, first, *others = _ours(f"correct_{form}.txt").split("\n\n")
        return "\n\n".join([f"{instruction} {_OR_NONE}", first, _ours(f"right_{form}.txt").rstrip("\n"), *others])
    try:
        text = read(Path(file)).decode()
    except OSError as error:
        raise UserError(f"{key}={file}: {error.strerror}; name a readable UTF-8 text file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{key}={file}: {error}; name a readable UTF-8 text file") from error
    if not text.strip() or "\0" in text:
        why = "has NUL characters, as UTF-16 does" if "\0" in text else "is empty"
        raise UserError(f"{key}={file}: {why}; name a readable UTF-8 text file")
    return text


def _ours(name: str) -> str:
    return (resources.files("lema.prompts") / name).read_text(encoding="utf-8")
