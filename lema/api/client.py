"""One attempt at a chat completion from an OpenAI-compatible server, and what came of it: the only importer of openai.

The client's own retries are off: they pay again uncounted, and try on when the quota is used up. Its aiohttp transport
is the one that stays fast with hundreds of requests in flight.
"""

import asyncio
import datetime
import difflib
import fnmatch
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx2
import openai

from lema.api import lengths
from lema.api.journal import CONTENT_REFUSED, PROMPT_TOO_LONG, Answer
from lema.api.pacing import retry_after
from lema.config import ApiConfig
from lema.identity import without_paths
from lema.types import UserError

logging.getLogger("httpx2").setLevel(logging.WARNING)  # else a line a request
_LIST_TIMEOUT = 10.0  # seconds, of the list of models
_MOST_WORDS = 300  # characters of what a server says that are kept and shown
# Codes of refusals that concern one prompt and not the run: its length, and its content.
_TOO_LONG = ("context_length_exceeded", "exceed_context_size_error", "string_above_max_length")
_CONTENT = ("content_filter", "content_policy_violation", "invalid_prompt")
# What some models refuse, with what helps.
_REFUSED = {
    "temperature": "remove {0}.temperature",
    "reasoning_effort": "remove {0}.reasoning_effort",
    "max_tokens": "set {0}.max_tokens=null and {0}.max_completion_tokens={1}",
    "max_completion_tokens": "set {0}.max_completion_tokens=null and {0}.max_tokens={1}",
}
_NOT_SENT = (aiohttp.ClientConnectorError, httpx2.ConnectError, httpx2.UnsupportedProtocol, httpx2.InvalidURL)


@dataclass(frozen=True)
class Landed:
    """How an attempt ended: with an answer, or with the kind of failure, which tells what to do."""

    tokens: tuple[int, int, int] | None = None  # billed: prompt, cached of these, completion; None: unknown
    answer: Answer | None = None
    failure: str = ""  # "HTTP 500", "malformed body", "time-out", "connection lost"
    said: str = ""  # by the server, or what happened: one line, without the key and without paths
    remedy: str = ""
    unsent: bool = False  # the server could not be reached
    limited: bool = False  # too many requests for now
    final: bool = False  # asked again, it would fail again
    hopeless: bool = False  # and so would every other request
    retry_after: float | None = None  # seconds
    headers: Mapping[str, str] = field(default_factory=dict)


class Client:
    """A server, asked with a key; `section` of the config is what messages name."""

    def __init__(self, api: ApiConfig, section: str) -> None:
        self.api, self.section, self.key = api, section, _key()
        # A connection for every request: without a number the transport has 100. The time limit is on the whole answer.
        width = api.max_concurrent_requests
        limits = httpx2.Limits(max_connections=width, max_keepalive_connections=width, keepalive_expiry=30.0)
        http = openai.DefaultAioHttpClient(limits=limits)
        options: dict[str, Any] = {"base_url": _url(api, section), "max_retries": 0, "timeout": None}
        self.openai = openai.AsyncOpenAI(api_key=self.key, http_client=http, **options)
        self.server = str(self.openai.base_url)

    async def send(self, request: str) -> Landed:
        """One attempt with this body, which never raises what a server or a network can do."""
        try:
            # Not the client's own timeout, which is per read: a server that drips would hold a worker for ever.
            async with asyncio.timeout(self.api.request_timeout):
                # As it is: `chat.completions.create` would take a third of the time to look through it once more.
                response = await self.openai.post(
                    "/chat/completions", cast_to=httpx2.Response, content=request.encode()
                )
        except TimeoutError:
            said, remedy = f"no answer within {self.api.request_timeout} s", f"raise {self.section}.request_timeout"
            return Landed(None, None, "time-out", said, remedy)
        except openai.APIStatusError as error:
            return self._refused(error, request)
        except (openai.APIConnectionError, aiohttp.ClientError) as error:
            return self._lost(error)
        return self._read(response.text, response.headers)

    def _lost(self, error: Exception) -> Landed:
        reasons, cause = [error], error.__cause__
        while isinstance(cause, Exception):
            reasons, cause = [*reasons, cause], cause.__cause__
        unsent = any(isinstance(reason, _NOT_SENT) for reason in reasons)
        said, remedy = _safe(f"no connection: {reasons[-1]}", self.key), f"check it, or {self.section}.base_url"
        return Landed((0, 0, 0) if unsent else None, None, "connection lost", said, remedy, unsent=unsent)

    def _read(self, text: str, headers: Mapping[str, str]) -> Landed:
        try:  # anything may be in a 200
            # A server may repeat the key; one that is a mere word ("test") is no secret, and may be in any answer.
            said = json.loads(text.replace(self.key, "***") if len(self.key) >= 16 else text)
            choice, usage = said["choices"][0], said.get("usage") or {}
            content, refusal = choice["message"].get("content"), choice["message"].get("refusal")
            ended = "refusal" if refusal else str(choice.get("finish_reason"))
            tokens = _billed(usage)
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            said, remedy = "the body is no chat completion", f"mend {self.section}.base_url"
            return Landed(None, None, "malformed body", said, remedy, headers=headers)
        # Half a surrogate pair, which JSON can carry, cannot be written to any file.
        content = content.encode("utf-8", "replace").decode() if isinstance(content, str) else None
        # The name is printed, and stands in tables and reports; some servers call a model by its folder.
        name = without_paths(str(said.get("model") or self.api.model)[:1000])
        model = "".join(filter(str.isprintable, name))[:100]
        words = _safe(refusal, self.key) if isinstance(refusal, str) else ""
        return Landed(tokens, Answer(content, ended, model, words), headers=headers)

    def _refused(self, error: openai.APIStatusError, request: str) -> Landed:
        """A status of 400 and more: an answer without text, a reason to try again, or the end of the run."""
        status, code, headers = error.status_code, str(error.code), error.response.headers
        wait, said, (name, limit) = retry_after(headers), _safe(_words(error), self.key), _limit(self.api)
        # A gateway may give up on an answer that the model went on to write, and bill.
        tokens = None if status == 408 or (status > 500 and status != 503) else (0, 0, 0)
        # A rate limit speaks of lengths too, and passes; a request that is beyond it by itself does not.
        passing = status == 429 and not re.search("request too large", said, re.I)
        length = None if passing or status in (401, 403, 404) else lengths.too_long(said, limit)
        if length and length.limit:
            prompt_tokens = round(len(request.encode()) / 4) if length.context else 0
            remedy = _shorter(f"{self.section}.{name}", limit, length.most or 0, prompt_tokens)
            return Landed(tokens, None, f"HTTP {status}", said, remedy, hopeless=True, headers=headers)
        ended = PROMPT_TOO_LONG if length or code in _TOO_LONG or status == 413 else CONTENT_REFUSED
        if ended == PROMPT_TOO_LONG or code in _CONTENT:
            answer = Answer(None, ended, without_paths(str(self.api.model)), said)
            return Landed(tokens, answer, headers=headers)
        if code != "insufficient_quota" and (status in (408, 409, 429) or status >= 500):
            # `limited` also says that it is no failure of this request, to be counted.
            limited = status == 429
            return Landed(tokens, None, f"HTTP {status}", said, "", limited=limited, retry_after=wait, headers=headers)
        refused = str(error.param) if error.param else ""
        if refused not in _REFUSED and status in (400, 422):  # a server that names it in words alone
            sent = [name for name in _REFUSED if getattr(self.api, name) is not None]
            refused = next((name for name in sent if re.search(rf"\b{name}\b", said)), refused)
        final = status in (400, 422) and refused not in _REFUSED  # something in this one prompt, for all one knows
        remedy = self._remedy(status, refused)
        return Landed(tokens, None, f"HTTP {status}", said, remedy, final=final, hopeless=not final, headers=headers)

    def _remedy(self, status: int, refused: str) -> str:
        section, api = self.section, self.api
        if refused in _REFUSED:
            names = [refused, *(name for name in _REFUSED if getattr(api, name) is not None and name != refused)]
            # Its own limit is to stay, whatever it is called.
            names = [name for name in names if name != "max_completion_tokens" or name == refused]
            first, *others = (_REFUSED[name].format(section, _limit(api)[1]) for name in names)
            further = f" (as models that do refuse others too, you may have to {' and '.join(others)})"
            return f"{first}{further if others else ''}"
        remedies = {401: "set an OPENAI_API_KEY that it accepts", 403: "set an OPENAI_API_KEY that it accepts"}
        remedies |= {404: f"choose a {section}.model that it lists, or mend {section}.base_url", 429: "add credit"}
        setting = refused if hasattr(api, refused) else "base_url"
        return remedies.get(status, f"mend what it says, or change {section}.{setting}")


def _limit(api: ApiConfig) -> tuple[str, int]:
    """The parameter that limits an answer, and its value."""
    name = "max_completion_tokens" if api.max_tokens is None else "max_tokens"
    return name, getattr(api, name) or 0


def _shorter(key: str, limit: int, most: int, prompt_tokens: int) -> str:
    """What helps when a server allows `most` tokens, those of the prompt included if their number is given (about)."""
    room = most - prompt_tokens
    together = f" for prompt and answer together, and a prompt takes about {prompt_tokens:,}" if prompt_tokens else ""
    remedy = f"set {key}={room}" if room > 0 else "have it serve a longer context"
    return f"{key}={limit} is too much: it allows {most:,} tokens{together}; {remedy}"


def _safe(text: str, key: str) -> str:
    """A server's words for people: on one line, without the key, paths and what a terminal would obey."""
    line = without_paths(" ".join(text.replace(key, "***").split()))
    return "".join(filter(str.isprintable, line))[:_MOST_WORDS]


def _key() -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key:
        raise UserError("OPENAI_API_KEY is not set: export it (any word, for a server that asks for none)")
    if not re.fullmatch(r"[!-~]+", key):
        raise UserError("OPENAI_API_KEY holds characters that no key has: export it anew, without quotes or spaces")
    return key


def _words(error: openai.APIStatusError) -> str:
    """What a refusal says, in whichever shape."""
    body: Any = error.body
    told = body.get("message") or body.get("detail") if isinstance(body, dict) else body
    return f"HTTP {error.status_code}: {told if isinstance(told, str) and told else error.response.text}"


def _url(api: ApiConfig, section: str) -> str | None:
    """The server's address; null is OpenAI's own."""
    url = api.base_url or os.environ.get("OPENAI_BASE_URL") or None
    if url and "@" in url.partition("//")[2].partition("/")[0]:
        remedy = "leave the user and the password out, which no request can carry beside a key"
        raise UserError(f"{section}.base_url={re.sub('//[^/]*@', '//***@', url)}: {remedy}")
    return url


def _billed(usage: dict[str, Any]) -> tuple[int, int, int] | None:
    """The bill by a server's `usage`; None, if it cannot be one. Some leave reasoning to the total alone."""
    prompt, completion, total = (usage.get(f"{kind}_tokens") for kind in ("prompt", "completion", "total"))
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    if type(prompt) is not int or type(completion) is not int or not (0 < prompt < 2**31 and 0 <= completion < 2**31):
        return None
    if type(total) is int and total < 2**31:
        completion = max(completion, total - prompt)
    return prompt, cached if type(cached) is int and 0 <= cached <= prompt else 0, completion


def check_model(api: ApiConfig, section: str, prompt_tokens: int) -> str | None:
    """Why the key cannot use the model, with the remedy, by the server's own list, which is free; None when it can.

    So is a limit of the answers that is beyond the context, where the list names it; a prompt has about so many tokens.
    None as well for a server without such a list: only a request will tell.
    """
    try:
        key, url = _key(), _url(api, section)
    except UserError as error:
        return str(error)
    with openai.OpenAI(api_key=key, base_url=url, max_retries=0, timeout=_LIST_TIMEOUT) as client:
        server = client.base_url
        try:
            text = client.models.with_raw_response.list().text
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                return f"{server}: {_safe(_words(error), key)}: set an OPENAI_API_KEY that it accepts"
            return None
        except openai.APIConnectionError as error:
            return f"{server}: no connection ({error.__cause__ or error}): check it, or {section}.base_url"
    try:
        listed: dict[str, dict[str, Any]] = {str(model["id"]): dict(model) for model in json.loads(text)["data"]}
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    found = next((name for name in listed if fnmatch.fnmatchcase(str(api.model), name)), None)
    if listed and found is None:
        near = ", ".join(difflib.get_close_matches(str(api.model), listed) or sorted(listed)[:5])
        line = f"{section}.model={api.model}: {server} does not list it for this key: choose one it lists, as {near}"
        return "".join(filter(str.isprintable, line))
    facts = listed.get(found or "", {})
    ends, most = str(facts.get("shutdown_date") or ""), lengths.context(facts)
    if re.match(r"\d{4}-\d\d-\d\d", ends) and ends[:10] < datetime.date.today().isoformat():
        return f"{section}.model={api.model}: {server} has shut it down on {ends[:10]}: choose another {section}.model"
    name, limit = _limit(api)
    return f"{server}: {_shorter(f'{section}.{name}', limit, most, prompt_tokens)}" if most and limit > most else None
