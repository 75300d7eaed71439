"""What the loopback server can do to a request: faults, rate limits, refused parameters."""

import json
import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

# What a request can meet. `name:number` gives a number of seconds.
FAULTS = (
    "ok",
    "429",  # rate limited; with a number, Retry-After
    "500",
    "503",
    "insufficient_quota",
    "401",
    "403",
    "404",  # unknown model
    "echo",  # 400 that repeats the key it was sent
    "too_long",  # 400, context_length_exceeded
    "reset",  # billed, then the connection is reset
    "truncated",  # billed, then closed in the middle of the body
    "hang",  # billed, then silence
    "malformed",  # billed, 200 with half a JSON object
    "html",  # billed, 200 with a web page
    "no_choices",
    "no_usage",
    "absurd_usage",
    "wrong_model",
    "length",
    "content_filter",
    "refusal",
    "null",  # content null
)
LOST = ("reset", "truncated", "hang", "malformed", "html", "no_choices")  # billed, and the answer never arrives


@dataclass
class RateLimit:
    """Requests a minute, as a token bucket of `burst` requests or, with `window` seconds, in any such window."""

    per_minute: float
    burst: float = 20.0
    window: float | None = None
    headers: bool = False  # x-ratelimit-*
    retry_after: bool = False
    level: float = math.inf
    at: float = 0.0
    taken: deque[float] = field(default_factory=deque)

    def take(self, now: float) -> float:
        """0 when the request may pass, else the seconds after which one may."""
        if self.window is None:
            self.level = min(self.burst, self.level + (now - self.at) * self.per_minute / 60)
            self.at = now
            if self.level < 1:
                return (1 - self.level) * 60 / self.per_minute
            self.level -= 1
            return 0.0
        while self.taken and self.taken[0] <= now - self.window:
            self.taken.popleft()
        if len(self.taken) >= self.per_minute * self.window / 60:
            return self.taken[0] + self.window - now
        self.taken.append(now)
        return 0.0

    def told(self, wait: float) -> dict[str, str]:
        """The headers of an answer after `take`."""
        remaining = self.level if self.window is None else self.per_minute * self.window / 60 - len(self.taken)
        told = {"x-ratelimit-limit-requests": f"{self.per_minute:.0f}"} if self.headers else {}
        if self.headers:
            told["x-ratelimit-remaining-requests"] = f"{max(0, math.floor(remaining))}"
            told["x-ratelimit-reset-requests"] = f"{math.ceil(wait * 1000)}ms"
        return told | ({"Retry-After": f"{math.ceil(wait)}"} if wait and self.retry_after else {})


def mix(rates: Mapping[str, float], seed: int = 0) -> Callable[[dict], str]:
    """Faults by chance: {"429": 0.01, "reset": 0.005}; the rest is "ok"."""
    chance = random.Random(seed)
    names, weights = [*rates, "ok"], [*rates.values(), 1 - sum(rates.values())]
    return lambda body: chance.choices(names, weights)[0]


def error(message: str, code: str | None, param: str | None = None) -> str:
    return json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": code, "param": param}})


def too_long(body: Mapping, prompt_tokens: int, most: int | None) -> tuple[int, str] | None:
    """As vLLM 0.32 answers what its `max_model_len` has no room for; an answer that only may be too long it cuts."""
    name = "max_tokens" if "max_tokens" in body else "max_completion_tokens"
    if most is None or (body.get(name, 1) <= most and prompt_tokens < most):
        return None
    if body.get(name, 1) > most:
        said = f"{name}={body[name]} cannot be greater than max_model_len={most}. Please request fewer output tokens. "
        said, value = said + f"(parameter={name}, value={body[name]})", name
    else:
        said = (
            f"This model's maximum context length is {most} tokens. However, your prompt contains at least {most + 1}"
        )
        said += (
            " input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the "
        )
        said, value = said + f"input prompt. (parameter=input_tokens, value={most + 1})", "input_tokens"
    return 400, json.dumps({"error": {"message": said, "type": "BadRequestError", "param": value, "code": 400}})


ERRORS = {
    "429": (429, error("Rate limit reached", "rate_limit_exceeded")),
    "500": (500, error("The server had an error", None)),
    "503": (503, error("Overloaded", None)),
    "insufficient_quota": (429, error("You exceeded your current quota", "insufficient_quota")),
    "401": (401, error("Incorrect API key provided: KEY", "invalid_api_key")),
    "403": (403, error("Country not supported", "unsupported_country")),
    "404": (404, error("The model does not exist", "model_not_found")),
    "echo": (400, error("Cannot read KEY", None)),
    "too_long": (400, error("This model's maximum context length is 8192", "context_length_exceeded")),
}
# As present models answer a parameter that is set.
REFUSED = {
    "temperature": error(
        "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is "
        "supported.",
        "unsupported_value",
        "temperature",
    ),
    "max_tokens": error(
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "unsupported_parameter",
        "max_tokens",
    ),
    # As a server answers that is not OpenAI's, in words alone.
    "max_completion_tokens": json.dumps({"message": "extra fields not permitted: max_completion_tokens"}),
    "reasoning_effort": json.dumps({"detail": "reasoning_effort is unknown to MODEL"}),
}
