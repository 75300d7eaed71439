"""vllm: a child process, `vllm serve`, answers for one base: untuned, and with adapters that stay unmerged.

Token ids go over the wire, by the road of `lema.api.asking`, at price 0 and with a journal in the artifact's resume
folder: an interrupted call asks again what was in flight, and nothing else. One server answers for all that is asked of
one base, and the adapters on it, each named by its content; it is kept between steps (`lema.engines.running`).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Optional

from lema.api.asking import FREE, Exact, ask
from lema.artifacts import keep, kept
from lema.config import IF_SET, NO_EFFECT, ApiConfig, Count, Path as PathText, Precision, Range
from lema.engines import LocalModel, running, sample_seed
from lema.engines.vllm import checks
from lema.engines.vllm.found import RANKS, missing as missing, version
from lema.engines.vllm.process import Server
from lema.identity import digest
from lema.models.weights import Weights, whole
from lema.types import PROMPT_TOO_LONG, Completion, Prompt, UserError

log = logging.getLogger(__name__)
_AT_ONCE = 512  # requests in flight for each replica: twice what it answers at once by default, so that it never waits
_DYING = 20.0  # seconds, in which a server that has lost a worker ends: until then it refuses what it is asked
_DAY = 86_400.0  # seconds: an answer may wait for its turn that long
_DTYPES = {Precision.bf16: "bfloat16", Precision.fp32: "float32"}
_PIECE = 2048  # tokens: a server's length is rounded up to whole pieces, so that another step's prompts still fit
_MERGE = "merge it, train.merge=original selection=last, or engine=transformers"


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
        from lema.models.huggingface import end_ids

        ends = sorted({self._tokenizer.eos_token_id, *end_ids(self.weights)})
        # What ends an answer is what ends it in every engine, and not what vLLM would add to that.
        return checks.FIELDS | {"temperature": self.model.temperature, "ignore_eos": True, "stop_token_ids": ends}

    def _request(self, prompt: Prompt, tokens: list[int], length: int) -> Exact:
        most = min(self.model.max_new_tokens, length - len(tokens))
        seed = sample_seed(self.model.seed, prompt)
        return Exact(tokens, most, self._fields, seed=seed, stop=prompt.stop)

    def _answers(self, server: "Serving", name: str, asked: list[Exact], resume: Path) -> list[Completion]:
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


@dataclass(frozen=True)
class Base:
    """What a server has loaded, and how it was started. `settings` are those of the engine."""

    settings: Settings
    weights: Weights
    precision: Precision
    four_bit: bool  # the base that `qlora` trains on: through NF4 and back

    @property
    def name(self) -> str:
        """What requests call it."""
        return digest([self.weights.digest, self.precision, self.four_bit])


class Serving:
    """A server for one base, with room for texts of `length` tokens, and for adapters up to a rank (0: for none)."""

    def __init__(self, base: Base, length: int, rank: int, resume: Path) -> None:
        self.base, self.length, self.rank, self.adapter = base, length, rank, ""
        weights = base.weights
        if base.four_bit:
            weights = _dequantised(base, resume.with_name("dequantised base"))
        settings = {"VLLM_BATCH_INVARIANT": "1"} if base.settings.batch_invariant else {}
        command = _command(base, weights, length, rank)
        self.server = Server(command, settings, running.logs / "vllm.log")
        running.callback(self.server.stop)

    def fits(self, base: Base, length: int, rank: int) -> bool:
        """Whether it runs and can be asked this."""
        return self.server.lives() and self.base == base and self.length >= length and self.rank >= rank

    def load(self, adapter: Path, tokens: list[int]) -> str:
        """The name of an adapter, which is loaded; `UserError` when it changes nothing of what follows these tokens."""
        from lema.models.adapters import content, is_zero

        name = content(adapter)
        if name != self.adapter:
            if self.adapter:
                self.server.post("/v1/unload_lora_adapter", {"lora_name": self.adapter})
            try:
                self.server.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(adapter.resolve())})
            except UserError as error:
                if not self.server.lives():
                    raise
                raise UserError(f"{adapter}: {error}: {_MERGE}") from error
            self.adapter = name
            tokens = tokens[: self.length - 1]
            if len(tokens) > 1 and not is_zero(adapter):
                checks.check_adapter(self.server, self.base.name, name, tokens)
        return name


_kept: list[Serving] = []  # the last that was started, at most


def server_of(
    model: LocalModel, weights: Weights, adapter: Path | None, tokens: list[list[int]], resume: Path
) -> Serving:
    """The server of a base, started anew unless the running one fits; `tokens` are the prompts that it will be asked.

    Raises `UserError` when it cannot start, when a check of it fails, or for an adapter that no server takes.
    """
    base = Base(model.engine, weights, model.computation.precision, model.four_bit)
    length, rank = _length(base, max(map(len, tokens)) + model.max_new_tokens), _rank(adapter)
    if not (_kept and _kept[0].fits(base, length, rank)):
        from lema.models.sizes import release_memory

        running.close()
        release_memory()
        _kept[:] = [Serving(base, length, rank, resume)]
        checks.check(_kept[0].server, base.name, min(tokens, key=len)[: max(1, length - checks.TOKENS)])
    return _kept[0]


def _length(base: Base, need: int) -> int:
    """Of the texts that the server must have room for, in tokens: what is asked, at most the model's positions."""
    from lema.models.huggingface import load_architecture
    from lema.models.trial import named_positions

    wanted = base.settings.max_length or -(-need // _PIECE) * _PIECE
    return min(wanted, named_positions(load_architecture(base.weights)) or wanted)


def _rank(adapter: Path | None) -> int:
    """The room that an adapter needs; 0 for none. `UserError` for one that vLLM cannot put on a base."""
    if adapter is None:
        return 0
    from lema.models.adapters import foreign, rank

    if what := foreign(adapter):
        raise UserError(f"{adapter}: {what}, which vLLM cannot put on a base: {_MERGE}")
    room = next((each for each in RANKS if each >= rank(adapter)), None)
    if room is None:
        raise UserError(f"{adapter}: its rank is {rank(adapter)}, and vLLM has room for {RANKS[-1]} at most: {_MERGE}")
    return room


def replicas(tensor_parallel: int) -> int:
    """How many copies of a model a server has, of which each takes so many GPUs."""
    from lema.models.sizes import visible_gpus

    return max(1, visible_gpus() // tensor_parallel)


def _command(base: Base, weights: Weights, length: int, rank: int) -> list[str]:
    from lema.models.sizes import visible_gpus

    settings = base.settings
    options = {
        "dtype": _DTYPES[base.precision],
        "max-model-len": length,
        "generation-config": "vllm",  # else the model's own file would shape what is not asked explicitly
        "served-model-name": base.name,
    }
    if weights.revision:
        options["revision"] = weights.revision
    if visible_gpus():
        options["gpu-memory-utilization"] = settings.memory_share
        options["tensor-parallel-size"] = settings.tensor_parallel
        options["data-parallel-size"] = replicas(settings.tensor_parallel)
        options["api-server-count"] = 1  # which hands adapters on to all copies; several refuse adapters at run time
    if rank:
        options["max-lora-rank"] = rank
    said = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    adapters = ["--enable-lora"] if rank else []
    return [settings.command, "serve", weights.location, *(settings.options or ()), *said, *adapters]


def _dequantised(base: Base, folder: Path) -> Weights:
    """The base that `qlora` trains on, in 16 bits: made once for an artifact, in a folder to resume from."""
    from lema.models.merge import write_dequantised
    from lema.models.sizes import release_memory

    done = folder / "whole.json"
    if not kept(done):
        write_dequantised(base.weights, folder, base.precision)
        release_memory()  # the server needs it
        keep(done, True)
    return whole(base.weights, folder)
