"""Chat completions from an OpenAI-compatible server, paid through the journal: the only importer of openai.

The client's own retries are off: they pay again uncounted, and try on when the quota is used up. `OPENAI_API_KEY`
and `OPENAI_BASE_URL` come from the environment; the key is never written.
"""

import asyncio
import json
import logging
import os
import random
import re
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
from tqdm import tqdm

from lema.journal import Answer, Journal, Spending
from lema.types import UserError

_POLL = 0.2  # seconds between looks at what is not ready, or in flight elsewhere
_FIRST_BACKOFF, _LAST_BACKOFF = 0.5, 30.0  # seconds, half as long again each time, with jitter
_LONGEST_WAIT = 600.0  # seconds; a server that asks for more ends the run
# Codes of refusals that concern one prompt and not the run.
_REFUSED_PROMPT = ("content_filter", "content_policy_violation", "invalid_prompt", "context_length_exceeded")
_REMEDIES = {401: "set an OPENAI_API_KEY that it accepts", 403: "set an OPENAI_API_KEY that it accepts"}
_REMEDIES |= {404: "choose a corrector.model that it lists, or mend corrector.base_url", 429: "add credit"}


@dataclass(frozen=True)
class ApiSettings:
    """How requests are sent and what they may cost."""

    base_url: str | None
    input_usd: float  # per million prompt tokens
    output_usd: float  # per million completion tokens, reasoning included
    budget_usd: float
    max_completion_tokens: int
    max_concurrent_requests: int
    max_retries: int
    request_timeout: float  # seconds, the whole answer

    def bill(self, prompt_tokens: int, completion_tokens: int) -> Spending:
        usd = (prompt_tokens * self.input_usd + completion_tokens * self.output_usd) / 1e6
        return Spending(1, prompt_tokens, completion_tokens, usd)


@dataclass(frozen=True)
class _Landed:
    """How one attempt ended: with an answer, or with the reason for another one after `wait` seconds (inf: none)."""

    bill: Spending | None  # None: unknown
    answer: Answer | None = None
    reason: str = ""
    wait: float = 0.0


class Sender:
    """Workers that take requests from one queue until it is empty or there is a problem that stops all."""

    def __init__(self, journal: Journal, settings: ApiSettings) -> None:
        self.key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not self.key:
            raise UserError("OPENAI_API_KEY is not set: export it (any word, for a server that asks for none)")
        self.journal, self.settings, answers, total = journal, settings, journal.answers(), len(journal.requests)
        self.waiting = deque(request for request in journal.requests if request not in answers)
        self.bar = tqdm(total=total, initial=len(answers), disable=None, unit=" answers")
        self.client = openai.AsyncOpenAI(api_key=self.key, base_url=settings.base_url, max_retries=0, timeout=None)
        self.server = re.sub(r"//[^/@]*@", "//", str(self.client.base_url))
        self.resume_at = 0.0  # monotonic seconds; a failure concerns all workers
        self.failures: Counter[str] = Counter()
        self.failed_in_a_row = 0
        self.problem = ""

    async def run(self) -> None:
        """Have every request of the journal answered, a few at a time and within the budget.

        Raises `UserError` when it must stop early (budget, key, quota, model, server); what was answered is kept.
        """
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # else a line a request
        with self.bar:
            async with self.client:
                await asyncio.gather(*(self._work() for _ in range(self.settings.max_concurrent_requests)))
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
        settings = self.settings
        # A token is at least one byte, and the names in the request cover the chat template.
        worst = settings.bill(len(request.encode()), settings.max_completion_tokens).usd
        claim = self.journal.claim(request, worst, settings.budget_usd, settings.request_timeout)
        if claim == "budget":
            spent = f"${self.journal.spending().usd:.2f} are spent"
            self.problem = f"corrector.budget_usd={settings.budget_usd:g}: reached, {spent}: raise it"
        if claim != "claimed":
            return claim == "answered"
        landed = await self._send(json.loads(request))
        self.journal.settle(request, worst, landed.bill or Spending(1, 0, 0, worst), landed.answer)
        if landed.answer:
            self.failed_in_a_row = 0
            return True
        self.failures[request] += 1
        self.failed_in_a_row += 1
        most, failed = settings.max_retries * settings.max_concurrent_requests, self.failed_in_a_row
        if landed.wait > _LONGEST_WAIT or self.failures[request] > settings.max_retries or failed > most:
            self.problem = f"{self.server}: {landed.reason}"
        backoff = min(_LAST_BACKOFF, _FIRST_BACKOFF * 1.5 ** min(failed, 20)) * random.uniform(0.5, 1)
        self.resume_at = max(self.resume_at, time.monotonic() + max(landed.wait, backoff))
        return False

    async def _send(self, body: dict[str, Any]) -> _Landed:
        try:
            # Not the client's own timeout, which is per read: a server that drips would hold a worker for ever.
            async with asyncio.timeout(self.settings.request_timeout):
                response = await self.client.chat.completions.with_raw_response.create(**body)
        except (TimeoutError, openai.APIConnectionError) as error:
            never_sent = isinstance(error.__cause__, httpx2.ConnectError | httpx2.UnsupportedProtocol)
            bill = self.settings.bill(0, 0) if never_sent else None
            return _Landed(bill, reason=f"no answer ({error.__cause__ or 'time-out'}): check it, or corrector.base_url")
        except openai.APIStatusError as error:
            return self._refused(error, body["model"])
        return self._read(response.text, body["model"])

    def _read(self, text: str, model: str) -> _Landed:
        """A 200: anything may be in it. One without usable `usage` counts at its worst case."""
        try:
            body = json.loads(text)
            message, ended = body["choices"][0]["message"], str(body["choices"][0].get("finish_reason"))
            content, refusal, usage = message.get("content"), message.get("refusal"), body.get("usage") or {}
            tokens: list[Any] = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            return _Landed(None, reason="the body is no chat completion: mend corrector.base_url")
        credible = all(type(count) is int and 0 < count < 2**31 for count in tokens)
        bill = self.settings.bill(*tokens) if credible else None
        # Half a surrogate pair, which JSON can carry, cannot be written to any file.
        content = content.encode("utf-8", "replace").decode() if isinstance(content, str) else None
        return _Landed(bill, Answer(content, "refusal" if refusal else ended, str(body.get("model") or model)))

    def _refused(self, error: openai.APIStatusError, model: str) -> _Landed:
        """A status of 400 and more: an answer without text, a reason to try again, or the end of the run."""
        status, code, retry_after = error.status_code, str(error.code), error.response.headers.get("retry-after", "")
        # A gateway may give up on an answer that the model went on to write, and bill.
        bill = None if status == 408 or (status > 500 and status != 503) else self.settings.bill(0, 0)
        said = error.message.replace(self.key, "***")[:300]
        if code in _REFUSED_PROMPT:
            return _Landed(bill, Answer(None, "refusal", model))
        if code != "insufficient_quota" and (status in (408, 409, 429) or status >= 500):
            wait = float(retry_after) if re.fullmatch(r"\d+(\.\d*)?", retry_after) else 0.0
            return _Landed(bill, reason=f"{said}: wait {wait or _LAST_BACKOFF:.0f} s", wait=wait)
        remedy = _REMEDIES.get(status, f"change corrector.{error.param or 'base_url'}")
        return _Landed(bill, reason=f"{said}: {remedy}", wait=float("inf"))
