"""vllm: a child process, `vllm serve`, answers for one base: untuned, and with adapters that stay unmerged.

Token ids go over the wire, by the road of `lema.api.asking`, at price 0 and with a journal in the artifact's resume
folder: an interrupted call asks again what was in flight, and nothing else. The server is kept between steps
(`lema.engines.running`) as long as the same base is asked.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Optional

from lema.api.asking import FREE, Exact, ask
from lema.config import IF_SET, NO_EFFECT, ApiConfig, Count, Path as PathText, Range
from lema.engines import LocalModel, sample_seed
from lema.engines.vllm.checks import FIELDS
from lema.engines.vllm.found import missing as missing, version
from lema.engines.vllm.serving import Serving, replicas, server_of
from lema.models.weights import Weights
from lema.types import PROMPT_TOO_LONG, Completion, Prompt, UserError

log = logging.getLogger(__name__)
_AT_ONCE = 512  # requests in flight for each replica: twice what it answers at once by default, so that it never waits
_DYING = 20.0  # seconds, in which a server that has lost a worker ends: until then it refuses what it is asked
_DAY = 86_400.0  # seconds: an answer may wait for its turn that long


@dataclass(kw_only=True)
class Settings:
    """How `vllm serve` is started."""

    name: str
    command: PathText = field(metadata=NO_EFFECT)
    tensor_parallel: Count = field(metadata=NO_EFFECT)  # GPUs that hold one copy of the model
    memory_share: Annotated[float, Range(0, 1, above=True)] = field(metadata=NO_EFFECT)  # of each GPU's memory
    max_length: Optional[Count] = field(default=None, metadata=IF_SET)  # tokens of a prompt and its answer together
    batch_invariant: bool = field(metadata=IF_SET)
    options: Optional[list[str]] = field(default=None, metadata=IF_SET)  # further ones of `vllm serve`


class Engine:
    """One base, or an adapter on it."""

    def __init__(self, settings: Settings, model: LocalModel, weights: Weights, adapter: Path | None) -> None:
        self.settings, self.model, self.weights, self.adapter = settings, model, weights, adapter
        self.costs: dict[str, Any] = {}

    @property
    def about(self) -> dict[str, str]:
        from lema.models.sizes import device

        return {"engine": f"vllm {version(self.settings.command)}", "device": device()}

    @cached_property
    def _tokenizer(self) -> Any:
        from lema.models.huggingface import load_tokenizer

        return load_tokenizer(self.weights)

    def complete(self, prompts: Sequence[Prompt], resume: Path) -> list[Completion]:
        """Completions in order; those that have arrived are in a journal beside `resume`.

        A prompt that leaves no room for an answer is not asked: it counts as one that the limit cut to nothing.
        """
        from lema.models.encoding import encode_prompt

        if not prompts:
            return []
        encoded = [encode_prompt(self._tokenizer, prompt.text) for prompt in prompts]
        server = server_of(self.model, self.weights, self.adapter, encoded, resume)
        fit = [index for index, tokens in enumerate(encoded) if len(tokens) < server.length]
        if len(fit) < len(encoded):
            told = "%s: %d of %d prompts have %d tokens or more, the most that is read: they count as cut, and wrong"
            log.warning(told, self.weights.name, len(encoded) - len(fit), len(encoded), server.length)
        completions = [Completion("", "length", self.weights.name, 0, PROMPT_TOO_LONG) for _ in prompts]
        name = server.base.name if self.adapter is None else server.load(self.adapter, min(encoded, key=len))
        asked = [self._request(prompts[index], encoded[index], server.length) for index in fit]
        for index, answer in zip(fit, self._answers(server, name, asked, resume), strict=True):
            completions[index] = self._completion(answer)
        return completions

    @cached_property
    def _drops_space(self) -> bool:
        """Whether a text loses its first space where it is decoded without what came before, as other engines do it."""
        return not self._tokenizer.decode(self._tokenizer.encode("a a", add_special_tokens=False)[-1:]).startswith(" ")

    @cached_property
    def _fields(self) -> dict[str, Any]:
        """Of each request: all that shapes an answer, but what is its own."""
        from lema.models.generating import own_settings

        named: Any = own_settings(self.weights).eos_token_id or []
        ends = sorted({self._tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])})
        # What ends an answer is what ends it in every engine, and not what vLLM would add to that.
        return FIELDS | {"temperature": self.model.temperature, "ignore_eos": True, "stop_token_ids": ends}

    def _request(self, prompt: Prompt, tokens: list[int], length: int) -> Exact:
        most = min(self.model.max_new_tokens, length - len(tokens))
        seed = sample_seed(self.model.seed, prompt)
        return Exact(tokens, most, self._fields, seed=seed, stop=prompt.stop)

    def _answers(self, server: Serving, name: str, asked: list[Exact], resume: Path) -> list[Completion]:
        api = ApiConfig(
            model=name,
            base_url=f"{server.server.url}/v1",
            max_tokens=self.model.max_new_tokens,
            max_concurrent_requests=_AT_ONCE * replicas(self.settings.tensor_parallel),
            max_retries=1,
            request_timeout=_DAY,
            max_wait=_DAY,
        )
        journal = resume.with_name(f"{resume.name} answers.sqlite")
        try:
            completions, _ = ask(
                asked,
                api,
                FREE,
                section="engine",
                budget_usd=0.0,
                journal_path=journal,
                key=server.server.key,
                whole=True,
            )
            return completions
        except UserError as error:
            if server.server.lives(_DYING):
                raise
            raise UserError(f"{server.server.death('ended')}; the same command goes on from here") from error

    def _completion(self, answer: Completion) -> Completion:
        """An answer as every engine gives it."""
        text = answer.text or ""
        if self._drops_space:
            text = text.removeprefix(" ")
        return replace(answer, text=text, model=self.weights.name)
