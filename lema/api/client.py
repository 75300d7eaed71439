"""One attempt at a completion from an OpenAI-compatible server, and what came of it: the only importer of openai.

The client's own retries are off: they pay again uncounted, and try on when the quota is used up. Its aiohttp transport
is the one that stays fast with hundreds of requests in flight.
"""

import asyncio
import datetime
import difflib
import fnmatch
import functools
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp
import httpx2
import openai

from lema.api import billing, lengths, refusals
from lema.api.pacing import retry_after
from lema.api.refusals import Means, other_model as other_model
from lema.api.requests import Request, text as text_of, written
from lema.config import ApiConfig
from lema.identity import without_paths
from lema.types import BROKEN_OFF, CONTENT_REFUSED, PROMPT_TOO_LONG, TOO_LARGE, Completion, UserError

logging.getLogger("httpx2").setLevel(logging.WARNING)  # else a line a request
_LIST_TIMEOUT = 10.0  # seconds, of the list of models
_NAMED_BY_USERS = r"\.azure\.com/"  # it lists models, and is asked for what its users call their deployments
_LIST_BYTES = 2**23  # of it at the most; the longest have some thousand models
# Bytes of a reply at the most: for each token of the limit (a long one, escaped, and written twice as reasoning is by
# some), and besides; of a refusal, whose beginning is enough; of all replies together that are on their way.
_TOKEN_BYTES, _ROOM, _REFUSAL_BYTES, _ALL_BYTES = 64, 2**16, 2**16, 2**27
_PACKED = re.compile(r"gzip|deflate|compress|zstd|\bbr\b", re.I)  # in Content-Encoding; some say "utf-8" there
_TOKEN_CHARACTERS = 16  # of an answer's text: what is longer than all its tokens may be is cut there
_MOST_ENDED = 40  # characters of a server's reason for the end of an answer
# What others call the limit (Mistral) and a filter (Gemini); what breaks an answer off (vLLM, SGLang, DeepSeek).
_FILTERS = "safety recitation blocklist prohibited_content spii".split()
_ENDS = {"max_tokens": "length", "model_length": "length"} | dict.fromkeys(_FILTERS, "content_filter")
_BROKEN_OFF = ("abort", "error", "insufficient_system_resource")
_REASONING = ("reasoning_content", "reasoning")  # beside an answer, where a server tells them apart
_NOT_SENT = (aiohttp.ClientConnectorError, httpx2.ConnectError, httpx2.UnsupportedProtocol, httpx2.InvalidURL)
_NO_REPLY = (aiohttp.ClientPayloadError, aiohttp.ClientResponseError)


@dataclass(frozen=True)
class Attempt:
    """How an attempt ended: with an answer, or with the kind of failure, which tells what to do."""

    tokens: billing.Tokens | None = None  # billed; None: unknown
    answer: Completion | None = None
    failure: str = ""  # "HTTP 500", "malformed body", "reply too large", "time-out", "connection lost"
    said: str = ""  # by the server, or what happened: one line, without the key and without paths
    remedy: str = ""
    unsent: bool = False  # the server could not be reached
    means: Means = Means.AGAIN  # what is done about it
    retry_after: float | None = None  # seconds
    headers: Mapping[str, str] = field(default_factory=dict)
    prompt_token_ids: Sequence[int] | None = None  # that the model saw, where the server tells (`return_token_ids`)


class _Unread(Exception):
    """A reply whose body is not taken: the kind of failure, what is said of it, and the remedy."""


class Client:
    """A server, asked with `key`, else OPENAI_API_KEY; `section` of the config is what messages name.

    A reply costs little memory, whatever the server sends: its body may have so many bytes for each token of the limit,
    and all that are on their way so many together. No compression is offered, and what is packed nonetheless stays so.
    """

    def __init__(self, api: ApiConfig, section: str, key: str | None = None) -> None:
        self.api, self.section, self.key = api, section, key or os.environ.get("OPENAI_API_KEY", "").strip()
        if not self.key:
            raise UserError("OPENAI_API_KEY is not set: export it (any word, for a server that asks for none)")
        if not re.fullmatch(r"[!-~]+", self.key):
            raise UserError("OPENAI_API_KEY holds characters that no key has: export it anew, without quotes or spaces")
        url = api.base_url or os.environ.get("OPENAI_BASE_URL") or None  # null is OpenAI's own address
        if url and "@" in url.partition("//")[2].partition("/")[0]:
            remedy = "leave the user and the password out, which no request can carry beside a key"
            raise UserError(f"{section}.base_url={re.sub('//[^/]*@', '//***@', url)}: {remedy}")
        self.model = without_paths(str(api.model))
        self.most, self.held = _ROOM + _TOKEN_BYTES * api.limit, 0  # bytes: of a reply, and now on their way
        # A connection for every request: without a number the transport has 100. The time limit is on the whole answer.
        width = api.max_concurrent_requests
        http = openai.DefaultAioHttpClient(
            limits=httpx2.Limits(max_connections=width, max_keepalive_connections=width, keepalive_expiry=30.0),
            headers={"Accept-Encoding": "identity"},
            trust_env=not re.match(r"https?://(127\.|localhost\b|\[::1\])", url or ""),  # a proxy leads away from here
            follow_redirects=False,  # neither the key nor the prompt goes to another address than the one that was set
            event_hooks={"response": [self._take]},
        )
        self.openai = openai.AsyncOpenAI(api_key=self.key, http_client=http, base_url=url, max_retries=0, timeout=None)
        self.server = str(self.openai.base_url)

    async def _take(self, response: httpx2.Response) -> None:
        """Read a body as far as it is allowed; `_Unread` when it is an answer that is not."""
        stream, body, good = cast("httpx2.AsyncByteStream", response.stream), bytearray(), response.is_success
        most, packed = self.most if good else _REFUSAL_BYTES, response.headers.pop("content-encoding", "")
        base_url = f"mend {self.section}.base_url"
        try:
            if _PACKED.search(packed):
                if good:
                    said = f"the body is packed ({packed[:20]}), which was not asked for"
                    raise _Unread("malformed body", said, f"switch that off at the server, or {base_url}")
                body += f"its words are packed ({packed[:20]})".encode()
                self.held += len(body)
                return
            async for chunk in stream:
                body += chunk
                self.held += len(chunk)
                if len(body) > most or self.held > _ALL_BYTES:
                    if good:
                        whose, size = ("it has", most) if len(body) > most else ("all together have", _ALL_BYTES)
                        said = f"{whose} more than {size:,} bytes, for {self.api.limit:,} tokens each"
                        raise _Unread(TOO_LARGE, said, base_url)
                    break
        except httpx2.TransportError:
            if good:  # a refusal is one by its status
                raise
        finally:
            self.held -= len(body)
            await stream.aclose()
            response.stream = httpx2.ByteStream(bytes(body))
            response.encoding = "utf-8-sig"  # as JSON is; by the server's word it might be anything, also a compression

    async def send(self, request: str, path: str, limit: int) -> Attempt:
        """One attempt with this body, whose answer has at most `limit` tokens.

        It never raises what a server or a network can do.
        """
        try:
            # Not the client's own timeout, which is per read: a server that drips would hold a worker for ever.
            async with asyncio.timeout(self.api.request_timeout):
                # As it is: `chat.completions.create` would take a third of the time to look through it once more.
                content = request.encode()
                response = await self.openai.post(path, cast_to=httpx2.Response, content=content)
        except TimeoutError:
            said, remedy = f"no answer within {self.api.request_timeout} s", f"raise {self.section}.request_timeout"
            return Attempt(failure="time-out", said=said, remedy=remedy)
        except openai.APIStatusError as error:
            return self._refused(error.response, request, limit)
        except _Unread as error:
            failure, said, remedy = error.args
            return Attempt(failure=failure, said=f"{failure}: {refusals.line(said, self.key)}", remedy=remedy)
        except (openai.APIConnectionError, aiohttp.ClientError) as error:
            return self._lost(error)
        return self._read(response, request, limit)

    def _lost(self, error: Exception) -> Attempt:
        reasons, cause = [error], error.__cause__
        while isinstance(cause, Exception):
            reasons, cause = [*reasons, cause], cause.__cause__
        unsent = any(isinstance(reason, _NOT_SENT) for reason in reasons)
        broken = any(isinstance(reason, _NO_REPLY) for reason in reasons)
        what = "the reply breaks off, or is no HTTP" if broken else "no connection"
        said = f"{what}: {re.sub('^400, message: *', '', str(reasons[-1]))[:150]}"
        remedy = f"check it, or {self.section}.base_url"
        tokens = (0, 0, 0) if unsent else None
        said = refusals.line(said, self.key)
        return Attempt(tokens, failure="connection lost", said=said, remedy=remedy, unsent=unsent)

    def _read(self, response: httpx2.Response, request: str, limit: int) -> Attempt:
        # A server may repeat the key; one that is a mere word ("test") is no secret, and may be in any answer.
        said = refusals.decoded(response.text.replace(self.key, "***") if len(self.key) >= 16 else response.text)
        try:  # anything may be in a 200
            choice, usage = said["choices"][0], said.get("usage")
            message = choice["message"] if "message" in choice else {"content": choice["text"]}
            content, refusal = written(message.get("content")), message.get("refusal")
            if choice.get("error"):  # beside a text too, which breaks off there
                return self._refused(response, request, limit, refusals.read_json(choice), usage)
            ended = "refusal" if refusal else refusals.line(str(choice.get("finish_reason")))[:_MOST_ENDED]
        except (LookupError, TypeError, AttributeError):
            return self._refused(response, request, limit)
        ended = _ENDS.get(ended.lower(), ended)
        if ended.lower() in _BROKEN_OFF:
            tokens = billing.billed(usage, bool(content))
            return Attempt(tokens, failure=BROKEN_OFF, said=f"{BROKEN_OFF}: {ended}", headers=response.headers)
        if content and len(content) > (longest := 1000 + _TOKEN_CHARACTERS * limit):
            content, ended = content[:longest], "length"
        # The name is printed, and stands in tables and reports; some servers call a model by its folder.
        name = without_paths(str(said.get("model") or self.api.model)[:1000])
        model = "".join(filter(str.isprintable, name))[:100]
        words = refusals.line(refusal) if isinstance(refusal, str) else ""
        if not content and not words and any(message.get(name) for name in _REASONING):
            words = "it reasoned, and wrote no answer"
        tokens = billing.billed(usage, bool(content or refusal))
        seen, answer = choice.get("prompt_token_ids"), Completion(content, ended, model, error=words)
        seen = seen if isinstance(seen, list) else None
        return Attempt(tokens, answer, headers=response.headers, prompt_token_ids=seen)

    def _refused(
        self,
        response: httpx2.Response,
        request: str,
        limit: int,
        words: refusals.Words | None = None,
        usage: Any = None,
    ) -> Attempt:
        """What came in place of an answer: an answer without text, a reason to try again, or the end of the run."""
        own, headers, words = response.status_code, response.headers, words or refusals.read(response.text)
        section, name = self.section, self.api.limit_name
        if response.is_success and not words.error:
            said, helps = refusals.broken(response.text)
            said, helps = refusals.line(said, self.key), helps.format(section)
            return Attempt(failure="malformed body", said=said, remedy=helps, headers=headers)
        status = words.status or own if response.is_success else own
        moved = 300 <= own < 400
        told = f": {words.said}" if words.said.strip() else " to another address" if moved else " without a word"
        said = refusals.line(f"HTTP {own}{f', error {status}' if status != own else ''}{told}", self.key)
        means, helps = refusals.meaning(status, words, retry_after(headers) is not None)
        # A gateway may give up on an answer that the model went on to write, and bill; so may a 200 tell of a failure.
        gone = status in (408, 499) or (status > 500 and status not in (503, 529))
        unknown = gone or (status < 300 and means is Means.AGAIN)
        tokens = billing.billed(usage, False) or (None if unknown else (0, 0, 0))
        landed = functools.partial(Attempt, tokens, failure=f"HTTP {status}", said=said, headers=headers)
        # Rate limits and time-outs speak of lengths too, and pass; a request that is beyond a rate by itself does not.
        passing = gone or status in (503, 529) or (status == 429 and not re.search("request too large", said, re.I))
        about_length = not passing and own not in (401, 402, 403, 404)
        length = lengths.too_long(refusals.line(words.said, self.key), limit) if about_length else None
        if length and length.limit:
            prompt_tokens = round(len(request.encode()) / 4) if length.context else 0
            helps = lengths.shorter(f"{section}.{name}", limit, length.most or 0, prompt_tokens)
            return landed(remedy=helps, means=Means.END)
        if length or means in (Means.TOO_LONG, Means.CONTENT):
            ended = PROMPT_TOO_LONG if length or means is Means.TOO_LONG else CONTENT_REFUSED
            return landed(Completion(None, ended, self.model, error=said), failure="")
        sent = [name for name in refusals.PARAMETERS if getattr(self.api, name) is not None]
        if status in (200, 400, 422) and (removed := refusals.parameter(words, sent, section, limit)):
            return landed(remedy=removed, means=Means.END)
        setting = words.param if words.param in vars(self.api) else "base_url"
        there = refusals.elsewhere(self.server, section, headers.get("location", ""))
        helps = there if moved else helps.format(section, setting)
        return landed(remedy=helps, retry_after=retry_after(headers), means=means)

    async def listed(self) -> dict[str, dict[str, Any]]:
        """The models that the server lists, by their names; none without such a list. `UserError` when it refuses."""
        self.most = _LIST_BYTES
        try:
            async with self.openai, asyncio.timeout(_LIST_TIMEOUT):
                text = (await self.openai.get("/models", cast_to=httpx2.Response)).text
            return {str(model["id"]): dict(model) for model in refusals.decoded(text)["data"]}
        except openai.APIStatusError as error:
            landed = self._refused(error.response, "", self.api.limit)
            if landed.means is not Means.END or error.status_code >= 404:  # a server without such a list
                return {}
        except TimeoutError:
            said = f"no list of models within {_LIST_TIMEOUT:g} s"
            landed = Attempt(said=said, remedy=f"check it, or {self.section}.base_url")
        except (openai.APIConnectionError, aiohttp.ClientError) as error:
            landed = self._lost(error)
        except (_Unread, LookupError, TypeError, ValueError):
            return {}
        raise UserError(f"{self.server}: {landed.said}: {landed.remedy}")


@dataclass(frozen=True)
class Listed:
    """What a server's list tells of a model."""

    name: str
    context: int | None = None  # the tokens that prompt and answer may have together
    kind: str = ""  # of the server: "vllm", "sglang"


def listed(api: ApiConfig, section: str, prompt_tokens: int = 0) -> Listed:
    """The model that is asked: `api.model`, or the one model that the server lists. The list is free.

    Raises `UserError` when there is no key, the server cannot be reached or takes no key, or its list has no such
    model, one that is shut down, or one whose context is too small: a prompt has about so many tokens.
    """
    client = Client(api, section)
    server, found = client.server, asyncio.run(client.listed())
    if api.model is None and len(found) != 1:
        names = refusals.line(", ".join(sorted(found)[:10]))
        what = f"lists {len(found)} models ({names})" if found else "lists no models"
        raise UserError(f"{section}.model=null: {server} {what}: name the one to ask with {section}.model=")
    name = api.model or next(iter(found))
    theirs = _listed_as(name, found)
    if found and theirs is None and not re.search(_NAMED_BY_USERS, server):
        near = refusals.line(", ".join(difflib.get_close_matches(name, found) or sorted(found)[:5]))
        raise UserError(
            f"{section}.model={name}: {server} does not list it for this key: choose one it lists, as {near}"
        )
    facts = found.get(theirs or "", {})
    ends, most = str(facts.get("shutdown_date") or ""), lengths.context(facts)
    if re.match(r"\d{4}-\d\d-\d\d", ends) and ends[:10] < datetime.date.today().isoformat():
        gone = f"{server} has shut it down on {ends[:10]}"
        raise UserError(f"{section}.model={name}: {gone}: choose another {section}.model")
    if most and api.limit > most:
        shorter = lengths.shorter(f"{section}.{api.limit_name}", api.limit, most, prompt_tokens)
        raise UserError(f"{server}: {shorter}")
    return Listed(name, most, refusals.line(str(facts.get("owned_by") or "")))


def attempt(request: Request, api: ApiConfig, section: str, key: str | None = None, tries: int = 1) -> Attempt:
    """What comes of one request, which no journal knows: to try a server. Raises `UserError` without a key."""

    async def send() -> Attempt:
        client = Client(api, section, key)
        async with client.openai:
            return await client.send(text_of(request, api), request.path, request.limit(api))

    for number in range(tries - 1):
        landed = asyncio.run(send())
        if landed.answer or landed.means not in (Means.AGAIN, Means.LATER):
            return landed
        time.sleep(min(30.0, landed.retry_after or 0.5 * 2**number))
    return asyncio.run(send())


def _listed_as(model: str, listed: Iterable[str]) -> str | None:
    """Under which of the names, or patterns, a model is listed: Gemini lists `models/x`, Ollama `x:latest`.

    OpenRouter and the Hub's router take `x:nitro` for x.
    """
    names = (model, model.removeprefix("models/"), model.rpartition(":")[0] or model)
    plain = {each: each.removeprefix("models/").removesuffix(":latest") for each in listed}
    return next((each for name in names for each in plain if fnmatch.fnmatchcase(name, plain[each])), None)
