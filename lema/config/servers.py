"""Servers: where a model is asked, at what pace and price, and how."""

from dataclasses import dataclass, field
from typing import Annotated, Optional

from lema.config.allowed import NO_EFFECT, Count, Range, Temperature

Dollars = Annotated[float, Range(0, 10**9)]
_PerMinute = Annotated[float, Range(0.01, 10**9)]


@dataclass(kw_only=True)
class ServerConfig:
    """An OpenAI-compatible server, and the pace at which it is asked. All null where none is."""

    model: Optional[str] = None
    base_url: Optional[str] = field(default=None, metadata=NO_EFFECT)  # null is OPENAI_BASE_URL, else OpenAI itself
    # Dollars per million tokens; null looks the model up in conf/prices
    input_usd: Optional[Dollars] = field(default=None, metadata=NO_EFFECT)
    output_usd: Optional[Dollars] = field(default=None, metadata=NO_EFFECT)  # reasoning included
    # A server has no more ports
    max_concurrent_requests: Optional[Annotated[int, Range(1, 65_535)]] = field(default=None, metadata=NO_EFFECT)
    # Null: what the server's headers say
    max_requests_per_minute: Optional[_PerMinute] = field(default=None, metadata=NO_EFFECT)
    max_tokens_per_minute: Optional[_PerMinute] = field(default=None, metadata=NO_EFFECT)  # the same
    max_retries: Optional[Annotated[int, Range(0, 1000)]] = field(default=None, metadata=NO_EFFECT)
    # Seconds, the whole answer
    request_timeout: Optional[Annotated[float, Range(0, 86_400, above=True)]] = field(default=None, metadata=NO_EFFECT)
    # Seconds; longer ends the run
    max_wait: Optional[Annotated[float, Range(0, 2_592_000)]] = field(default=None, metadata=NO_EFFECT)


@dataclass(kw_only=True)
class ApiConfig(ServerConfig):
    """How a model behind such a server is asked."""

    temperature: Optional[Temperature] = None  # sent only when set, as are the next three
    reasoning_effort: Optional[str] = None
    max_completion_tokens: Optional[Count] = None  # one of these two must be set: without a limit no budget can be kept
    max_tokens: Optional[Count] = None  # what older servers call it

    @property
    def limit_name(self) -> str:
        """Which of the two limits an answer."""
        return "max_completion_tokens" if self.max_tokens is None else "max_tokens"

    @property
    def limit(self) -> int:
        """The most tokens that an answer may have; 0 where that is not set."""
        return max(self.max_tokens or 0, self.max_completion_tokens or 0)


@dataclass
class PriceConfig:
    """What a model costs, in dollars per million tokens."""

    input_usd: Dollars  # the dearest a prompt token can be, a surcharge for writing the cache included
    cached_usd: Dollars  # a prompt token that the server had in its cache
    output_usd: Dollars  # reasoning included
