"""What answers will cost before any is paid for: requests, tokens, dollars and minutes, each from low to high.

They rest on what can be known without asking: how many questions or wrong paths there are, how long the prompts are,
the prices, and these ranges, which are ours.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lema.config import ApiConfig, PriceConfig
from lema.types import UserError

_BYTES_A_TOKEN = (4.5, 2.5)  # plain English, and LaTeX
_COMPLETION_TOKENS = (200, 1500)  # a visible solution or correction, and one with reasoning before it
_ANSWER_SECONDS = (2.0, 30.0)
_ITEM_BYTES = (300, 1500)  # of a question, and of a long one with its wrong path


@dataclass(frozen=True)
class Costs:
    """What requests take, each from low to high."""

    requests: tuple[float, float]
    prompt_tokens: tuple[float, float]
    completion_tokens: tuple[float, float]
    usd: tuple[float, float]
    minutes: tuple[float, float]

    @property
    def words(self) -> str:
        """Tokens and dollars."""
        tokens = f"{between(*self.prompt_tokens)} prompt and {between(*self.completion_tokens)} completion tokens"
        return f"{tokens}, {f'${between(*self.usd)}' if self.usd[1] else 'nothing'}"


@dataclass(frozen=True)
class Requests:
    """What a stage asks of a server."""

    what: str  # "corrections"
    section: str  # of the config, for messages
    api: ApiConfig
    number: tuple[int, int]  # from low to high
    prompt: str  # without a question
    mean_bytes: float | None = None  # of a prompt with its question, once all prompts are known

    @property
    def prompt_bytes(self) -> tuple[float, float]:
        """Of a prompt with its question, from low to high."""
        if self.mean_bytes is not None:
            return self.mean_bytes, self.mean_bytes
        size = len(self.prompt.encode())
        return size + _ITEM_BYTES[0], size + _ITEM_BYTES[1]

    @property
    def prompt_tokens(self) -> int:
        """About how many a prompt has, between plain English and LaTeX."""
        return round(sum(size / width for size, width in zip(self.prompt_bytes, _BYTES_A_TOKEN, strict=True)) / 2)

    def costs(self, price: PriceConfig) -> Costs:
        """What they take."""
        api, number = self.api, self.number
        most = min(api.limit or _COMPLETION_TOKENS[1], _COMPLETION_TOKENS[1])
        each = [size / width for size, width in zip(self.prompt_bytes, _BYTES_A_TOKEN, strict=True)]
        prompt = number[0] * each[0], number[1] * each[1]
        completion = number[0] * min(_COMPLETION_TOKENS[0], most), number[1] * most
        cheapest = prompt[0] * min(price.input_usd, price.cached_usd) + completion[0] * price.output_usd
        dearest = prompt[1] * price.input_usd + completion[1] * price.output_usd
        at_once, per_minute = api.max_concurrent_requests or 1, api.max_requests_per_minute or math.inf
        tokens_per_minute = api.max_tokens_per_minute or math.inf
        low, high = (
            max(count * seconds / 60 / at_once, count / per_minute, (asked + said) / tokens_per_minute)
            for count, seconds, asked, said in zip(number, _ANSWER_SECONDS, prompt, completion, strict=True)
        )
        return Costs(number, prompt, completion, (cheapest / 1e6, dearest / 1e6), (low, high))

    def told(self, price: PriceConfig) -> str:
        """The same in a line."""
        found = self.costs(price)
        count, minutes = between(*self.number), between(*found.minutes)
        return f"{self.what} by {self.api.model}: {count} requests, {found.words}, {minutes} minutes"


def price(api: ApiConfig, prices: Mapping[str, PriceConfig], section: str) -> PriceConfig:
    """What `api.model` costs: as set, else as in conf/prices; `UserError` when neither says."""
    listed = prices.get(api.model or "")
    output = listed.output_usd if listed and api.output_usd is None else api.output_usd
    if api.input_usd is not None and output is not None:
        return PriceConfig(api.input_usd, api.input_usd, output)
    if listed:
        return replace(listed, output_usd=output)
    keys = f"set {section}.input_usd= and {section}.output_usd="
    needs = f"{keys} (dollars per million tokens; 0 for a server of your own)"
    raise UserError(f"{section}.model={api.model}: conf/prices has no price of it: {needs}")


def between(*values: float) -> str:
    """`0.4`, `12 to 1,250`, `3.1M`."""
    whole = [f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}" for value in values]
    short = [f"{value / 1e6:.1f}M" if value >= 1e6 else text for value, text in zip(values, whole, strict=True)]
    return " to ".join(dict.fromkeys(short))
