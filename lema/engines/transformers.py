"""transformers: a model in Hugging Face format, loaded here, answers in batches of prompts of like length."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lema.artifacts import keep, kept
from lema.artifacts.locks import check
from lema.console.progress import Progress
from lema.engines import LocalModel
from lema.models.weights import Weights
from lema.types import Completion, Prompt

_ATTEMPT_SEED = 1_000_003  # between the seeds of two attempts: more than a seed has batches


@dataclass(kw_only=True)
class Settings:
    """The engine has no settings of its own: batch sizes belong to who asks."""

    name: str


class Engine:
    """One model; an adapter on it stays unmerged."""

    def __init__(self, settings: Settings, model: LocalModel, weights: Weights, adapter: Path | None) -> None:
        self.model, self.weights, self.adapter = model, weights, adapter
        self.costs: dict[str, Any] = {}

    @property
    def about(self) -> dict[str, str]:
        return {"engine": f"transformers {version('transformers')}"}

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The tokenizer and the model."""
        from lema.models.huggingface import load_adapter, load_to_answer, load_tokenizer

        tokenizer = load_tokenizer(self.weights)
        loaded = load_to_answer(self.weights, self.model.computation, self.model.four_bit)
        return tokenizer, loaded if self.adapter is None else load_adapter(loaded, self.adapter).eval()

    def complete(self, prompts: Sequence[Prompt], resume: Path) -> list[Completion]:
        """Completions in order. Each batch has a seed of its own, and a file beside `resume`."""
        from lema.models.encoding import encode_prompt
        from lema.models.generating import Onlooker

        tokenizer, _ = self._loaded
        with Progress("prompt", len(prompts)) as progress:
            encoded = [encode_prompt(tokenizer, prompt.text) for prompt in progress.over(prompts)]
        by_length = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
        completions: dict[int, Completion] = {}
        size = self.model.batch_size
        # A corrector asks again in a call of its own, which must not draw the same samples as the call before.
        seed = self.model.seed + _ATTEMPT_SEED * min((prompt.attempt for prompt in prompts), default=0)
        onlooker, made = Onlooker(), 0  # tokens of this call, but for those of the present batch

        def told() -> list[str]:
            tokens = made + onlooker.tokens
            return [f"{tokens:,} tokens ({progress.per_second(tokens):,.0f}/s)"]

        def partly() -> float:
            return min(size, len(encoded) - progress.done) * min(1.0, onlooker.steps / self.model.max_new_tokens)

        with Progress("answer", len(encoded), told, partly) as progress:
            for start in range(0, len(encoded), size):
                batch, path = by_length[start : start + size], resume.with_name(f"{resume.name} {start}.json")
                check()
                rows: Any = kept(path)
                if not (before := rows is not None):
                    stop = {prompts[index].stop for index in batch}
                    rows = self._batch([encoded[index] for index in batch], stop, seed + start // size, onlooker)
                    keep(path, rows)
                    onlooker.begin()
                    made += sum(tokens for *_, tokens in rows)
                progress.advance(len(batch), before)
                for index, (text, reason, tokens) in zip(batch, rows, strict=True):
                    completion = Completion(text, reason, self.weights.name, tokens)
                    completions[index] = _ended(completion, prompts[index].stop)
        return [completions[index] for index in range(len(encoded))]

    def _batch(
        self, prompts: list[list[int]], stop: set[str | None], seed: int, onlooker: Any
    ) -> list[tuple[str, str, int]]:
        """The text, the finish reason and the number of tokens of each completion."""
        import torch

        from lema.models.generating import generate

        tokenizer, model = self._loaded
        temperature = self.model.temperature
        options: dict[str, Any] = {"max_new_tokens": self.model.max_new_tokens, "do_sample": temperature > 0}
        if temperature > 0:  # which alone is to shape the samples: transformers' own top_k is 50
            options |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
        if strings := [each for each in stop if each is not None]:
            options["stop_strings"] = strings
        torch.manual_seed(seed)
        rows, _ = generate(model, tokenizer, prompts, onlooker=onlooker, **options)
        texts = [tokenizer.decode(row[: len(row) - ended], skip_special_tokens=True) for row, ended in rows]
        return [(text, "stop" if end else "length", len(row)) for text, (row, end) in zip(texts, rows, strict=True)]


def _ended(completion: Completion, stop: str | None) -> Completion:
    """The completion up to its stop text, if that comes: then the model ended it, not the limit."""
    text = completion.text or ""
    if stop is None or stop not in text:
        return completion
    before, _, _ = text.partition(stop)
    return Completion(before + stop, "stop", completion.model, completion.num_tokens)
