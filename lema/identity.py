"""What tells one run from another: the part of the config that can change a result, and hashes of plain values."""

import hashlib
import json
import os
import re
from dataclasses import asdict, fields
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from lema.config import ApiConfig, Config

# What does not change a result, and so is not part of a run's identity: whom to ask where, how fast, for how much; and
# what `sampler.models` repeats.
NOT_IDENTITY = (
    "runs_dir do until only compare retry_failed budget_usd prices tracker backbone.sizes sampler.file sampler.model "
    "sampler.base_url"
).split()
NOT_IDENTITY_OF_API = (
    "base_url input_usd output_usd max_concurrent_requests max_requests_per_minute max_tokens_per_minute max_retries "
    "request_timeout max_wait"
).split()


def plain(part: Any) -> Any:
    """A config, or a section of one, as plain values."""
    return json.loads(json.dumps(asdict(part)))


def identity(config: Config) -> dict[str, Any]:
    """The part of the config that can change a result, as plain values."""
    values = plain(config)
    for key in NOT_IDENTITY:
        *sections, name = key.split(".")
        del reduce(getitem, sections, values)[name]
    models = [*values["sampler"]["models"].values(), values["sampler"]["other"] or {}]
    apis = [values["corrector"], values["rationales"], *(each.get("api") for each in models)]
    for api in filter(None, apis):
        for name in NOT_IDENTITY_OF_API:
            del api[name]
    return values


def portable(value: Any) -> Any:
    """Plain values, each absolute path in them cut to its last part: what may leave this machine."""
    if isinstance(value, dict):
        return {name: portable(part) for name, part in value.items()}
    if isinstance(value, list):
        return [portable(part) for part in value]
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value


def api_identity(api: ApiConfig) -> dict[str, Any]:
    """What decides the text of a model's answers: its name (a server may call it by a folder) and what is sent."""
    names = [each.name for each in fields(ApiConfig) if each.name not in NOT_IDENTITY_OF_API]
    return {name: portable(getattr(api, name)) for name in names}


def digest(value: Any) -> str:
    """A short stable hash of plain values: 12 hex digits of the SHA-256 of their canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """The leaves of nested plain values by their dotted keys: `{"train.lora_rank": 64, …}`."""
    if not isinstance(value, dict) or not value:
        return {key: value}
    parts = (flat(part, f"{key}.{name}" if key else name) for name, part in value.items())
    return {name: leaf for part in parts for name, leaf in part.items()}


# A slash that no word, dot, colon or slash stands before: not in `org/model`, nor in `http://host/v1`.
_FOLDERS = re.compile(r"(?<![\w.:/…-])~?(?:/[^\s/:;,'\"`()|]+)*/(?=[^\s/])")


def without_paths(text: str) -> str:
    """A text whose absolute paths are cut to their last part, as folders may name a user: `…/gsm8k`."""
    return _FOLDERS.sub("…/", text.replace(str(Path.home()), "~"))
