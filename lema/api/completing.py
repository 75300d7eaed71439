"""Prompts, completed by a server that stands for a model loaded here: all of them are answered, or the run ends.

fields = plain(temperature=0.7) | VLLM
api = ApiConfig(model="base", base_url="http://127.0.0.1:8000/v1", max_tokens=512, **ASKED)
requests = [Exact(ids, 512, fields, seed=7, stop="\\nQuestion:") for ids in prompts]
completions, _ = complete(requests, api, section="engine", journal_path=resume.with_name("answers.sqlite"))
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lema.api.asking import Spending, ask
from lema.api.requests import Exact as Exact, Message as Message, Request as Request
from lema.config import ApiConfig, PriceConfig
from lema.types import Completion

FREE = PriceConfig(0.0, 0.0, 0.0)
# What vLLM's server also takes: all that a model's generation_config.json could set, and what of a text is the answer.
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


def complete(
    requests: Sequence[Request],
    api: ApiConfig,
    *,
    section: str,
    journal_path: Path,
    price: PriceConfig = FREE,
    budget_usd: float | None = 0.0,
    paid_usd: float = 0.0,
    key: str | None = None,
) -> tuple[list[Completion], Spending]:
    """A completion of each request, in order; each is in the journal as it comes, from which the next call goes on.

    A text ends behind its request's `stop`. Only what will never be answered has none: its finish reason is
    `PROMPT_TOO_LONG` or `CONTENT_REFUSED`. `key` and what raises `UserError` are as in `ask`; that a request fails
    for good does too.
    """
    money = {"price": price, "budget_usd": budget_usd, "paid_usd": paid_usd}
    completions, spending = ask(requests, api, section=section, journal_path=journal_path, key=key, whole=True, **money)
    ended = [each.until(request.stop) for each, request in zip(completions, requests, strict=True)]
    return ended, spending
