"""A model's own settings for generating: what ends a text, and that nothing else of them shapes it.

Models ship settings for their chat (`repetition_penalty`, `max_time`, `num_beams`, …) in `generation_config.json`,
older ones in `config.json`. With these, greedy answers are not greedy, and samples are not the model's. Only the ids of
the tokens that end a text are taken from there.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME
from transformers.utils.hub import cached_file

from lema.models.reading import reading
from lema.models.weights import Weights


def end_ids(source: Weights) -> list[int]:
    """The ids of the model's end tokens, from the first of its two files that names some.

    Raises `UserError` when a file is damaged, or names what is no id.
    """
    ends: list[int] = []
    with reading(source, "generation config"):
        for name in (CONFIG_NAME, GENERATION_CONFIG_NAME):  # the second has the last word
            file = cached_file(
                source.location, name, revision=source.revision, _raise_exceptions_for_missing_entries=False
            )
            settings = json.loads(Path(file).read_bytes()) if file else {}
            if not isinstance(settings, dict):
                raise ValueError(f"{name} is no JSON object")
            named = settings.get("eos_token_id")
            ids = named if isinstance(named, list) else [] if named is None else [named]
            if wrong := [each for each in ids if type(each) is not int]:
                raise ValueError(f"eos_token_id={wrong[0]!r} in {name} is no token's id")
            ends = [each for each in ids if 0 <= each < 2**31] or ends  # -1 and the like: none ever comes
    return ends


def without_settings(config: Any) -> None:
    """Take out of a model's config what older models keep there of generating, and what a forward pass would return."""
    for part in {id(each): each for each in (config, config.get_text_config())}.values():
        declared = {field.name for field in fields(part)}
        for name in vars(GenerationConfig()).keys() - declared:
            vars(part).pop(name, None)
        part.return_dict, part.output_attentions, part.output_hidden_states = True, False, False
