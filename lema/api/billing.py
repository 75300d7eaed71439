"""What an attempt costs: what the server bills, or where it tells no bill the most that its request allows."""

import logging
from typing import Any

from lema.config import PriceConfig

log = logging.getLogger(__name__)
FREE = PriceConfig(0.0, 0.0, 0.0)
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


class Budget:
    """What may be paid, what is paid, and what is reserved for requests that are on their way; in dollars."""

    def __init__(self, most: float, paid: float, price: PriceConfig) -> None:
        self.most, self.paid, self.price = most, paid, price
        self.free = not (price.input_usd or price.output_usd)
        self._reserved = 0.0
        self._dearer = 1.0  # a bill is at most so many times what its request allows, as it seems

    def worst(self, request: str, limit: int) -> float:
        """The most that an attempt costs, as it seems."""
        return most_usd(request, limit, self.price) * self._dearer

    def lacks(self, usd: float) -> str:
        """Why a request may not leave that costs so much at the most; "" when it may."""
        spent = self.paid + self._reserved
        if not usd or spent + usd <= self.most:  # so written that "not a number" allows nothing
            return ""
        return f"budget_usd={self.most:g}: ${spent:.2f} are spent, and the next request may cost ${usd:.4f}: raise it"

    def reserve(self, usd: float) -> None:
        """A request leaves."""
        self._reserved += usd

    def settle(self, worst: float, tokens: Tokens | None, request: str, limit: int) -> float:
        """What an attempt has cost for which `worst` was reserved: that, where the server tells no tokens.

        A server that bills more than the request allows will do so again: then more is reserved for what is still sent.
        """
        paid, allowed = worst if tokens is None else usd(tokens, self.price), most_usd(request, limit, self.price)
        if paid > allowed * self._dearer * (1 + 1e-9):
            self._dearer = paid / allowed
            told = "%-16s a bill of $%.4f, where the request allows $%.4f: it counts, and others may be as high"
            log.warning(told, "asking", paid, allowed)
        self._reserved -= worst
        self.paid += paid
        return paid


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
