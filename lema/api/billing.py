"""What a reply may cost: at most what its request allows, whatever the server counts."""

import math
from typing import Any

from lema.config import PriceConfig

Tokens = tuple[int, int, int]  # of the prompt, those of them that were cached, of the completion


def most_usd(request: str, limit: int, price: PriceConfig) -> float:
    """The most that an attempt with this body can cost, in dollars, when its answer has at most `limit` tokens.

    A token is at least one byte, and the names in the request cover the chat template.
    """
    return (len(request.encode()) * max(price.input_usd, price.cached_usd) + limit * price.output_usd) / 1e6


def usd(tokens: Tokens, price: PriceConfig) -> float:
    """What so many tokens cost, in dollars."""
    prompt, cached, completion = tokens
    return ((prompt - cached) * price.input_usd + cached * price.cached_usd + completion * price.output_usd) / 1e6


def billed(usage: Any, request: str, limit: int, written: bool) -> Tokens | None:
    """The tokens to book by a server's `usage`, whose answer has a text (`written`) or none; None, if it tells nothing.

    A count is a whole number from 0, `12.0` included; a text, a truth value, "not a number" or a negative one is none.
    Without a count of the prompt (from 1) and of the completion (from 1, when a text is `written`) the bill is unknown:
    the attempt costs the most that it can, and no tokens are counted. A prompt beyond the bytes of the request, and a
    completion beyond `limit`, are booked as these. The total tells only of reasoning that the completion leaves out: it
    counts when it is larger than the parts and not beyond what both may have together. Cached tokens count when they
    are not more than those of the prompt.

    >>> billed({"prompt_tokens": 9, "completion_tokens": 10**400}, '{"model": "m"}', 500, True)
    (9, 0, 500)
    """
    if not isinstance(usage, dict):
        return None
    prompt, completion, total = (_count(usage.get(f"{kind}_tokens")) for kind in ("prompt", "completion", "total"))
    details, most = usage.get("prompt_tokens_details"), len(request.encode())
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    if not prompt or completion is None:
        return None
    if total is not None and total <= most + limit:
        completion = max(completion, total - prompt)
    if written and not completion:
        return None
    prompt = min(prompt, most)
    return prompt, cached if cached is not None and cached <= prompt else 0, min(completion, limit)


def _count(value: Any) -> int | None:
    if type(value) not in (int, float) or not 0 <= value < math.inf or value != int(value):
        return None
    return int(value)
