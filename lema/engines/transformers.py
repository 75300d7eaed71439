"""transformers: a model in Hugging Face format, loaded here, answers; each prompt by itself, many at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Optional
from weakref import WeakValueDictionary

from lema.artifacts import check
from lema.artifacts.lines import Lines
from lema.config import NO_EFFECT, Count
from lema.console.progress import Progress
from lema.engines import LocalModel, sample_seed
from lema.models.weights import Weights
from lema.types import Completion, Prompt

# Each model as long as an engine has it: greedy answers and samples come from one copy of the weights.
_LOADED = WeakValueDictionary[tuple[Any, ...], Any]()


@dataclass(kw_only=True)
class Settings:
    """How many answers are written at once, which in 32 bits changes none of them."""

    name: str
    # Columns times rows of a batch, prompts included; null: as the memory allows.
    batch_tokens: Optional[Count] = field(default=None, metadata=NO_EFFECT)


class Engine:
    """One model; an adapter on it stays unmerged."""

    def __init__(self, settings: Settings, model: LocalModel, weights: Weights, adapter: Path | None) -> None:
        self.settings, self.model, self.weights, self.adapter = settings, model, weights, adapter
        self.costs: dict[str, Any] = {}

    @property
    def about(self) -> dict[str, str]:
        """The package, the device and the attention kernel."""
        import torch

        from lema.models.huggingface import load_architecture
        from lema.models.kernels import choose

        kernel, _ = choose(self.model.computation, load_architecture(self.weights), packed=False)
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        return {"engine": f"transformers {version('transformers')}", "device": device, "attention": str(kernel)}

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The tokenizer and the model."""
        from lema.models.huggingface import load_adapter, load_to_answer, load_tokenizer

        key = self.weights, self.adapter, self.model.computation, self.model.four_bit
        if (loaded := _LOADED.get(key)) is None:
            loaded = load_to_answer(self.weights, self.model.computation, self.model.four_bit)
            loaded = loaded if self.adapter is None else load_adapter(loaded, self.adapter).eval()
            _LOADED[key] = loaded
        return load_tokenizer(self.weights), loaded

    def complete(self, prompts: Sequence[Prompt], resume: Path) -> list[Completion]:
        """Completions in order. What is finished stands in a file beside `resume`, a line each."""
        asked = [(number, sample_seed(self.model.seed, prompt)) for number, prompt in enumerate(prompts)]
        with Lines(resume.with_name(f"{resume.name}.jsonl")) as lines:
            found = {(number, seed): (text, reason, tokens) for number, seed, text, reason, tokens in lines}
            missing = [each for each in asked if each not in found]
            for finished in self._answers(prompts, missing) if missing else ():
                check()
                found |= finished
                lines.add(*([*one, *answer] for one, answer in finished.items()))
        completions = []
        for each, prompt in zip(asked, prompts, strict=True):
            text, reason, tokens = found[each]
            completions.append(Completion(text, reason, self.weights.name, tokens).until(prompt.stop))
        return completions

    def _answers(
        self, prompts: Sequence[Prompt], missing: list[tuple[int, int]]
    ) -> Iterator[dict[tuple[int, int], tuple[str, str, int]]]:
        """After each pass what is finished: text, finish reason and tokens by the number and the seed of its prompt."""
        from lema.models.continuous import Row
        from lema.models.encoding import encode_prompt
        from lema.models.writing import answering, end_tokens, placed

        tokenizer, model = self._loaded
        ends, rows = end_tokens(model, tokenizer), dict[Row, tuple[int, int]]()
        with Progress("prompt", len(missing)) as progress:
            for number, seed in progress.over(missing):
                ids, most = placed(model, encode_prompt(tokenizer, prompts[number].text), self.model.max_new_tokens)
                rows[Row(ids, most, seed, prompts[number].stop)] = (number, seed)

        def text(tokens: list[int]) -> str:
            return tokenizer.decode(tokens, skip_special_tokens=True)

        at_work, made = answering(model, ends, self.model.temperature, self.settings.batch_tokens, text), 0

        def told() -> list[str]:
            tokens = made + sum(len(row.tokens) for row in at_work.rows if not row.ended)
            return [f"{tokens:,} tokens ({progress.per_second(tokens):,.0f}/s)"]

        def partly() -> float:
            return sum(len(row.tokens) / row.most for row in at_work.rows if not row.ended)

        with Progress("answer", len(prompts), told, partly) as progress:
            progress.advance(len(prompts) - len(missing), before=True)
            for finished in at_work.answer(rows):
                progress.advance(len(finished))
                made += sum(len(row.tokens) for row in finished)
                cut = {row: row.tokens[:-1] if row.tokens[-1] in ends else row.tokens for row in finished}
                yield {rows[row]: (text(tokens), row.ended, len(row.tokens)) for row, tokens in cut.items()}
