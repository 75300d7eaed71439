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

from lema.config import ApiConfig
from lema.identity import without_paths
from lema.journal import Answer
from lema.models.pacing import retry_after
from lema.types import UserError

logging.getLogger("httpx2").setLevel(logging.WARNING)  # else a line a request
_LIST_TIMEOUT = 10.0  # seconds, of the list of models
# Codes of refusals that concern one prompt and not the run.
_REFUSED_PROMPT = ("content_filter", "content_policy_violation", "invalid_prompt", "context_length_exceeded")
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
    said: str = ""  # for people, without the key; of what is hopeless, with the remedy
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
            return Landed(None, None, "time-out", f"no answer within {self.api.request_timeout} s")
        except openai.APIStatusError as error:
            return self._refused(error)
        except (openai.APIConnectionError, aiohttp.ClientError) as error:
            return self._lost(error)
        return self._read(response.text, response.headers)

    def _lost(self, error: Exception) -> Landed:
        reasons, cause = [error], error.__cause__
        while isinstance(cause, Exception):
            reasons, cause = [*reasons, cause], cause.__cause__
        unsent = any(isinstance(reason, _NOT_SENT) for reason in reasons)
        said = f"no connection ({reasons[-1]}): check it, or {self.section}.base_url"
        return Landed((0, 0, 0) if unsent else None, None, "connection lost", self._safe(said), unsent=unsent)

    def _read(self, text: str, headers: Mapping[str, str]) -> Landed:
        try:  # anything may be in a 200
            # A server may repeat the key; one that is a mere word ("test") is no secret, and may be in any answer.
            said = json.loads(text.replace(self.key, "***") if len(self.key) >= 16 else text)
            choice, usage = said["choices"][0], said.get("usage") or {}
            content, refusal = choice["message"].get("content"), choice["message"].get("refusal")
            ended = "refusal" if refusal else str(choice.get("finish_reason"))
            tokens = _billed(usage)
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            said = f"the body is no chat completion: mend {self.section}.base_url"
            return Landed(None, None, "malformed body", said, headers=headers)
        # Half a surrogate pair, which JSON can carry, cannot be written to any file.
        content = content.encode("utf-8", "replace").decode() if isinstance(content, str) else None
        # The name is printed, and stands in tables and reports; some servers call a model by its folder.
        name = without_paths(str(said.get("model") or self.api.model)[:1000])
        model = "".join(filter(str.isprintable, name))[:100]
        return Landed(tokens, Answer(content, ended, model), headers=headers)

    def _refused(self, error: openai.APIStatusError) -> Landed:
        """A status of 400 and more: an answer without text, a reason to try again, or the end of the run."""
        status, code, headers = error.status_code, str(error.code), error.response.headers
        wait, said = retry_after(headers), self._safe(_words(error))
        # A gateway may give up on an answer that the model went on to write, and bill.
        tokens = None if status == 408 or (status > 500 and status != 503) else (0, 0, 0)
        if code in _REFUSED_PROMPT or status == 413 or re.search("request too large|maximum context", said, re.I):
            return Landed(tokens, Answer(None, "refusal", without_paths(str(self.api.model))), headers=headers)
        if code != "insufficient_quota" and (status in (408, 409, 429) or status >= 500):
            # `limited` also says that it is no failure of this request, to be counted.
            limited = status == 429
            return Landed(tokens, None, f"HTTP {status}", said, limited=limited, retry_after=wait, headers=headers)
        refused = str(error.param) if error.param else ""
        if refused not in _REFUSED and status in (400, 422):  # a server that names it in words alone
            refused = next((name for name in _REFUSED if re.search(rf"\b{name}\b", said)), refused)
        said = f"{said}: {self._remedy(status, refused)}"
        final = status in (400, 422) and refused not in _REFUSED  # something in this one prompt, for all one knows
        return Landed(tokens, None, f"HTTP {status}", said, final=final, hopeless=not final, headers=headers)

    def _remedy(self, status: int, refused: str) -> str:
        section, api = self.section, self.api
        if refused in _REFUSED:
            names = [refused, *(name for name in _REFUSED if getattr(api, name) is not None and name != refused)]
            # Its own limit is to stay, whatever it is called.
            names = [name for name in names if name != "max_completion_tokens" or name == refused]
            limit = api.max_tokens if api.max_completion_tokens is None else api.max_completion_tokens
            first, *others = (_REFUSED[name].format(section, limit) for name in names)
            further = f" (as models that do refuse others too, you may have to {' and '.join(others)})"
            return f"{section}.model={api.model} refuses `{refused}`: {first}{further if others else ''}"
        remedies = {401: "set an OPENAI_API_KEY that it accepts", 403: "set an OPENAI_API_KEY that it accepts"}
        remedies |= {404: f"choose a {section}.model that it lists, or mend {section}.base_url", 429: "add credit"}
        return remedies.get(status, f"change {section}.{refused or 'base_url'}")

    def _safe(self, text: str) -> str:
        return text.replace(self.key, "***")[:300]


def _key() -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key:
        raise UserError("OPENAI_API_KEY is not set: export it (any word, for a server that asks for none)")
    if not re.fullmatch(r"[!-~]+", key):
        raise UserError("OPENAI_API_KEY holds characters that no key has: export it anew, without quotes or spaces")
    return key


def _words(error: openai.APIStatusError) -> str:
    """What a refusal says, in whichever shape."""
    told = isinstance(error.body, dict) and error.body.get("message")
    return error.message if told else f"{error.message}: {error.response.text}"


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


def check_model(api: ApiConfig, section: str) -> str | None:
    """Why the key cannot use the model, with the remedy, by the server's own list, which is free; None when it can.

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
                return f"{server}: {_words(error).replace(key, '***')[:300]}: set an OPENAI_API_KEY that it accepts"
            return None
        except openai.APIConnectionError as error:
            return f"{server}: no connection ({error.__cause__ or error}): check it, or {section}.base_url"
    try:
        listed: dict[str, Any] = {str(model["id"]): model.get("shutdown_date") for model in json.loads(text)["data"]}
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    found = next((name for name in listed if fnmatch.fnmatchcase(str(api.model), name)), None)
    if listed and found is None:
        near = ", ".join(difflib.get_close_matches(str(api.model), listed) or sorted(listed)[:5])
        return f"{section}.model={api.model}: {server} does not list it for this key: choose one it lists, as {near}"
    ends = str(listed.get(found or "") or "")
    if re.match(r"\d{4}-\d\d-\d\d", ends) and ends[:10] < datetime.date.today().isoformat():
        return f"{section}.model={api.model}: {server} has shut it down on {ends[:10]}: choose another {section}.model"
    return None
