"""Chat completions from an OpenAI-compatible server, paid through the journal: the only importer of openai.

`complete_all` sends what the journal cannot answer yet, a few at a time, within the budget. The client's own
retries are off: they pay again without being counted, try on when the quota is used up, and do not wait for a
long `Retry-After`. `OPENAI_API_KEY` and `OPENAI_BASE_URL` come from the environment; the key is never written.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import logging
import os
import random
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx2
import openai
from tqdm import tqdm

from lema.journal import LEASE, Cost, Journal, Refusal, Request
from lema.types import UserError

_POLL = 0.2  # seconds between looks at what other workers and processes do
_FIRST_BACKOFF, _LAST_BACKOFF = 0.5, 30.0  # seconds, doubling; drawn uniformly from the upper half
_LONGEST_WAIT = 600.0  # seconds; a server that asks for more ends the run
_NEVER_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
    httpx2.LocalProtocolError,
)
# Refusals of one prompt, not of the run: an answer without text, with the code as its finish reason.
_REFUSED_PROMPT = ("content_filter", "content_policy_violation", "invalid_prompt", "context_length_exceeded")


@dataclass(frozen=True)
class ApiSettings:
    """How requests are sent and what they may cost; `section` and `unit` name them to the user."""

    section: str  # of the config: "corrector"
    unit: str  # "corrections"
    base_url: str | None
    input_usd: float  # per million prompt tokens
    output_usd: float  # per million completion tokens, reasoning included
    budget_usd: float
    max_concurrent_requests: int
    max_retries: int
    request_timeout: float  # seconds, the whole answer

    def cost(self, prompt_tokens: int, completion_tokens: int) -> Cost:
        dollars = (prompt_tokens * self.input_usd + completion_tokens * self.output_usd) / 1e6
        return Cost(prompt_tokens, completion_tokens, dollars)

    def worst_cost(self, request: Request) -> Cost:
        """What one attempt costs at most."""
        return self.cost(request.most_prompt_tokens, request.parameters["max_completion_tokens"])


@dataclass(frozen=True)
class Answer:
    """What the server answered: `model` is the one that really did, `text` may be None."""

    text: str | None
    finish_reason: str
    refusal: str | None
    model: str


@dataclass(frozen=True)
class _Landed:
    """How one attempt ended: with an answer, or with the reason for another one, or for stopping."""

    cost: Cost | None  # None: unknown
    answer: Answer | None = None
    reason: str = ""
    wait: float | None = None  # seconds, as the server asked
    stop: str | None = None  # a user's message, with "{kept}" for how many are answered


def read_answer(journal: Journal, request: Request) -> Answer:
    """The journal's answer to a request that `complete_all` had answered."""
    stored = journal.answer(request.key)
    if stored is None:
        raise UserError(f"{journal.path}: an answer was removed from it: run again")
    return Answer(**json.loads(stored))


def complete_all(requests: Sequence[Request], journal: Journal, settings: ApiSettings) -> None:
    """Have every request answered in `journal`, whose scope they become.

    Raises `UserError` when it must stop early (budget, key, quota, model, server); what was answered is kept.
    """
    journal.scope(requests)
    waiting = journal.unanswered(requests)
    if waiting:
        total = len({request.key for request in requests})
        asyncio.run(_Sender(journal, settings, total, waiting).run())


class _Sender:
    """Workers that take requests from one queue until it is empty or one of them has a reason to stop."""

    def __init__(self, journal: Journal, settings: ApiSettings, total: int, waiting: list[Request]) -> None:
        self.journal, self.settings = journal, settings
        self.waiting = deque(waiting)
        self.total = total
        self.answered = total - len(waiting)
        self.in_flight = 0
        self.resume_at = 0.0  # monotonic seconds; a 429 concerns all workers
        self.failed: list[str] = []
        self.failed_in_a_row = 0
        self.stop: str | None = None
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not key:
            raise UserError("OPENAI_API_KEY is not set: export it (any word, for a server that asks for none)")
        self.secret = key
        if "OPENAI_LOG" not in os.environ:
            logging.getLogger("httpx2").setLevel(logging.WARNING)  # else a line a request
        timeout, workers = self.settings.request_timeout, self.settings.max_concurrent_requests
        client = openai.AsyncOpenAI(api_key=key, base_url=self.settings.base_url, max_retries=0, timeout=timeout)
        self.server = re.sub(r"//[^/@]*@", "//", str(client.base_url))
        heartbeat = asyncio.create_task(self._renew())
        unit = f" {self.settings.unit}"
        with tqdm(total=self.total, initial=self.answered, disable=None, unit=unit) as self.bar:
            try:
                await asyncio.gather(*(self._work(client) for _ in range(min(workers, len(self.waiting)))))
            finally:
                heartbeat.cancel()
                self.journal.give_up("interrupted")
                await client.close()
        kept = f"{self.answered} of {self.total} {self.settings.unit}"
        if self.stop:
            raise UserError(self.stop.replace("{kept}", kept))
        if self.failed:
            raise UserError(
                f"{len(self.failed)} of {self.total} {self.settings.unit} got no answer from {self.server} "
                f"({self.failed[-1]}); the others are kept: run again"
            )

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE / 3)
            self.journal.renew()

    async def _work(self, client: openai.AsyncOpenAI) -> None:
        while self.waiting and not self.stop:
            await self._complete(client, self.waiting.popleft())

    async def _complete(self, client: openai.AsyncOpenAI, request: Request) -> None:
        reason = ""
        for attempt in range(1 + self.settings.max_retries):
            reserved = await self._reserve(request)
            if reserved is None:
                return
            self.in_flight += 1
            try:
                landed = await self._send(client, request)
            finally:
                self.in_flight -= 1
            answer = json.dumps(asdict(landed.answer)) if landed.answer else None
            self.journal.settle(reserved, landed.cost, answer)
            if landed.answer:
                self._count()
                return
            reason = landed.stop or landed.reason
            self.resume_at = max(self.resume_at, time.monotonic() + (landed.wait or 0))
            if landed.stop:
                self._stop(landed.stop)
            elif (landed.wait or 0) > _LONGEST_WAIT:
                back = time.strftime("%H:%M", time.localtime(time.time() + (landed.wait or 0)))
                self._stop(f"{self.server} asks to wait until {back}; {{kept}} are answered and kept: run again then")
            if self.stop or attempt == self.settings.max_retries:
                break
            if landed.wait is None:
                backoff = min(_LAST_BACKOFF, _FIRST_BACKOFF * 2**attempt)
                await self._sleep(backoff * random.uniform(0.5, 1))
        self._fail(request, reason)

    async def _reserve(self, request: Request) -> int | None:
        """The id of a paid-for attempt; None when the request needs no sending, now or at all."""
        worst = self.settings.worst_cost(request)
        while not self.stop:
            if (pause := self.resume_at - time.monotonic()) > 0:
                await self._sleep(pause)
                continue
            started = self.journal.start(request, worst, self.settings.budget_usd)
            if isinstance(started, int):
                return started
            if started is Refusal.answered:
                self._count()
                return None
            if started is Refusal.busy:
                await self._sleep(_POLL)
                self.waiting.append(request)
                return None
            # What is in flight is reserved at its worst: when it lands there may be money left.
            if self.in_flight or self.journal.others_in_flight():
                await self._sleep(_POLL)
                continue
            self._stop(self._budget_reached(worst))
        return None

    def _budget_reached(self, worst: Cost) -> str:
        spending, budget = self.journal.spending(), self.settings.budget_usd
        assumed = f", ${spending.assumed_usd:.2f} of it for attempts without a bill" if spending.assumed_usd else ""
        return (
            f"{self.settings.section}.budget_usd={budget:g}: reached after {{kept}} (${spending.usd:.2f}{assumed}; "
            f"the next may cost ${worst.dollars:.2g}); all answers are kept: raise it and run again"
        )

    async def _send(self, client: openai.AsyncOpenAI, request: Request) -> _Landed:
        body: Any = {"model": request.model, "messages": request.messages, **request.parameters}
        try:
            # The client's own timeout is per read: a server that drips would hold a worker for ever.
            async with asyncio.timeout(self.settings.request_timeout):
                response = await client.chat.completions.with_raw_response.create(**body)
        except (TimeoutError, openai.APITimeoutError):
            return _Landed(None, reason=f"no answer within {self.settings.request_timeout:g} s")
        except openai.APIConnectionError as error:
            cost = self.settings.cost(0, 0) if isinstance(error.__cause__, _NEVER_SENT) else None
            return _Landed(cost, reason=self._said(f"connection: {error.__cause__}"))
        except openai.APIStatusError as error:
            return self._refused(error, request)
        return self._read(response.text, request)

    def _read(self, text: str, request: Request) -> _Landed:
        """A 200: anything may be in it. One without usable `usage` counts at its worst case."""
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            return _Landed(None, reason="the body is no JSON: is the base URL right?")
        usage = body.get("usage") if isinstance(body, dict) else None
        try:
            message, finish = body["choices"][0]["message"], body["choices"][0].get("finish_reason")
            content, refusal, model = message.get("content"), message.get("refusal"), body.get("model")
        except (KeyError, IndexError, TypeError, AttributeError):
            return _Landed(self._bill(usage, 0), reason="the body is no chat completion: is the base URL right?")
        return _Landed(
            self._bill(usage, 1 if content else 0),
            Answer(
                # Half a surrogate pair, which JSON can carry, cannot be written to any file.
                content.encode("utf-8", "replace").decode() if isinstance(content, str) else None,
                finish if isinstance(finish, str) else "",
                refusal if isinstance(refusal, str) and refusal else None,
                model if isinstance(model, str) and model else request.model,
            ),
        )

    def _bill(self, usage: object, least: int) -> Cost | None:
        """The cost that the server states; None when it cannot be true of `least` or more completion tokens."""
        if not isinstance(usage, dict):
            return None
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if type(prompt) is not int or type(completion) is not int or prompt < 1 or completion < least:
            return None
        return self.settings.cost(prompt, completion)

    def _refused(self, error: openai.APIStatusError, request: Request) -> _Landed:
        """A status of 400 and more: try again, an answer without text, or the end of the run."""
        status, code, section = error.status_code, error.code, self.settings.section
        # A gateway may give up on an answer that the model went on to write, and bill.
        unknown = status == 408 or (status > 500 and status != 503)
        cost = None if unknown else self.settings.cost(0, 0)
        said = self._said(f"{status}: {error.message.removeprefix(f'Error code: {status} - ')}")
        kept = "{kept} are answered and kept"
        if status == 400 and code in _REFUSED_PROMPT:
            return _Landed(cost, Answer(None, str(code), None, request.model))
        if code == "insufficient_quota":
            return _Landed(cost, stop=f"{self.server}: the quota is used up ({said}); {kept}: add credit, run again")
        if status in (408, 409, 429) or status >= 500:
            return _Landed(cost, reason=said, wait=_retry_after(error.response.headers))
        if status in (401, 403):
            return _Landed(cost, stop=f"OPENAI_API_KEY: refused by {self.server} ({said}); {kept}: set one that may")
        if status == 404:
            return _Landed(
                cost,
                stop=f"{section}.model={request.model}: not found at {self.server} ({said}); {kept}: "
                f"choose a model that the server lists, or mend {section}.base_url or OPENAI_BASE_URL",
            )
        if (key := error.param) in request.parameters:
            setting = f"{section}.{key}={request.parameters[key]}"
            return _Landed(cost, stop=f"{setting}: refused by {self.server} ({said}); {kept}: set another, or null")
        return _Landed(
            cost, stop=f"{self.server} refuses the {section}'s requests ({said}); {kept}: mend it, run again"
        )

    def _said(self, text: str) -> str:
        """What others wrote, fit for a message and for the journal: one line, of bounded length, without the key."""
        return " ".join(text.replace(self.secret, "***").split())[:300]

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but wake at once when the run stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopped.wait(), seconds)

    def _count(self) -> None:
        self.answered += 1
        self.failed_in_a_row = 0
        self.bar.update()

    def _fail(self, request: Request, reason: str) -> None:
        self.journal.give_up(reason, request.key)
        self.failed.append(reason)
        self.failed_in_a_row += 1
        if self.failed_in_a_row >= max(2, self.settings.max_concurrent_requests):
            # Every worker failed and none succeeded: the server is down, and trying all the others helps nobody.
            self._stop(
                f"{self.server} gave no answer to {self.failed_in_a_row} {self.settings.unit} in a row "
                f"({reason}); {{kept}} are answered and kept: check the server and the base URL, run again"
            )

    def _stop(self, message: str) -> None:
        self.stop = self.stop or message
        self.stopped.set()


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: `retry-after-ms: 1500`, `Retry-After: 2` or an HTTP date."""
    value = headers.get("retry-after-ms")
    try:
        if value is not None:
            return max(0.0, float(value) / 1000)
        value = headers.get("retry-after")
        return None if value is None else max(0.0, float(value))
    except ValueError:
        date = email.utils.parsedate_tz(value)
        return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())
