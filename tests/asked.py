"""What tests ask a server, and how they fill a journal."""

import asyncio
import json
import re
from collections.abc import Awaitable
from pathlib import Path

from openai_server import OpenAIServer

from lema.api.asking import ask
from lema.api.client import listed
from lema.api.journal import Journal, Spending
from lema.api.requests import Message
from lema.config import ApiConfig, PriceConfig
from lema.types import Completion, UserError

KEY = "sk-secret-of-the-tests"
PRICE = PriceConfig(2.0, 1.0, 10.0)
TOKENS = 3, 2, 4  # of a bill: the prompt's, those of them that were cached, the completion's
HELLO, OTHER = "b-hello", "a-other"
REQUEST = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Größe?"}]}, ensure_ascii=False)
YES = Completion("yes ä😀", "stop", "m")


def api_for(server: OpenAIServer | str | None, **changes: object) -> ApiConfig:
    values: dict = {
        "model": "gpt-test",
        "base_url": server.url if isinstance(server, OpenAIServer) else server,
        "temperature": None,
        "reasoning_effort": None,
        "max_completion_tokens": 500,
        "max_tokens": None,
        "input_usd": None,
        "output_usd": None,
        "max_concurrent_requests": 8,
        "max_requests_per_minute": None,
        "max_tokens_per_minute": None,
        "max_retries": 2,
        "request_timeout": 5.0,
        "max_wait": 600.0,
    }
    return ApiConfig(**{**values, **changes})


def asked(
    count: int,
    api: ApiConfig,
    journal: Path,
    budget: float | None = 100.0,
    price: PriceConfig = PRICE,
    retry_failed: bool = False,
) -> tuple[list[Completion], Spending]:
    """What `count` questions are answered, each long enough for a price."""
    prompts = [
        Message(f"What is {number} + 3? Tell it in the long form that we agreed on before.") for number in range(count)
    ]
    return ask(
        prompts, api, price, section="corrector", budget_usd=budget, journal_path=journal, retry_failed=retry_failed
    )


def check_model(api: ApiConfig, section: str, prompt_tokens: int) -> str | None:
    """What is wrong with the model by the server's list, in a line."""
    try:
        listed(api, section, prompt_tokens)
    except UserError as error:
        return str(error)
    return None


def number_of(body: dict) -> int:
    """Which of the questions of `asked` it is."""
    return int(re.findall(r"\d+", body["messages"][0]["content"])[0])


def written(*writes: Awaitable[None]) -> None:
    """Once all are on the disk."""

    async def together() -> None:
        await asyncio.gather(*writes)

    asyncio.run(together())


def paid(journal: Journal, key: str, usd: float, answer: Completion | None, worst: float = 2.0) -> None:
    written(journal.reserve(key, REQUEST, worst))
    written(journal.settle(key, REQUEST, worst, TOKENS, usd, answer))
