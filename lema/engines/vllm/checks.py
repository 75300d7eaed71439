"""checks: what must hold of a server before its answers count. Each takes a second, and its failure ends the run.

Prompts must reach the model as we made them (a second BOS costs points, and nobody sees it), the model's own generation
settings must not shape answers, greedy answers must not change, and an adapter must change what the base says.
"""

from itertools import pairwise
from typing import Any

from lema.api.requests import VLLM, plain
from lema.engines.vllm.process import Server
from lema.types import UserError

FIELDS: dict[str, Any] = plain(0.0) | VLLM  # all that shapes an answer, so that no default does; greedy
TOKENS = 16  # of a checked answer
_SAME = 3  # tries in which two answers in a row must be equal: the first finds nothing in the server's cache


def check(server: Server, model: str, tokens: list[int]) -> None:
    """`UserError` when a server that was just started does not answer this prompt as it must."""
    greedy, plain = {**FIELDS, "max_tokens": TOKENS}, {"temperature": 1.0, "seed": 1, "max_tokens": TOKENS}
    found = _asked(server, model, tokens, greedy | {"return_token_ids": True})
    if found["prompt_token_ids"] != tokens:
        seen = f"{len(found['prompt_token_ids'] or [])} tokens where {len(tokens)} were sent"
        raise _wrong(f"the model sees other prompts than are sent ({seen})")
    answers = (_text(server, model, tokens, greedy) for _ in range(_SAME))  # the last is asked for only if need be
    if not any(one == other for one, other in pairwise(answers)):
        raise _wrong(f"greedy answers to one prompt differ in {_SAME} tries")
    # What the model's `generation_config.json` says would fill in the fields that the second request leaves out.
    if any(_text(server, model, tokens, FIELDS | plain) == _text(server, model, tokens, plain) for _ in range(_SAME)):
        return
    raise _wrong("the model's own generation settings (generation_config.json) shape its answers")


def check_adapter(server: Server, base: str, adapter: str, tokens: list[int]) -> None:
    """`UserError` when the tokens of a prompt are as likely with an adapter as without it, but for the base's noise."""
    once, again, adapted = (_log_probabilities(server, model, tokens) for model in (base, base, adapter))
    if _distance(once, adapted) <= _distance(once, again):
        raise _wrong(f"the adapter {adapter} has no effect")


def _log_probabilities(server: Server, model: str, tokens: list[int]) -> list[float]:
    """Of each token of a prompt after the first one."""
    _, *found = _asked(server, model, tokens, {**FIELDS, "max_tokens": 1, "prompt_logprobs": 0})["prompt_logprobs"]
    return [each[str(token)]["logprob"] for each, token in zip(found, tokens[1:], strict=True)]


def _distance(one: list[float], other: list[float]) -> float:
    return max((abs(a - b) for a, b in zip(one, other, strict=True)), default=0.0)


def _text(server: Server, model: str, tokens: list[int], fields: dict[str, Any]) -> str:
    return _asked(server, model, tokens, fields)["text"]


def _asked(server: Server, model: str, tokens: list[int], fields: dict[str, Any]) -> dict[str, Any]:
    """The one answer to a prompt."""
    reply = server.post("/v1/completions", {**fields, "model": model, "prompt": tokens})
    if reply.get("model") != model or not reply.get("choices"):
        raise _wrong(f"{reply.get('model')} answers in the place of {model}")
    return reply["choices"][0]


def _wrong(what: str) -> UserError:
    return UserError(f"vLLM: {what}: update vLLM (engine.command), leave out engine.options, or engine=transformers")
