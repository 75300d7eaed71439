"""The command line: arranged as Hydra's parser takes it, and each of Hydra's errors about it as one line.

Flags may stand anywhere, and `KEY=~/x` is a folder at home, which Hydra's grammar takes in quotes alone.
"""

import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.default_element import GroupDefault
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from lema.config.renamed import instead
from lema.types import UserError

# `~` or `~user` where a shell would replace it: at the beginning of a value, or of one in a list of values.
_HOME = re.compile(r"(?<=[=,\[])~[\w.-]*(?=[/,\]]|$)")
_QUOTED = re.compile(r"[^=]*=\[?['\"]")
_SPECIAL = re.compile(r"[\\()\[\]{}=:,]")  # what Hydra's grammar takes in a value after a backslash alone
# What Hydra says for programmers, or with a remedy that the typed config refuses, and where it searched.
_NOISE = re.compile(
    r"Config search path:.*|^\s*(?:See https:|To append to your |Either remove \+|Or add a second \+"
    r"|(?:full_key|object_type|reference_type)[:=])[^\n]*|\w+ raised while composing config:",
    re.MULTILINE | re.DOTALL,
)
_CHOICE = "must be the name of a choice, as --help lists them; leave it out for the default"
# Hydra's words that name no cause or no remedy, and better ones.
_WORDS = {
    r"Config group override must be a string.*|TypeError: argument of type 'int' is not iterable": _CHOICE,
    r"Unexpected type for root.*": "a part of this key is null and has no keys; choose what sets it, or leave it out",
    r"AttributeError: 'NoneType' object has no attribute 'get'": "this section is null here; choose what sets it",
    r"field '\S+' is not Optional": "must not be null",
    r"Invalid type assigned: \w+ is not a subclass of \w+Config.*": "is a section; set its keys, {key}.KEY=VALUE",
    r"Missing mandatory value: (\S+)": r"\1 must be set",
    r"Ambiguous value.*": "several values are a sweep, which needs -m; quotes make them one text: {quoted}",
    r"Multiple values for (\S+)\. .*": r"\1 has a choice already; leave out the +",
    r"force-add of config groups.*": "a group has one choice; leave out the ++",
    r"Could not append to config.*": "is set already; leave out the +",
    r"Key 'sweeps' not in.*": "the file of a sweep begins with the line # @package _global_",
}


def arranged(arguments: list[str]) -> list[str]:
    """Flags before overrides, and homes written out; `UserError` for a flag that Hydra does not have."""
    parser: Any = get_args_parser()
    parser.error = _refuse
    left = list(parser.parse_intermixed_args(arguments).overrides)
    flags, overrides = list[str](), list[str]()
    for argument in arguments:
        (overrides if argument in left[:1] else flags).append(argument)
        left = left[1:] if argument in left[:1] else left
    overrides = [each if _QUOTED.match(each) else _HOME.sub(_home, each) for each in overrides]
    # `--info` takes a value, and would take an override for it.
    return [*(each for each in flags if each != "--"), "--", *overrides] if overrides else flags


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}; python run.py --help shows what a command may say")


def _home(found: re.Match[str]) -> str:
    home = os.path.expanduser(found[0])
    if home.startswith("~"):
        raise UserError(f"{found.string}: no home is known for {found[0]}; write the whole path")
    return _SPECIAL.sub(r"\\\g<0>", home)


@contextmanager
def refusing(full: bool) -> Iterator[None]:
    """Exit with one line for an error about the command; with `full`, Hydra's own keep their traceback."""
    # Hydra only warns of a folder that is not there.
    warnings.filterwarnings("error", r"provider=.* is not available", UserWarning)
    try:
        yield
    except UserError as error:
        sys.exit(str(error))
    except Exception as error:  # Hydra composes by asserting and indexing: of many kinds, all about the command
        if full or _is_ours(error):
            raise
        sys.exit(refusal(error))


def _is_ours(error: BaseException) -> bool:
    """Whether an error arose in this package: then it is a mistake of ours, and its traceback is shown."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("lema.")


def refusal(error: BaseException) -> str:
    """What is wrong with a command, in one line that begins with the argument: `train.lr=1: no such key; …`."""
    given, cause, said = _given(error), error.__cause__, _said(error)
    key, _, value = given.lstrip("+~").partition("=")
    quoted = f"\"{key}='{value}'\""
    if isinstance(error, OverrideParseException):
        why = re.sub(r"LexerNoViableAltException.*|Error parsing override '.*?' | expecting .*", "", said)
        remedy = f"in quotes it is one text: {quoted}" if "'" not in value else "its quotes do not end"
        return f"{given}: cannot be read{f' ({why})' if why else ''}; {remedy if value else 'write KEY=VALUE'}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and not error.options:
        return f"--config-name={error.missing_cfg_file}: no such file in the folder of the configuration; leave it out"
    if given == "hydra/launcher=joblib" and isinstance(error, MissingConfigException):
        return f'{given}: is not installed; pip install -e ".[joblib]"'
    if isinstance(error, MissingConfigException) and error.options:
        return f"{given}: no such choice; choose from {', '.join(error.options)}"
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and given and cause.parent_node is not None:
        keys = [str(each) for each in cause.parent_node if each != "hydra"]
        of = f" of engine={cause.parent_node['name']}" if key.startswith("engine.") else ""  # others have other keys
        return f"{given}: {instead(key) or f'no such key{of}; choose from ' + ', '.join(keys)}"
    for pattern, words in _WORDS.items():
        said = re.sub(pattern, words, said).replace("{key}", key).replace("{quoted}", quoted)
    return f"{given}: {said}" if given and given not in said.partition(": ")[0] else said


def _said(error: BaseException) -> str:
    """The words of an error, or of its cause, on one line and without what only programmers need."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    told = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    words = " ".join(_NOISE.sub("", str(told)).split())
    known = isinstance(told, HydraException | OmegaConfBaseException | ValueError | AssertionError | Warning)
    return words if known and words else f"{type(told).__name__}: {words}"


def _given(error: BaseException) -> str:
    """The argument that Hydra had in hand when an error arose; "" when it had none, or said itself which."""
    if isinstance(error, OverrideParseException):
        return error.override
    of_group = isinstance(error, MissingConfigException) or not isinstance(error, HydraException)
    for value in _in_hand(error):
        if isinstance(value, Override):
            return value.input_line or ""
        if isinstance(value, GroupDefault) and of_group:
            return f"{value.get_override_key()}={value.value}"
    return ""


def _in_hand(error: BaseException) -> Iterable[object]:
    """The local variables of the functions that an error came through, of the innermost first."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [value for frame in reversed(frames) for value in frame.f_locals.values()]
