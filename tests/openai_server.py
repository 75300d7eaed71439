"""A loopback server that speaks the chat completions protocol, with faults on demand and a bill of its own.

    with OpenAIServer(reply=lambda prompt: "...", faults=["429:0.2", "ok", "reset"]) as server:
        os.environ["OPENAI_BASE_URL"] = server.url
    server.requests      # bodies received, in order        server.billed   # prompt -> times paid for

Run by hand for a whole pipeline: `python tests/openai_server.py PROBLEMS.jsonl` prints the two exports it needs.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lema.prompts.formats import ANSWER, correction_completion, reference_steps
from lema.types import Problem

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
    "temperature",  # 400, as present models answer one that is set
    "too_long",  # 400, context_length_exceeded
    "reset",  # billed, then the connection is reset
    "truncated",  # billed, then closed in the middle of the body
    "hang",  # billed, then silence
    "malformed",  # billed, 200 with half a JSON object
    "html",  # 200 with a web page
    "no_choices",
    "no_usage",
    "absurd_usage",
    "length",
    "content_filter",
    "refusal",
    "null",  # content null
)


class OpenAIServer:
    """Serves in a thread of its own until `close`, or the end of a `with` block.

    `faults` are met in the order of arrival, then "ok"; a function of the body decides for every request.
    """

    def __init__(
        self,
        reply: Callable[[str], str] = lambda prompt: "Hello.",
        faults: Sequence[str] | Callable[[dict], str] = (),
        latency: float = 0.0,
        model: str | None = None,
        prices: tuple[float, float] = (2.0, 10.0),
    ) -> None:
        self.reply, self.latency, self.model, self.prices = reply, latency, model, prices
        self.requests: list[dict] = []
        self.arrivals: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.billed: Counter[str] = Counter()
        self.usd = 0.0
        self.url = ""
        self.in_flight = self.most_in_flight = 0
        self._next = iter(faults) if not callable(faults) else None
        self._decide = faults if callable(faults) else None
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

    def _serve(self, started: threading.Event) -> None:
        async def main() -> None:
            server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
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
        if lines[0].startswith("GET /v1/models"):
            listed = {"object": "list", "data": [{"id": self.model or "any", "object": "model"}]}
            await _send(writer, 200, json.dumps(listed))
            return True
        if not lines[0].startswith("POST /v1/chat/completions"):
            await _send(writer, 404, _error("not found", None))
            return True
        body = json.loads(raw)
        self.requests.append(body)
        self.headers.append(headers)
        self.arrivals.append(self._loop.time())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answer(body, writer)
        finally:
            self.in_flight -= 1

    async def _answer(self, body: dict, writer: asyncio.StreamWriter) -> bool:
        fault, _, number = (self._decide(body) if self._decide else next(self._next or iter(()), "ok")).partition(":")
        if fault not in FAULTS:
            raise ValueError(f"{fault}: not one of {FAULTS}")
        if fault in _ERRORS:
            status, text = _ERRORS[fault]
            await _send(writer, status, text, {"Retry-After": number} if number else {})
            return True
        await asyncio.sleep(self.latency)
        completion = self._completion(body, fault)
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "reset":
            writer.transport.abort()
            return False
        if fault == "truncated":
            await _send(writer, 200, json.dumps(completion), cut=True)
            return False
        if fault == "html":
            await _send(writer, 200, "<html><body>Welcome</body></html>", content_type="text/html")
            return True
        await _send(writer, 200, json.dumps(completion)[:40] if fault == "malformed" else json.dumps(completion))
        return True

    def _completion(self, body: dict, fault: str) -> dict:
        """The completion, billed: four bytes of the prompt are a token, and four characters of the reply."""
        prompt = body["messages"][-1]["content"]
        text = self.reply(prompt)
        usage = {"prompt_tokens": len(prompt.encode()) // 4 + 8, "completion_tokens": len(text) // 4 + 1}
        if fault == "length":
            text, usage["completion_tokens"] = text[: len(text) // 2], body["max_completion_tokens"]
        usage["total_tokens"] = sum(usage.values())
        self.billed[prompt] += 1
        self.usd += (usage["prompt_tokens"] * self.prices[0] + usage["completion_tokens"] * self.prices[1]) / 1e6
        silent = fault in ("refusal", "null", "content_filter")
        message = {"role": "assistant", "content": None if silent else text}
        message["refusal"] = "I cannot help with that." if fault == "refusal" else None
        finish = fault if fault in ("length", "content_filter") else "stop"
        completion = {
            "id": f"chatcmpl-{len(self.requests)}",
            "object": "chat.completion",
            "created": 1,
            "model": self.model or body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
            "usage": usage,
        }
        if fault == "no_choices":
            completion["choices"] = []
        if fault == "no_usage":
            del completion["usage"]
        if fault == "absurd_usage":
            completion["usage"] = {"prompt_tokens": -5, "completion_tokens": "many", "total_tokens": None}
        return completion


def _error(message: str, code: str | None, param: str | None = None) -> str:
    return json.dumps({"error": {"message": message, "type": "error", "code": code, "param": param}})


_ERRORS = {
    "429": (429, _error("Rate limit reached", "rate_limit_exceeded")),
    "500": (500, _error("The server had an error", None)),
    "503": (503, _error("Overloaded", None)),
    "insufficient_quota": (429, _error("You exceeded your current quota", "insufficient_quota")),
    "401": (401, _error("Incorrect API key provided: sk-secret-of-the-tests", "invalid_api_key")),
    "403": (403, _error("Country not supported", "unsupported_country")),
    "404": (404, _error("The model does not exist", "model_not_found")),
    "temperature": (400, _error("Unsupported value: 'temperature'", "unsupported_value", "temperature")),
    "too_long": (400, _error("This model's maximum context length is 8192", "context_length_exceeded")),
}


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
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    with OpenAIServer(ReferenceReply(Problem(**row) for row in rows)) as server:
        print(f"export OPENAI_API_KEY=test OPENAI_BASE_URL={server.url}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
