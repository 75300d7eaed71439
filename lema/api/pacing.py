"""When the next request may be sent: limits that are set, that the server tells, and that it lets one feel.

Requests are spread evenly below the limits. A server that refuses without a word is felt for: what it accepts while it
refuses the rest is its rate; then a little less, growing slowly, faster the longer nothing is refused. When nothing at
all gets through, one request at a time tries whether it does again; so the first request of all goes alone too.
"""

import contextlib
import email.utils
import math
import random
import re
import time
from collections import deque
from collections.abc import Mapping

_CATCH_UP = 0.25  # seconds of requests that may be sent at once when the sender was late
_RECENT = 400  # outcomes
_ENOUGH = 50  # outcomes before a share of them says something
_CALM = 0.07  # below this share of refused requests they are single ones, and no overload
_SPAN = 5.0  # seconds over which the accepted rate is measured
_WINDOW = 60.0  # seconds: the longest that a server counts requests over, whose mean rate over it is its limit
_MEASURED = 2.0  # seconds of an overload before its rate is known
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 2.0  # seconds between tries while a silent server refuses everything
_LONGEST = 31 * 86400.0  # seconds: to wait for longer than a month no server means
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class _Bucket:
    """So much a second, in even steps."""

    def __init__(self, per_minute: float | None) -> None:
        self.most = self.rate = math.inf if per_minute is None else per_minute / 60
        self.next_at = 0.0

    def take(self, now: float, amount: float, rate: float) -> None:
        self.next_at = max(self.next_at, now - _CATCH_UP) + amount / rate

    def told(self, now: float, per_minute: int) -> None:
        """The server's newest word on its limit; a larger one shortens the wait that one before it has caused."""
        old, self.rate = self.rate, min(self.most, per_minute / 60)
        if old < self.rate:
            self.next_at = min(self.next_at, now + max(0.0, self.next_at - now) * old / self.rate)


class Pace:
    """The pace of all workers together. Times are monotonic seconds."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self.in_flight = 0
        self.trying = True  # one request at a time
        self.last_accepted = time.monotonic()
        self._requests, self._tokens = _Bucket(requests_per_minute), _Bucket(tokens_per_minute)
        self._resume_at = 0.0
        self._held_at, self._tries = 0.0, 0  # since when it is tried; tries that failed, one after the other
        self._overload_at = 0.0  # what was sent before tells nothing new
        self._accepted_since = True
        self._measured_from = -math.inf
        self._felt, self._felt_at = math.inf, 0.0  # requests a second that the server seemed to take, and when
        self._overload_rate, self._patience = math.inf, 1.0  # at which the last one began; how slowly to go there again
        self._accepted: deque[float] = deque()  # when, in the last `_WINDOW`
        self._first_at = math.inf  # when the first was sent
        self._outcomes: deque[bool] = deque(maxlen=_RECENT)

    def wait(self, now: float) -> float:
        """Seconds until the next may be sent; infinite while that hangs on what is in flight."""
        if self.trying and self.in_flight:
            return math.inf
        return max(0.0, max(self._resume_at, self._requests.next_at, self._tokens.next_at) - now)

    def slowed(self, now: float) -> str:
        """What makes requests leave later than they could, in words; empty when nothing does."""
        pause, limits = self._resume_at - now, "the server's limits slow this"
        if self.trying and self._tries:
            return f"nothing gets through: one request tries again{f' in {pause:.0f} s' if pause >= 1 else ''}"
        if pause >= 1:
            return f"{limits}: waiting {pause:.0f} s"
        requests = min(self._requests.rate, self._rate(now))
        for what, bucket, rate in (("requests", self._requests, requests), ("tokens", self._tokens, self._tokens.rate)):
            if bucket.next_at > now and rate < math.inf:
                whose = limits if rate < bucket.most else f"max_{what}_per_minute slows this"
                return f"{whose}: at {60 * rate:,.0f} {what} a minute"
        return ""

    def send(self, now: float, tokens: float) -> None:
        """One is sent, of about so many tokens."""
        self.in_flight += 1
        self._first_at = min(self._first_at, now)
        self._requests.next_at = max(self._requests.next_at, self._resume_at)  # a pause is not caught up with
        self._requests.take(now, 1, min(self._requests.rate, self._rate(now)))
        self._tokens.take(now, tokens, self._tokens.rate)

    def landed(self, tokens: float, used: float, headers: Mapping[str, str]) -> None:
        """One ended, somehow: it was taken for `tokens`, and used `used`."""
        self.in_flight -= 1
        self._tokens.next_at += (used - tokens) / self._tokens.rate
        for kind, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            limit = headers.get(f"x-ratelimit-limit-{kind}", "")
            # A limit that one request is beyond cannot be meant.
            if re.fullmatch(r"\d{1,12}", limit) and int(limit) >= max(1, used if bucket is self._tokens else 1):
                bucket.told(time.monotonic(), int(limit))
                if headers.get(f"x-ratelimit-remaining-{kind}") == "0":  # others use it up too
                    full = seconds(headers.get(f"x-ratelimit-reset-{kind}", ""))  # until then at the most
                    bucket.next_at = max(bucket.next_at, time.monotonic() + min(full, 60 / int(limit)))

    def accepted(self, now: float) -> None:
        """The server took one."""
        self.trying, self._tries, self._accepted_since, self.last_accepted = False, 0, True, now
        self._outcomes.append(True)
        self._accepted.append(now)
        while self._accepted[0] < now - _WINDOW:
            self._accepted.popleft()

    def refused(self, now: float, sent_at: float, retry_after: float | None) -> float:
        """The server took one for too many; the seconds that this one has to wait, whatever the others do."""
        self._outcomes.append(False)
        if len(self._outcomes) >= _ENOUGH and self._outcomes.count(False) < _CALM * len(self._outcomes):
            return retry_after or _FIRST_PAUSE  # it alone
        self._resume_at = max(self._resume_at, now + (retry_after or 0.0))
        if sent_at >= self._overload_at:  # many refused at once are one overload
            if self._accepted_since:
                self._slow_down(now)
            else:
                self.hold(now, sent_at, retry_after, _LAST_PAUSE)
            self._overload_at, self._accepted_since = now, False
        return 0.0

    def hold(self, now: float, sent_at: float, pause: float | None, longest: float) -> bool:
        """Nothing gets through: pause, longer each time, then try with one. Whether what failed was such a try."""
        tried = self.trying and sent_at >= self._held_at
        if tried or not self.trying:
            pause = pause or min(longest, _FIRST_PAUSE * 2**self._tries) * random.uniform(0.75, 1.25)
            self._resume_at = max(self._resume_at, now + pause)
            self.trying, self._held_at, self._tries = True, now, min(self._tries + 1, 20)
        return tried

    def _slow_down(self, now: float) -> None:
        if self._felt == math.inf:
            span = now - self._measured_from
            if span > 2 * _SPAN:  # a new overload: see for a while what still gets through
                self._measured_from = now
            if not _MEASURED <= span <= 2 * _SPAN:
                self._resume_at = max(self._resume_at, now + _FIRST_PAUSE)
                return
            self._felt = max(1, self._taken(max(self._measured_from, now - _SPAN))) / min(span, _SPAN)
        else:
            felt, taken = self._rate(now), self._taken(now - _SPAN) / _SPAN
            # The limit seems known where two overloads in a row began at about the same rate.
            self._patience = min(4.0, 2 * self._patience) if 0.9 < felt / self._overload_rate < 1.1 else 1.0
            self._overload_rate = felt
            share = self._outcomes.count(True) / len(self._outcomes)
            self._felt = max(0.85, min(0.95, 0.97 * share)) * felt if taken > 0.6 * felt else max(0.5 * felt, taken)
        # A server that counts over a window refuses everything once that is full: its limit is not that low.
        since = max(now - _WINDOW, self._first_at)
        self._felt = max(self._felt, 0.9 * self._taken(since) / max(now - since, _SPAN))
        self._felt_at = max(now, self._resume_at)
        self._outcomes.clear()

    def _taken(self, since: float) -> int:
        """How many the server took since then."""
        return sum(at >= since for at in self._accepted)

    def _rate(self, now: float) -> float:
        """Requests a second the server is thought to take: 4 % more after 5 s, 10 % after 10 s, twice after 30 s."""
        age = max(0.0, now - self._felt_at) / self._patience
        return self._felt * math.exp(0.1 * (2 ** min(age / 10, 8) - 1))


def seconds(text: str) -> float:
    """A duration as servers write it: "6m0s", "12ms", "1.5"; infinite when it is none."""
    if re.fullmatch(r"\d{1,12}(\.\d*)?", text):
        return float(text)
    parts = re.findall(r"(\d{1,12}(?:\.\d*)?)(ms|s|m|h|d)", text)
    whole = "".join(number + unit for number, unit in parts) == text and parts
    return sum(float(number) * _UNITS[unit] for number, unit in parts) if whole else math.inf


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the server's word: retry-after-ms, or retry-after in seconds or as an HTTP date.

    None when it says nothing, and nothing that can be meant: garbage, or more than a month.
    """
    text = headers.get("retry-after", "")
    waits = [seconds(headers.get("retry-after-ms", "")) / 1000, seconds(text)]
    with contextlib.suppress(ValueError, TypeError, OverflowError, OSError):
        waits.append(max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time()))
    return next((wait for wait in waits if wait <= _LONGEST), None)
