"""serving: one server for all that is asked of one base, and the adapters on it, each named by its content."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema.artifacts import keep, kept
from lema.config import Precision
from lema.engines import LocalModel, running
from lema.engines.vllm import checks
from lema.engines.vllm.found import RANKS
from lema.engines.vllm.process import Server
from lema.identity import digest
from lema.models.weights import Weights, whole
from lema.types import UserError

_DTYPES = {Precision.bf16: "bfloat16", Precision.fp32: "float32"}
_PIECE = 2048  # tokens: a server's length is rounded up to whole pieces, so that another step's prompts still fit


@dataclass(frozen=True)
class Base:
    """What a server has loaded, and how it was started. `settings` are those of the engine."""

    settings: Any
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
                raise UserError(f"{adapter}: {error}: {MERGE}") from error
            self.adapter = name
            tokens = tokens[: self.length - 1]
            if len(tokens) > 1 and not is_zero(adapter):
                checks.check_adapter(self.server, self.base.name, name, tokens)
        return name


MERGE = "merge it, train.merge=original selection=last, or engine=transformers"
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
        raise UserError(f"{adapter}: {what}, which vLLM cannot put on a base: {MERGE}")
    room = next((each for each in RANKS if each >= rank(adapter)), None)
    if room is None:
        raise UserError(f"{adapter}: its rank is {rank(adapter)}, and vLLM has room for {RANKS[-1]} at most: {MERGE}")
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
    return [
        settings.command,
        "serve",
        weights.location,
        *(settings.options or ()),
        *said,
        *(["--enable-lora"] if rank else []),
    ]


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
