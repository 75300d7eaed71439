"""Questions to a model behind a server, each paid for once: through the journal, within the budget, at its pace.

One process sends at a time; others wait and read what it got. What fails is tried again a bounded number of times;
what fails for good gets its reason for an answer, unless everything fails: then the run ends, and all answers are kept.
"""

import asyncio
import contextlib
import heapq
import logging
import math
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from lema import stopping
from lema.api.billing import FREE as FREE, Budget
from lema.api.estimate import Requests
from lema.api.journal import Journal, Spending, open_journal
from lema.api.pacing import Pace
from lema.api.refusals import Means, other_model
from lema.api.requests import (
    Exact as Exact,
    Message as Message,
    Request,
    key as key_of,
    text as text_of,
)
from lema.artifacts.locks import lock
from lema.config import ApiConfig, PriceConfig
from lema.console.progress import Progress
from lema.types import Completion, UserError

if TYPE_CHECKING:
    from lema.api.client import Attempt, Client
log = logging.getLogger(__name__)
_FIRST_BACKOFF, _LAST_BACKOFF = 0.5, 30.0  # seconds, twice as long each time, with jitter
_SILENT = 20  # answers without a text
_UNSET = "is not set, and nothing is sent without it"
_NUMBERS = ("max_concurrent_requests", "max_retries", "request_timeout", "max_wait")  # what nothing is sent without


def ask(
    requests: Sequence[Request],
    api: ApiConfig,
    price: PriceConfig,
    *,
    section: str,
    journal_path: Path,
    budget_usd: float | None,
    paid_usd: float = 0.0,
    retry_failed: bool = False,
    key: str | None = None,
    whole: bool = False,
) -> tuple[list[Completion], Spending]:
    """An answer to each request, in order, and what they cost together over all runs and processes.

    Only what the journal does not hold is paid for; with `retry_failed` also, once more, what it holds no usable answer
    to. `section` of the config is what messages name; `paid_usd` is what else the budget has paid; `key` opens the
    server in the place of OPENAI_API_KEY. A text ends behind its request's `stop`. With `whole` a request that fails
    for good ends the run, and is asked again by the next one; only what will never be answered has no text: its finish
    reason is `PROMPT_TOO_LONG` or `CONTENT_REFUSED`. Raises `UserError` when a setting is missing, or the run must stop
    early (budget, key, quota, model, server): every answer is kept.
    """
    keys = [key_of(request, api) for request in requests]
    with open_journal(journal_path, keys) as journal:
        old = journal.unusable() if retry_failed else {}
        if old or not journal.answers().keys() >= set(keys):
            with lock(journal_path) as held:  # so that no other process pays for the same
                answers, now = journal.answers(), journal.unusable()
                again = {key for key, attempts in old.items() if now.get(key) == attempts}  # none has done so meanwhile
                asked = dict(zip(keys, requests, strict=True))
                left = [each for each in asked if each not in answers or each in again]
                if left:
                    journal.check()
                    from lema.api.client import Client  # openai takes a second

                    check_settings(api, section)
                    if budget_usd is None:
                        raise UserError(f"budget_usd {_UNSET}: set the most that requests may cost, in $")
                    client = Client(api, section, key)
                    budget = Budget(budget_usd, paid_usd + journal.spending().usd, price)
                    if not (whole and budget.free):
                        size = sum(asked[each].size for each in left) / len(left)
                        counted = Requests(section, section, api, (len(left), len(left)), "", size)
                        log.info("%-16s %s", "asking", counted.told(price))
                    asking = _Asking(journal, held.lost, asked, client, budget, whole)
                    asyncio.run(asking.run(left))
        answers, spending = journal.answers(), journal.spending()
    failed = [answer for answer in answers.values() if answer.failed]
    first = {answer.finish_reason: answer.error for answer in reversed(failed)}  # what the server said of it
    further = "" if whole else "; do=export writes each one's reason"
    for reason, count in Counter(answer.finish_reason for answer in failed).most_common():
        said = f" ({first[reason]})" if first[reason] else ""
        told = "%-16s %s: %s of %s requests have no answer: %s%s%s"
        log.warning(told, "asking", section, f"{count:,}", f"{len(answers):,}", reason, said, further)
    return [answers[each].until(request.stop) for each, request in zip(keys, requests, strict=True)], spending


@dataclass
class _Asking:
    """One run: requests leave in order, when the pace, the budget and their own back-off allow, until none is left."""

    journal: Journal
    lost: Callable[[], str]  # why another process sends too; empty while none does
    requests: dict[str, Request]  # by their keys
    client: "Client"
    budget: Budget
    whole: bool

    def __post_init__(self) -> None:
        api, self.section = self.client.api, self.client.section
        self.api, self.retries, self.max_wait = api, api.max_retries or 0, api.max_wait or 0.0
        self.pace = Pace(api.max_requests_per_minute, api.max_tokens_per_minute)
        self.pace.trying = not self.whole  # else the first one goes alone; an engine has tried its server already
        answers = self.journal.answers().values()
        self.answered = sum(not answer.failed for answer in answers)
        self.heard = self.whole or any((answer.text or "").strip() for answer in answers)
        self.silent = 0  # answers of this run before one has a text
        self.waiting: list[tuple[float, int, str]] = []  # a heap: not before, place in order, key
        # The first in the heap is looked at several times.
        self.text_of = lru_cache(1)(lambda key: text_of(self.requests[key], api))
        self.completion = float(api.limit)  # tokens of an answer, as it seems
        self.failures: Counter[str] = Counter()
        self.failed_since: set[str] = set()  # since the last answer
        self.failed_tries = 0  # likewise, while one request at a time tries
        self.problem = ""
        self.fault: BaseException | None = None  # of the journal
        self.changed = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()  # a request each
        self.sent = self.failed = self.tokens = 0  # attempts; requests that failed for good; tokens of all answers
        self.progress = Progress("request", len(self.requests), self._told)

    async def run(self, left: list[str]) -> None:
        """Have the keys of `left` answered; `UserError` when it must stop early, `Stopped` after a stop signal."""
        self.waiting = [(0.0, place, key) for place, key in enumerate(left)]
        tell = partial(asyncio.get_running_loop().call_soon_threadsafe, self._stop)
        with self.progress, stopping.landing(tell):
            self.progress.advance(len(self.requests) - len(left), before=True)
            async with self.client.openai:
                while (self.waiting or self.tasks) and not (self.problem or self.fault or stopping.received()):
                    self.changed.clear()
                    if (wait := self._wait(time.monotonic())) > 0:
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(self.changed.wait(), None if wait == math.inf else wait)
                    elif self.lost():
                        self._end("another process has taken the journal over")
                    else:
                        _, place, key = heapq.heappop(self.waiting)
                        text, worst = self._prepared(key)
                        tokens = len(text.encode()) / 4 + self.completion  # about
                        self.budget.reserve(worst)
                        self.pace.send(time.monotonic(), tokens)
                        self.sent += 1
                        task = asyncio.create_task(self._try(place, key, text, worst, tokens))
                        self.tasks.add(task)
                        task.add_done_callback(self._ended)
                if self._leaves():
                    for task in self.tasks:
                        task.cancel()
                await asyncio.gather(*self.tasks, return_exceptions=True)  # what is in flight still lands
        if self.fault:
            raise self.fault
        if number := stopping.received():
            raise stopping.Stopped(f"{self.section}: stopped by {number.name}: {self._kept()}")
        if self.problem:
            raise UserError(f"{' '.join(self.problem.split())}. {self._kept()}. Then run again.")

    def _told(self) -> list[str]:
        """How asking goes, beside the number of requests that are done."""
        again = self.sent - self.pace.in_flight - (self.progress.done - self.progress.before)
        counts = {"failed": self.failed, "tried again": again}
        told = [f"{number:,} {what}" for what, number in counts.items() if number > 0]
        told.append(f"{60 * self.progress.per_second(self.sent):,.0f} a minute")
        told += [f"{self.tokens:,} tokens ({self.progress.per_second(self.tokens):,.0f}/s)"] if self.whole else []
        told += [f"${self.budget.paid:,.2f}"] if self.budget.paid else []
        return told + [slowed for slowed in [self.pace.slowed(time.monotonic())] if slowed]

    def _stop(self, number: signal.Signals) -> None:
        """Say what is waited for; and no request leaves any more."""
        landing = f"what is on its way, {self.pace.in_flight} requests, is waited for"
        seconds, again = self.api.request_timeout, "a second signal leaves at once, and they are paid for again"
        if self.pace.in_flight and not self._leaves():
            log.info("%-16s %s: %s, %g s at most; %s", "asking", number.name, landing, seconds, again)
        self.changed.set()

    def _leaves(self) -> bool:
        """Whether a signal ends what is on its way: long answers that cost nothing are better asked again."""
        return self.whole and self.budget.free and stopping.received() is not None

    def _kept(self) -> str:
        """What is on the disk, and what is not."""
        waiting, answers = {key for *_, key in self.waiting}, self.journal.answers()
        saved = sum(not answer.failed for answer in answers.values())
        failed = sum(answer.failed for key, answer in answers.items() if key not in waiting)
        without = f", {failed} failed for good" if failed else ""
        if self.budget.free:
            cost = " cost nothing"
        elif self.answered:  # by what was paid for the others
            cost = f" would cost about ${self.journal.spending().usd / self.answered * len(waiting):.2f}"
        else:
            cost = f" would cost at most ${sum(self._prepared(key)[1] for *_, key in self.waiting):.2f}"
        left = f"the {len(waiting)} that are left{cost}"
        return f"{saved} of {len(self.requests)} answers are saved{without}; {left}"

    def _end(self, problem: str) -> None:
        """Let no request leave any more; the first problem is told."""
        self.problem = self.problem or problem
        self.changed.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        fault = None if task.cancelled() else task.exception()  # asked of each: else asyncio prints it
        self.fault = self.fault or fault
        self.changed.set()

    def _wait(self, now: float) -> float:
        """Seconds until the next may leave; infinite while that hangs on what is in flight."""
        if not self.waiting or self.pace.in_flight >= (self.api.max_concurrent_requests or 1):
            return math.inf
        ready_at, _, key = self.waiting[0]
        if lacks := self.budget.lacks(self._prepared(key)[1]):
            if not self.pace.in_flight:  # whose bills may leave room
                self._end(lacks)
            return math.inf
        return max(ready_at - now, self.pace.wait(now))

    def _prepared(self, key: str) -> tuple[str, float]:
        """The request's text, and the most that an attempt costs, in dollars."""
        text = self.text_of(key)
        return text, self.budget.worst(text, self.requests[key].limit(self.api))

    async def _try(self, place: int, key: str, text: str, worst: float, tokens: float) -> None:
        """One attempt; without an answer the request waits again."""
        used, headers, limit = 0.0, {}, self.requests[key].limit(self.api)
        try:
            await self.journal.reserve(key, text, worst)
            sent_at = time.monotonic()
            landed = await self.client.send(text, self.requests[key].path, limit)
            answer, ready_at = self._judge(key, sent_at, landed)
            paid, headers = self.budget.settle(worst, landed.tokens, text, limit), landed.headers
            prompt, _, completion = billed = landed.tokens or (0, 0, 0)
            used = tokens if landed.tokens is None else prompt + completion
            await self.journal.settle(key, text, worst, billed, paid, answer)
        finally:
            self.pace.landed(tokens, used, headers)
        if answer is None:
            heapq.heappush(self.waiting, (ready_at, place, key))
            return
        self.progress.advance()
        self.failed += answer.failed
        self.tokens += completion
        if not answer.failed:
            self.answered += 1
            self.completion += (completion - self.completion) / min(self.answered, 100)

    def _judge(self, key: str, sent_at: float, landed: "Attempt") -> tuple[Completion | None, float]:
        """The answer, or when to try again; what must stop all becomes `problem`."""
        now, server = time.monotonic(), self.client.server
        if landed.means is Means.END:
            self._end(f"{server} refuses requests ({landed.said}): {landed.remedy}")
        elif landed.answer and self.whole and (why := other_model(landed.answer.model, self.api.model, self.section)):
            self._end(f"{server} {why}")
            return None, now
        elif landed.answer:
            self.pace.accepted(now)
            self.failed_since.clear()
            self.failed_tries = 0
            if not landed.answer.failed:
                self._hear(landed.answer)
        elif (wait := landed.retry_after or 0.0) > self.max_wait:
            back = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + wait))
            self._end(f"{server} takes nothing for {wait:.0f} s ({landed.said}): wait until {back}")
        elif landed.means is Means.LATER:
            ready_at = now + self.pace.refused(now, sent_at, landed.retry_after)
            if self.pace.trying and now - self.pace.last_accepted > self.max_wait:
                waited = f"has taken nothing for {self.max_wait:g} s"
                self._end(f"{server} {waited} ({landed.said}): wait for an hour")
            return None, ready_at
        else:
            return self._failed(key, now, sent_at, landed)
        return landed.answer, now

    def _hear(self, answer: Completion) -> None:
        """End the run when the first answers all have no text: they are paid for, and the others would have none."""
        self.heard = self.heard or bool((answer.text or "").strip())
        self.silent += not self.heard
        if self.silent == _SILENT and not self.heard and len(self.requests) > _SILENT:
            why = f"the first {_SILENT} answers have no text ({answer.finish_reason}: {answer.error or 'empty'})"
            remedy = f"try {self.section}.model with one question, and leave it more tokens if it reasons"
            self._end(f"{self.client.server}: {why}: {remedy}")

    def _failed(self, key: str, now: float, sent_at: float, landed: "Attempt") -> tuple[Completion | None, float]:
        """A failure is the request's, unless nothing else happens any more: then it is the server's."""
        self.failed_since.add(key)
        self.failures[key] += not landed.unsent
        self.failures[key] += 1_000_000 * (landed.means is Means.PROMPT)  # which is not tried again
        retries, many = self.retries, len(self.failed_since) > 8 + len(self.requests) / 100
        if landed.unsent or many or not self.answered:
            self.failed_tries += self.pace.hold(now, sent_at, landed.retry_after, _LAST_BACKOFF)
            if self.failed_tries > max(1, retries):
                remedy = landed.remedy or "wait until it is well again"
                self._end(f"{self.client.server} keeps failing ({landed.said}): {remedy}")
        elif landed.retry_after:
            self.pace.refused(now, sent_at, landed.retry_after)
        if self.failures[key] > retries and self.answered:
            if self.whole:
                refused = f"{self.client.server} keeps failing at one of the requests ({landed.said})"
                self._end(f"{refused}: {landed.remedy or 'mend that at the server'}")
                return None, now
            return Completion(None, landed.failure, self.client.model, error=landed.said), 0.0
        backoff = min(_LAST_BACKOFF, _FIRST_BACKOFF * 2 ** min(self.failures[key], 10)) * random.uniform(0.5, 1)
        return None, now + max(backoff, landed.retry_after or 0.0)


def check_settings(api: ApiConfig, section: str) -> None:
    """`UserError` names the first setting of a section that is missing."""
    for name in (*_NUMBERS, api.limit_name):
        if getattr(api, name) is None:
            raise UserError(f"{section}.{name} {_UNSET}")
    if not api.model:
        raise UserError(f"{section}.model=null: name the model to ask")
