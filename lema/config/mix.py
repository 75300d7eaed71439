"""Arms: what a mix holds, and how much each part of a correction weighs."""

from dataclasses import dataclass, field
from typing import Optional

from lema.config.allowed import Factor, Name, unless
from lema.config.choices import CotPart, Extra, Without


@dataclass(kw_only=True)
class PartWeights:
    """By what the loss on each part of a correction is multiplied, before the mean over a step's target tokens."""

    step: Factor = 1.0
    explanation: Factor = 1.0
    solution: Factor = 1.0


@dataclass(kw_only=True)
class MixConfig:
    """An arm: its CoT examples plus one kind of extra examples."""

    name: Name
    cot: CotPart
    extra: Extra  # as many examples as there are corrections
    without: Optional[Without] = None  # null: corrections are whole
    weights: PartWeights = field(default_factory=PartWeights, metadata=unless(PartWeights()))
    match_tokens: bool  # add CoT examples of random questions until the mix has as many tokens as lema
