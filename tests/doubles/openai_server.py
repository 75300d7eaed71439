"""A loopback server that speaks the protocols of chats and of completions, with faults and a bill of its own.

    with OpenAIServer(reply=lambda prompt: "...", faults=["429:0.2", "ok", "reset"]) as server:
        os.environ["OPENAI_BASE_URL"] = server.url
    server.requests      # bodies received, in order        server.billed   # prompt -> times paid for

As a process of its own: `python tests/doubles/openai_server.py PROBLEMS.jsonl` prints the two exports that a
pipeline needs; `GET /stats` on it tells the bill. Its options are those of the class (`--help`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from openai_faults import ERRORS, FAULTS, LOST, REFUSED, RateLimit, error, mix, too_long

from lema.prompts.formats import ANSWER, correction_completion, reference_steps
from lema.types import Problem


class OpenAIServer:
    """Serves in a thread of its own until `close`, or the end of a `with` block.

    `faults` are met in the order of arrival, then "ok"; a function of the body decides for every request. `latency` in
    seconds; with `spread`, the sigma of a lognormal distribution, it is the mean. Parameters of `refuse` get a 400, and
    what is too long for a `max_model_len`, if there is one, in vLLM's words. `instead` is a status and a text.
    """

    def __init__(
        self,
        reply: Callable[..., str] = lambda prompt: "Hello.",  # to a message, or a prompt (a tuple of ids)
        faults: Sequence[str] | Callable[[dict], str] = (),
        latency: float = 0.0,
        spread: float = 0.0,
        model: str | None = None,
        prices: tuple[float, float] = (2.0, 10.0),
        cached: tuple[float, float] = (0.0, 0.0),  # share of every prompt, price
        limit: RateLimit | None = None,
        refuse: Sequence[str] = (),
        models: Sequence[dict] | int | None = None,  # the list, or the status in its place
        max_model_len: int | None = None,
        instead: Callable[[dict], tuple[int, str] | None] = lambda body: None,
        paths: Sequence[str] = ("/v1/chat/completions", "/v1/completions"),
        count: Callable[[str], int] | None = None,  # the tokens of a completion's text
    ) -> None:
        self.reply, self.latency, self.spread, self.model, self.prices = reply, latency, spread, model, prices
        self.cached, self.limit, self.refuse = cached, limit, refuse
        facts = {"max_model_len": max_model_len} if max_model_len else {}
        self.models = [{"id": model or "*", "object": "model"} | facts] if models is None else models
        self.max_model_len, self.instead, self.paths, self.count = max_model_len, instead, paths, count
        self.requests: list[dict] = []
        self.arrivals: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.met: Counter[str] = Counter()  # faults
        self.billed: Counter[object] = Counter()
        self.lost: Counter[object] = Counter()  # billed, and never arrived
        self.usd = 0.0
        self.url = ""
        self.in_flight = self.most_in_flight = 0
        self._next = iter(faults) if not callable(faults) else None
        self._decide = faults if callable(faults) else None
        self._chance = random.Random(0)
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        started.wait(10)

    def __enter__(self) -> OpenAIServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join(10)

    def stats(self) -> dict:
        """The bill in numbers, as `GET /stats` tells it."""
        more = self.billed - self.lost
        return {
            "requests": sum(self.met.values()),
            "met": dict(self.met),
            "prompts": len(self.billed),
            "billed": sum(self.billed.values()),
            "lost": sum(self.lost.values()),
            "arrived_twice": sum(count - 1 for count in more.values()),
            "usd": self.usd,
            "most_in_flight": self.most_in_flight,
        }

    def _serve(self, started: threading.Event) -> None:
        async def main() -> None:
            server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=2048)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                server.close()
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()

        self._main = self._loop.create_task(main())
        try:
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            self._loop.run_until_complete(asyncio.sleep(0))  # connections see that they are cancelled
        finally:
            self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection stays open."""
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.partition(":") for line in lines[1:] if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        if lines[0].startswith("GET"):
            await self._get(lines[0].split()[1], headers.get("authorization", ""), writer)
            return True
        path = lines[0].split()[1]
        if path not in self.paths:
            await _send(writer, 404, error("not found", None))
            return True
        body = json.loads(raw)
        assert ("messages" in body) == (path == "/v1/chat/completions")
        self.requests.append(body)
        self.headers.append(headers)
        self.arrivals.append(self._loop.time())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answer(body, headers, writer)
        finally:
            self.in_flight -= 1

    async def _get(self, path: str, key: str, writer: asyncio.StreamWriter) -> None:
        if path == "/stats":
            await _send(writer, 200, json.dumps(self.stats()))
        elif path != "/v1/models":
            await _send(writer, 404, error("not found", None))
        elif isinstance(self.models, int):
            await _send(writer, self.models, error(f"Incorrect API key provided: {key}", None))
        else:
            await _send(writer, 200, json.dumps({"object": "list", "data": self.models}))

    async def _answer(self, body: dict, sent: dict[str, str], writer: asyncio.StreamWriter) -> bool:
        if refused := next((name for name in self.refuse if name in body), None):
            await _send(writer, 400, REFUSED[refused].replace("MODEL", body["model"]))
            return True
        if said := self.instead(body) or too_long(body, prompt_tokens(body), self.max_model_len):
            await _send(writer, *said)
            return True
        wait = self.limit.take(self._loop.time()) if self.limit else 0.0
        told = self.limit.told(wait) if self.limit else {}
        if wait:
            self.met["limited"] += 1
            await _send(writer, 429, error("Rate limit reached for requests", "rate_limit_exceeded"), told)
            return True
        fault, _, number = (self._decide(body) if self._decide else next(self._next or iter(()), "ok")).partition(":")
        if fault not in FAULTS:
            raise ValueError(f"{fault}: not one of {FAULTS}")
        self.met[fault] += 1
        if fault in ERRORS:
            status, text = ERRORS[fault]
            text = text.replace("KEY", sent.get("authorization", ""))
            await _send(writer, status, text, told | ({"Retry-After": number} if number else {}))
            return True
        wait = self.latency
        if self.spread:
            wait = self._chance.lognormvariate(math.log(self.latency) - self.spread**2 / 2, self.spread)
        await asyncio.sleep(wait)
        text = json.dumps(self._completion(body, fault))
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "reset":
            writer.transport.abort()
            return False
        if fault == "html":
            await _send(writer, 200, "<html><body>Welcome</body></html>", content_type="text/html")
            return True
        await _send(writer, 200, text[:40] if fault == "malformed" else text, told, cut=fault == "truncated")
        return fault != "truncated"

    def _completion(self, body: dict, fault: str) -> dict:
        """The completion, billed: four bytes of the prompt are a token, and four characters of the reply."""
        prompt = asked(body)
        text = self.reply(prompt)
        counted = self.count and isinstance(body.get("prompt"), str) and self.count(body["prompt"])
        usage = {"prompt_tokens": counted or prompt_tokens(body), "completion_tokens": len(text) // 4 + 1}
        if fault == "length":
            limit = body.get("max_completion_tokens") or body.get("max_tokens") or 4096
            text, usage["completion_tokens"] = text[: len(text) // 2], limit
        usage["total_tokens"] = sum(usage.values())
        cached = int(usage["prompt_tokens"] * self.cached[0])
        self.billed[prompt] += 1
        self.lost[prompt] += fault in LOST
        fresh = usage["prompt_tokens"] - cached
        usd = fresh * self.prices[0] + cached * self.cached[1] + usage["completion_tokens"] * self.prices[1]
        self.usd += usd / 1e6
        silent = fault in ("refusal", "null", "content_filter")
        message = {"role": "assistant", "content": None if silent else text}
        message["refusal"] = "I cannot help with that." if fault == "refusal" else None
        finish = fault if fault in ("length", "content_filter") else "stop"
        said, prompt_ids = {"message": message}, body.get("prompt") if body.get("return_token_ids") else None
        if "prompt" in body:
            said = {"text": message["content"] or ""} | (
                {"prompt_token_ids": prompt_ids} if isinstance(prompt_ids, list) else {}
            )
        completion = {
            "id": f"chatcmpl-{len(self.requests)}",
            "object": "text_completion" if "prompt" in body else "chat.completion",
            "created": 1,
            "model": "another-model" if fault == "wrong_model" else self.model or body["model"],
            "choices": [{"index": 0, **said, "finish_reason": finish, "logprobs": None}],
            "usage": usage | {"prompt_tokens_details": {"cached_tokens": cached}},
        }
        if fault == "no_choices":
            completion["choices"] = []
        if fault == "no_usage":
            del completion["usage"]
        if fault == "absurd_usage":
            completion["usage"] = {"prompt_tokens": -5, "completion_tokens": "many", "total_tokens": None}
        return completion


def asked(body: dict) -> str | tuple[int, ...]:
    """The last message of a chat, or the prompt of a completion: a text, or its ids."""
    prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
    return tuple(prompt) if isinstance(prompt, list) else prompt


def prompt_tokens(body: dict) -> int:
    """Of a request: its ids, or four bytes are a token; and a template has eight."""
    prompt = asked(body)
    return len(prompt) if isinstance(prompt, tuple) else len(prompt.encode()) // 4 + 8 * ("messages" in body)


async def _send(
    writer: asyncio.StreamWriter,
    status: int,
    text: str,
    headers: dict[str, str] | None = None,
    content_type: str = "application/json",
    cut: bool = False,
) -> None:
    body = text.encode()
    head = {"Content-Type": content_type, "Content-Length": str(len(body)), **(headers or {})}
    lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    writer.write("\r\n".join(lines).encode() + (body[: len(body) // 2] if cut else body))
    await writer.drain()


class ReferenceReply:
    """Corrects as a flawless corrector would: it knows the reference solutions of `problems`, by their questions.

    The first step that differs from the reference is named, and the reference's steps follow from there.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = {problem.question: problem for problem in problems}

    def __call__(self, prompt: str) -> str:
        question, _, rest = prompt.rpartition("\nQuestion: ")[2].partition("\nOriginal Solution:\n{\n")
        problem = self.problems[question]
        right = [*reference_steps(problem.solution), ANSWER.format(answer=problem.answer)]
        wrong = [line.partition(": ")[2] for line in rest.splitlines() if line.startswith("Step ")]
        pairs = zip(wrong, right, strict=False)
        same = next(
            (index for index, (one, other) in enumerate(pairs) if one != other), min(len(wrong), len(right)) - 1
        )
        return correction_completion(same + 1, "This step does not follow from the question.", right[same:])


def main() -> None:
    """A process of its own, until it is ended."""
    parser = argparse.ArgumentParser(description="A chat completions server on the loopback interface.")
    parser.add_argument("problems", type=Path, nargs="?", help="JSON lines: corrects by their solutions")
    parser.add_argument("--reply", type=int, default=40, help="else every reply has so many words")
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--spread", type=float, default=0.0)
    parser.add_argument("--faults", type=json.loads, default={}, help='shares: {"429": 0.01, "reset": 0.005}')
    parser.add_argument("--limit", type=json.loads, help='{"per_minute": 1200, "window": 60}')
    parser.add_argument("--prices", type=float, nargs=2, default=(2.0, 10.0), help="dollars per million tokens")
    given = parser.parse_args()
    reply: Callable[..., str] = lambda prompt: f"{zlib.crc32(str(prompt).encode())}" + " word" * given.reply  # noqa: E731
    if given.problems:
        rows = [json.loads(line) for line in given.problems.read_text(encoding="utf-8").splitlines()]
        reply = ReferenceReply(Problem(**row) for row in rows)
    limit = RateLimit(**given.limit) if given.limit else None
    server = OpenAIServer(reply, mix(given.faults), given.latency, given.spread, prices=given.prices, limit=limit)
    print(f"export OPENAI_API_KEY=test OPENAI_BASE_URL={server.url}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
