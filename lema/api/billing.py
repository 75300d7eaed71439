"""What an attempt costs: at most what its request allows, as long as the server bills no more than that."""

from typing import Any

from lema.config import PriceConfig

Tokens = tuple[int, int, int]  # of the prompt, those of them that were cached, of the completion
_MOST_TOKENS = 10**7


def most_usd(request: str, limit: int, price: PriceConfig) -> float:
    """The most, in dollars, that an attempt with this body is allowed to cost, with `limit` tokens for the answer.

    A token is at least one byte, and the names in the request cover the chat template.
    """
    return (len(request.encode()) * max(price.input_usd, price.cached_usd) + limit * price.output_usd) / 1e6


def usd(tokens: Tokens, price: PriceConfig) -> float:
    """What so many tokens cost, in dollars."""
    prompt, cached, completion = tokens
    return ((prompt - cached) * price.input_usd + cached * price.cached_usd + completion * price.output_usd) / 1e6


def billed(usage: Any, written: bool) -> Tokens | None:
    """The tokens that a server's `usage` bills for an answer with a text (`written`) or without; None if it tells none.

    A count is a whole number, `12.0` included, from 0 to ten million, as no model has a longer context. Without one of
    the prompt (from 1) and one of the completion (from 1, when a text is `written`) the bill is unknown: the attempt
    costs the most that its request allows, and no tokens are counted. A count may be beyond what the request allows, as
    where a limit leaves out reasoning or a server adds to prompts: that is paid too. The total tells only of reasoning
    that the completion leaves out. Cached tokens count when they are not more than those of the prompt.

    >>> billed({"prompt_tokens": 9, "completion_tokens": 700, "total_tokens": 10**400}, True)
    (9, 0, 700)
    """
    if not isinstance(usage, dict):
        return None
    prompt, completion, total = (_count(usage.get(f"{kind}_tokens")) for kind in ("prompt", "completion", "total"))
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    if not prompt or completion is None:
        return None
    completion = max(completion, (total or 0) - prompt)
    if written and not completion:
        return None
    return prompt, cached if cached is not None and cached <= prompt else 0, completion


def _count(value: Any) -> int | None:
    if type(value) not in (int, float) or not 0 <= value <= _MOST_TOKENS or value != int(value):
        return None
    return int(value)
