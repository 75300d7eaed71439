"""What tells one run from another: the part of the config that can change a result, and hashes of plain values."""

import hashlib
import json
import os
import re
from dataclasses import Field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


def identity(value: Any) -> Any:
    """The part of a config, or of a stage's settings, that can change a result, as plain values.

    Fields that are marked with `NO_EFFECT`, or with `IF_SET` or `unless` and not set, are left out, at every level:
    so a run keeps the key that it had before there was such a field.
    """
    if is_dataclass(value):
        return {each.name: identity(part) for each in fields(value) if _counts(each, part := getattr(value, each.name))}
    if isinstance(value, dict):
        return {str(name): identity(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [identity(part) for part in value]
    return value.value if isinstance(value, StrEnum) else value


def _counts(of: Field[Any], value: Any) -> bool:
    kept = of.metadata.get("identity", True)
    return kept is True or bool(kept and value and value != of.metadata.get("unless"))


def portable(value: Any) -> Any:
    """Plain values, each absolute path in them cut to its last part: what may leave this machine."""
    if isinstance(value, dict):
        return {name: portable(part) for name, part in value.items()}
    if isinstance(value, list):
        return [portable(part) for part in value]
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value


def digest(value: Any) -> str:
    """A short stable hash of plain values: 12 hex digits of the SHA-256 of their canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """The leaves of nested plain values by their dotted keys: `{"train.lora_rank": 64, …}`."""
    if not isinstance(value, dict) or not value:
        return {key: value}
    parts = (flat(part, f"{key}.{name}" if key else name) for name, part in value.items())
    return {name: leaf for part in parts for name, leaf in part.items()}


# A slash that no word, dot, colon or slash stands before (not in `org/model`, nor in `http://host/v1`), or one in
# `{key:/x}` or `file:///x`.
_FOLDERS = re.compile(r"(?:(?<![\w.:/…-])|(?<=[\w\]}]:)(?!//)|(?<=file://))~?(?:/[^\s/:;,'\"`()|]+)*/(?=[^\s/])")


def without_paths(text: str) -> str:
    """A text whose absolute paths are cut to their last part, as folders may name a user: `…/gsm8k`."""
    home = os.path.expanduser("~")  # `~` for a user without one, and `/` in many containers
    return _FOLDERS.sub("…/", text.replace(home, "~") if len(home) > 1 else text)


def placeless(override: str) -> str:
    """An override, FOLDER in the place of its value where that names a path of this machine."""
    key, _, value = override.partition("=")
    return override if without_paths(value) == value else f"{key}=FOLDER"
