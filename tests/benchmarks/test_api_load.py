"""The engine at full size: 20,000 requests of a bad hour, 50 kills, four processes, a dollar, 1,200 a minute."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from asking_load import BAD_HOUR, bad_hour, budget, finished, four, killed, limited, prompts, served, started
from openai import AsyncOpenAI, OpenAIError

from lema.api.requests import Message

pytestmark = pytest.mark.full


def test_bad_hour_of_20000_is_faster_than_the_plain_client(tmp_path: Path) -> None:
    plain = asyncio.run(plain_client(4000))
    told = bad_hour(20_000, 256, 0.5, tmp_path)
    rate = 20_000 / told["seconds"]
    print(f"{rate:.0f}/s, {rate / 512:.0%} of the bound; plain client {plain:.0f}/s, {rate / plain:.2f} times")
    assert rate >= 0.6 * 512
    assert rate >= 1.3 * plain


async def plain_client(count: int) -> float:
    """Requests a second of openai's client as it comes, whatever becomes of them."""
    os.environ["NO_PROXY"] = "127.0.0.1"
    with served(latency=0.5, spread=0.5, faults=BAD_HOUR) as url:
        async with AsyncOpenAI(api_key="any", base_url=url) as client:
            width, failed, wanted = asyncio.Semaphore(256), [], prompts(count)

            async def one(prompt: Message) -> None:
                async with width:
                    try:
                        messages = [{"role": "user", "content": prompt.text}]
                        await client.chat.completions.create(model="gpt-test", messages=messages)  # type: ignore[arg-type]
                    except (OpenAIError, ValueError) as error:
                        failed.append(error)

            start = time.monotonic()
            await asyncio.gather(*(one(prompt) for prompt in wanted))
            print(f"plain client: {len(failed)} of {count} failed")
            return count / (time.monotonic() - start)


@pytest.mark.parametrize("width", [32, 256])
def test_300_a_second_without_latency(width: int, tmp_path: Path) -> None:
    with served() as url:
        told = finished(started(url, 6000, tmp_path / "journal.sqlite", width=width))
    print(f"{width} wide: {6000 / told['seconds']:.0f}/s, {told['megabytes']:.0f} MB")
    assert 6000 / told["seconds"] >= 300


def test_50_kills(tmp_path: Path) -> None:
    killed(50, 8000, 32, tmp_path)


def test_four_processes_and_2000_requests(tmp_path: Path) -> None:
    four(2000, tmp_path)


def test_one_dollar_where_three_are_needed(tmp_path: Path) -> None:
    budget(1500, 1.0, tmp_path)


@pytest.mark.parametrize(
    "limit", [{"burst": 20}, {"window": 60}, {"window": 60, "retry_after": True}, {"burst": 20, "headers": True}]
)
def test_1200_a_minute(limit: dict, tmp_path: Path) -> None:
    assert limited({"per_minute": 1200, **limit}, 2400, tmp_path)
