"""What one request asks: a user's message for `/v1/chat/completions`, or an exact prompt for `/v1/completions`.

A request's key, by which the journal finds its answer, is a hash of its whole body: of all that can shape the answer.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lema.config import ApiConfig

# The settings of a section that a chat request has when they are set.
PARAMETERS = ("temperature", "reasoning_effort", "max_completion_tokens", "max_tokens")


@dataclass(frozen=True, slots=True)
class Message:
    """A user's message: the server puts it into its model's chat template."""

    text: str
    attempt: int = 0  # is not sent: it tells apart what is asked several times
    seed: int | None = None  # as below
    stop: str | None = None

    path = "/chat/completions"

    @property
    def size(self) -> int:
        """About how many bytes of text it has."""
        return len(self.text.encode("utf-8", "replace"))

    def limit(self, api: ApiConfig) -> int:
        """The most tokens that its answer may have."""
        return api.limit

    def body(self, api: ApiConfig) -> dict[str, Any]:
        """What is sent."""
        body = {"model": api.model, "messages": [{"role": "user", "content": _sendable(self.text)}]}
        body |= {name: getattr(api, name) for name in PARAMETERS if getattr(api, name) is not None}
        return body | _own(self.seed, self.stop)


@dataclass(frozen=True, slots=True)
class Exact:
    """A prompt that is continued as it is: token ids, or a text.

    `fields` are in the body as they stand, and say all else of how the answer is drawn; requests share one object. Of
    a section's settings a request takes the model's name alone.
    """

    prompt: Sequence[int] | str
    max_tokens: int  # of the answer
    fields: Mapping[str, Any]  # {"temperature": 0.0, "top_p": 1.0, …}
    seed: int | None = None
    stop: str | None = None
    attempt: int = 0  # as above; where each has a seed of its own, that tells them apart

    path = "/completions"

    @property
    def size(self) -> int:
        """About how many bytes of text it has; a token has four."""
        return len(_sendable(self.prompt).encode()) if isinstance(self.prompt, str) else 4 * len(self.prompt)

    def limit(self, api: ApiConfig) -> int:
        """The most tokens that its answer may have."""
        return self.max_tokens

    def body(self, api: ApiConfig) -> dict[str, Any]:
        """What is sent."""
        prompt = _sendable(self.prompt) if isinstance(self.prompt, str) else self.prompt
        body = {**self.fields, "model": api.model, "prompt": prompt, "max_tokens": self.max_tokens}
        return body | _own(self.seed, self.stop)


Request = Message | Exact
# The fields of `Exact` that vLLM's server also takes: all that a model's generation_config.json could set, and what of
# a text is the answer.
VLLM: dict[str, Any] = {
    "top_k": -1,  # all tokens
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "min_tokens": 0,
    "ignore_eos": False,
    "add_special_tokens": False,  # no second BOS before a prompt that is a text
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,  # its default, and the tokenizer's own
    "include_stop_str_in_output": True,
}


def plain(temperature: float) -> dict[str, Any]:
    """The fields of `Exact` that every server takes: the temperature alone shapes the samples, and 0 is greedy."""
    return {"temperature": temperature, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "n": 1}


def text(request: Request, api: ApiConfig) -> str:
    """The body of a request, as JSON."""
    return _json(request.body(api))


def key(request: Request, api: ApiConfig) -> str:
    """What the journal knows a request by: a hash of its body, and of its attempt."""
    body = request.body(api)
    identity = _json(body | {"attempt": request.attempt} if request.attempt else body)
    return hashlib.sha256(identity.encode()).hexdigest()


def written(content: Any) -> str | None:
    """An answer's text: of a list of parts, as models send that reason in view, the texts alone; None without one."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(part for part in parts if isinstance(part, str)) or None
    return _sendable(content) if isinstance(content, str) else None


def _own(seed: int | None, stop: str | None) -> dict[str, Any]:
    """What is sent only when it is set."""
    return ({} if seed is None else {"seed": seed}) | ({} if stop is None else {"stop": [stop]})


def _json(body: dict[str, Any]) -> str:
    return json.dumps(body, sort_keys=True, ensure_ascii=False)


def _sendable(text: str) -> str:
    """A text without halves of surrogate pairs, which go over no wire and into no file."""
    return text.encode("utf-8", "replace").decode()
