"""Chat completions from an OpenAI-compatible server, paid through the journal: the only importer of openai.

The client's own retries are off: they pay again uncounted, and try on when the quota is used up.
"""

import asyncio
import json
import logging
import os
import random
import re
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
from tqdm import tqdm

from lema.journal import Answer, Journal, Spending
from lema.types import UserError

_POLL = 0.2  # seconds between looks at what is not ready
_FIRST_BACKOFF, _LAST_BACKOFF = 0.5, 30.0  # seconds, half as long again each time, with jitter
_LONGEST_WAIT = 600.0  # seconds; a server that asks for more ends the run
# Codes of refusals that concern one prompt and not the run.
_REFUSED_PROMPT = ("content_filter", "content_policy_violation", "invalid_prompt", "context_length_exceeded")
_REMEDIES = {401: "set an OPENAI_API_KEY that it accepts", 403: "set an OPENAI_API_KEY that it accepts"}
_REMEDIES |= {404: "choose a corrector.model that it lists, or mend corrector.base_url", 429: "add credit"}
# How an attempt ended: its bill, if known; the answer, or why there is none; the seconds to wait then (inf: give up).
_Landed = tuple[Spending | None, Answer | str, float]


@dataclass
class Sender:
    """Workers that take requests from one queue until it is empty or there is a problem that stops all."""

    journal: Journal
    still_mine: Callable[[], None]  # raises when another process sends too
    base_url: str | None
    input_usd: float  # per million prompt tokens
    output_usd: float  # per million completion tokens, reasoning included
    budget_usd: float
    max_completion_tokens: int
    max_concurrent_requests: int
    max_retries: int
    request_timeout: float  # seconds, the whole answer

    def __post_init__(self) -> None:
        self.key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not self.key:
            raise UserError("OPENAI_API_KEY is not set: export it (any word, for a server that asks for none)")
        answers = self.journal.answers()
        self.waiting = deque(request for request in self.journal.requests if request not in answers)
        self.bar = tqdm(total=len(self.journal.requests), initial=len(answers), disable=None, unit=" answers")
        self.client = openai.AsyncOpenAI(api_key=self.key, base_url=self.base_url, max_retries=0, timeout=None)
        self.server = re.sub(r"//[^/@]*@", "//", str(self.client.base_url))
        self.usd = self.journal.spending().usd  # what is paid, and reserved for what is in flight
        self.in_flight = 0
        self.resume_at = 0.0  # monotonic seconds; a failure concerns all workers
        self.failures: Counter[str] = Counter()
        self.failed_in_a_row = 0
        self.problem = ""

    async def run(self) -> None:
        """Have every request answered; `UserError` when it must stop early (budget, key, quota, model, server)."""
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # else a line a request
        with self.bar:
            async with self.client:
                await asyncio.gather(*(self._work() for _ in range(self.max_concurrent_requests)))
        if self.problem:
            kept = f"{len(self.journal.answers())} of {len(self.journal.requests)} are answered and kept"
            raise UserError(f"{' '.join(self.problem.split())}; {kept}: then run again")

    async def _work(self) -> None:
        while self.waiting and not self.problem:
            if self.resume_at > time.monotonic():
                await asyncio.sleep(_POLL)
            elif await self._try(request := self.waiting.popleft()):
                self.bar.update()
            else:
                self.waiting.append(request)  # at the end: one request that always fails holds up no other
                await asyncio.sleep(_POLL)

    async def _try(self, request: str) -> bool:
        """Whether this request is answered now; what must stop all workers becomes `problem`."""
        # A token is at least one byte, and the names in the request cover the chat template.
        worst = self._bill(len(request.encode()), self.max_completion_tokens).usd
        if not self.usd + worst <= self.budget_usd:  # so written that "not a number" allows nothing
            if not self.in_flight:  # whose bills may leave room
                self.problem = f"corrector.budget_usd={self.budget_usd:g}: reached, ${self.usd:.2f} are spent: raise it"
            return False
        self.still_mine()
        self.journal.reserve(request, worst)
        self.usd, self.in_flight = self.usd + worst, self.in_flight + 1
        bill, landed, wait = await self._send(json.loads(request))
        bill, answer = bill or Spending(1, 0, 0, worst), landed if isinstance(landed, Answer) else None
        self.journal.settle(request, worst, bill, answer)
        self.usd, self.in_flight = self.usd + bill.usd - worst, self.in_flight - 1
        if answer:
            self.failed_in_a_row = 0
            return True
        self.failures[request] += 1
        self.failed_in_a_row += 1
        most, failed = self.max_retries * self.max_concurrent_requests, self.failed_in_a_row
        if wait > _LONGEST_WAIT or self.failures[request] > self.max_retries or failed > most:
            self.problem = f"{self.server}: {landed}"
        backoff = min(_LAST_BACKOFF, _FIRST_BACKOFF * 1.5 ** min(failed, 20)) * random.uniform(0.5, 1)
        self.resume_at = max(self.resume_at, time.monotonic() + max(wait, backoff))
        return False

    async def _send(self, body: dict[str, Any]) -> _Landed:
        """One attempt, which never raises what a server or a network can do."""
        try:
            # Not the client's own timeout, which is per read: a server that drips would hold a worker for ever.
            async with asyncio.timeout(self.request_timeout):
                response = await self.client.chat.completions.with_raw_response.create(**body)
        except (TimeoutError, openai.APIConnectionError) as error:
            never_sent = isinstance(error.__cause__, httpx2.ConnectError | httpx2.UnsupportedProtocol)
            bill = self._bill(0, 0) if never_sent else None
            return bill, f"no answer ({error.__cause__ or 'time-out'}): check it, or corrector.base_url", 0.0
        except openai.APIStatusError as error:
            return self._refused(error, body["model"])
        try:  # anything may be in a 200
            said = json.loads(response.text)
            choice, usage = said["choices"][0], said.get("usage") or {}
            content, refusal = choice["message"].get("content"), choice["message"].get("refusal")
            ended = "refusal" if refusal else str(choice.get("finish_reason"))
            tokens: list[Any] = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            return None, "the body is no chat completion: mend corrector.base_url", 0.0
        # One without usable `usage` counts at its worst case.
        bill = self._bill(*tokens) if all(type(n) is int and 0 < n < 2**31 for n in tokens) else None
        # Half a surrogate pair, which JSON can carry, cannot be written to any file.
        content = content.encode("utf-8", "replace").decode() if isinstance(content, str) else None
        return bill, Answer(content, ended, str(said.get("model") or body["model"])), 0.0

    def _refused(self, error: openai.APIStatusError, model: str) -> _Landed:
        """A status of 400 and more: an answer without text, a reason to try again, or the end of the run."""
        status, code, retry_after = error.status_code, str(error.code), error.response.headers.get("retry-after", "")
        # A gateway may give up on an answer that the model went on to write, and bill.
        bill = None if status == 408 or (status > 500 and status != 503) else self._bill(0, 0)
        said = error.message.replace(self.key, "***")[:300]
        if code in _REFUSED_PROMPT:
            return bill, Answer(None, "refusal", model), 0.0
        if code != "insufficient_quota" and (status in (408, 409, 429) or status >= 500):
            wait = float(retry_after) if re.fullmatch(r"\d+(\.\d*)?", retry_after) else 0.0
            return bill, f"{said}: wait {wait or _LAST_BACKOFF:.0f} s", wait
        remedy = _REMEDIES.get(status, f"change corrector.{error.param or 'base_url'}")
        return bill, f"{said}: {remedy}", float("inf")

    def _bill(self, prompt_tokens: int, completion_tokens: int) -> Spending:
        usd = (prompt_tokens * self.input_usd + completion_tokens * self.output_usd) / 1e6
        return Spending(1, prompt_tokens, completion_tokens, usd)
