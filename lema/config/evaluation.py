"""How models are scored: on what, by how many answers, and on which further tests."""

from dataclasses import dataclass, field
from typing import Optional

from lema.config.allowed import IF_SET, NO_EFFECT, Count, Repeats, Seed, Temperature, unless
from lema.config.choices import Ask, Split


@dataclass(kw_only=True)
class EvaluationConfig:
    """One greedy answer to each problem of a split, and with a temperature further answers, which are drawn."""

    split: Split
    max_new_tokens: Count
    untuned_prompt: Optional[Ask] = field(default=None, metadata=IF_SET)  # null: as the fine-tuned model is asked
    samples: Repeats = field(metadata=unless(1))  # of each problem, beside the greedy answer
    temperature: Temperature = field(metadata=IF_SET)
    seed: Seed = field(metadata=IF_SET)
    # Each further test has an artifact of its own, so it changes no other result of the run.
    tasks: Optional[list[str]] = field(default=None, metadata=NO_EFFECT)
    # Of each model also the mistakes on dev and on the corrected questions; an artifact of its own, likewise.
    learnt: bool = field(default=False, metadata=NO_EFFECT)

    @property
    def answers(self) -> int:
        """To each problem: the greedy one, and the samples."""
        return 1 + (self.samples if self.temperature else 0)
