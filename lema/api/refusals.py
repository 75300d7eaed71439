"""What a server says in place of an answer: its words in whichever shape, what they mean, and what helps.

Servers say the same with many statuses, also with 200. The first row of `_ROWS` that fits tells what to do. The words
are those of OpenAI, Azure, Anthropic, Gemini, Mistral, DeepSeek, Moonshot, DashScope, xAI, Groq, OpenRouter, LiteLLM,
vLLM, FastChat, TGI and of the gateways before them.
"""

import html
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import urljoin

from lema.identity import without_paths

_MOST_WORDS = 300  # characters of what a server says that are kept and shown
_MOST_READ = 6000  # and that are looked through
# Where a message stands, the likeliest first; `loc` of a list of details tells what each is about.
_MESSAGES = (
    "message msg detail details error_description error_message error_msg error errors title reason fault faultstring"
).split()
# JSON allows any number of digits, and Python's `int` does not.
_JSON = json.JSONDecoder(parse_int=lambda digits: int(digits) if len(digits) < 1000 else math.inf)
_CODES = ("code", "type", "status", "status_code", "statusCode", "error_type", "error_code")
# The status that a code in words stands for, in a reply whose own status is 200.
_NAMED = {
    r"rate.?limit|too.?many|throttl|resource.?exhausted": 429,
    r"overloaded|unavailable|capacity": 503,
    r"insufficient|billing|payment": 402,
    r"authenticat|unauthorized|api.?key": 401,
    r"permission|forbidden": 403,
    r"not.?found": 404,
    r"invalid.?(?:request|argument)|bad.?request|validation": 400,
    r"internal|server.?error": 500,
}

# What some models refuse, with what helps ({1}: the limit of an answer).
PARAMETERS = {
    "temperature": "remove {0}.temperature",
    "reasoning_effort": "remove {0}.reasoning_effort",
    "max_tokens": "set {0}.max_tokens=null and {0}.max_completion_tokens={1}",
    "max_completion_tokens": "set {0}.max_completion_tokens=null and {0}.max_tokens={1}",
}


class Means(Enum):
    """What a refusal is about, and so what is done."""

    LATER = "too many requests: all wait"
    AGAIN = "a failure that may pass: the request is tried again"
    PROMPT = "something in this one prompt, for all one knows: not tried again"
    TOO_LONG = "this one prompt is too long: an answer without text"
    CONTENT = "the content of this one prompt: an answer without text"
    END = "every other request would fail too: the run ends"


# "Insufficient", "exceeded", "exhausted": for sure, whatever the status; and words that only are about money.
_NO_CREDIT = (
    r"insufficient.?(?:user.?)?(?:quota|balance|credits?|funds)|credit balance is too low|out of (?:credits?|quota)"
    r"|exceeded.{0,8}current.?quota|(?:quota|credits?|balance) (?:\w+ ){0,2}(?:exceeded|exhausted|used up|not enough)"
    r"|exceeded (?:\w+ ){0,4}(?:quota|credits?)|quota.?exceeded|balance is (?:insufficient|not enough)|arrearage"
    r"|billing.?(?:hard.?)?limit|billing.?not.?active|余额不足|额度不足|欠费"
)
_MONEY = r"\b(?:billing|payments?|credits?|balance|recharge|top.?up|overdue|good standing|spending|quota)\b"
_PASSING = (
    r"per.?(?:second|minute|hour|day)\b|\b[rt]p[msd]\b|(?:retry|try again) (?:in|after|later)|rate.?limit|throttl"
    r"|too many requests|concurren|(?:requests|tokens).per"
)
_KEY = (
    r"\b(?:invalid|incorrect|expired|missing|wrong|no)\b.{0,12}api.?key"
    r"|api.?key.{0,20}(?:invalid|not valid|expired|missing)"
    r"|\bauthentication.?(?:error|fail)|\bunauthorized\b"
)
_PLACE = r"\b(?:country|countries|region|territory|location)\b"
_MODEL = (
    r"model.?not.?found|invalid.?model\b|(?:unknown|no such|unsupported) model|access to (?:the |this )?model"
    r"|decommissioned|\bmodel\b.{0,80}\b(?:not (?:exist|found|available|allowed)|does not exist|no longer|deprecated)"
)
_CONTENT = (
    r"content.?filter|content.{0,12}polic|invalid.?prompt|data.?inspection|inappropriate|moderation|flagged|usage polic"
    r"|safety (?:system|reasons)|sensitive content"
)
# A path that the server does not know: the words are of it alone, or of the address.
_NO_PATH = (
    r"\A *(?:a web page|(?:404 )?(?:page )?not found\W*\Z|cannot )"
    r"|no.?route|(?:invalid|unknown|unrecognized).{0,9} (?:url|path)"
)
_LENGTH = r"context.?length.?exceeded|exceed.?context.?size|string.?above.?max.?length"
_KEY_HELPS, _CREDIT_HELPS = "set an OPENAI_API_KEY that it accepts", "add credit there, or ask another server"
_ADDRESS_HELPS, _MODEL_HELPS = "mend {0}.base_url", "choose a {0}.model that it lists for this key"
_GATEWAY_HELPS = "have the gateway before it let you through, or " + _ADDRESS_HELPS
_PLACE_HELPS = "ask from a place that it serves, or another server ({0}.base_url)"
# What a reply is that has neither an answer nor words: how it begins, what it is, what helps.
_BROKEN = [
    (r"\Z", "the body is empty", ""),
    (r"<", "the body is {1}", _ADDRESS_HELPS),
    (r"data:|event:|:", "the body is a stream of events, which was not asked for", _ADDRESS_HELPS),
    (r"[{\[]|\S+\Z", "the body is no chat completion: {1}", _ADDRESS_HELPS),
    (r"", "the body is no chat completion: {1}", "mend what it says, or " + _ADDRESS_HELPS),
]
# Status, words (code and message), words that it must not have, what it means, what helps ({0} is the section of the
# config, {1} the setting that the server names).
_ROWS = [
    (r"413", r"", r"", Means.TOO_LONG, ""),
    (r"[24]..", _LENGTH, r"", Means.TOO_LONG, ""),
    (r"2..|400|403|422|451", _CONTENT, r"", Means.CONTENT, ""),
    (r"2..", r"rate.?limit|too.?many.?requests|throttl", r"", Means.LATER, ""),
    (r"...", r"\binsufficient_quota\b", r"", Means.END, _CREDIT_HELPS),
    (r"[245]..", _NO_CREDIT, _PASSING, Means.END, _CREDIT_HELPS),
    (r"401|403|412|429", _MONEY, _PASSING, Means.END, _CREDIT_HELPS),
    (r"402", r"", r"", Means.END, _CREDIT_HELPS),
    (r"401|407", r"", r"", Means.END, _KEY_HELPS),
    (r"403", _PLACE, r"", Means.END, _PLACE_HELPS),
    (r"451", r"", r"", Means.END, _PLACE_HELPS),
    (r"2..|400|403|404|410|422", _MODEL, r"", Means.END, _MODEL_HELPS),
    (r"2..|400|403|422|498", _KEY, r"", Means.END, _KEY_HELPS),
    (r"403", r"a web page|error code: 1\d\d\d", r"", Means.END, _GATEWAY_HELPS),
    (r"403", r"", r"", Means.END, "set an OPENAI_API_KEY that may use {0}.model"),
    (r"404", _NO_PATH, r"", Means.END, _ADDRESS_HELPS),
    (r"404|410", r"", r"", Means.END, f"{_MODEL_HELPS}, or {_ADDRESS_HELPS}"),
    (r"429|498", r"", r"", Means.LATER, ""),
    (r"501|505", r"", r"", Means.END, _ADDRESS_HELPS),
    (r"408|409|423|424|425|499|[5-9]..", r"", r"", Means.AGAIN, ""),
    (r"400|422", r"\A\s*\Z", r"", Means.PROMPT, _ADDRESS_HELPS),
    (r"400|422", r"", r"", Means.PROMPT, "mend what it says, or change {0}.{1}"),
    (r"2..", r"", r"", Means.AGAIN, "mend what it says"),
    (r"...", r"", r"", Means.END, _ADDRESS_HELPS),
]


@dataclass(frozen=True)
class Words:
    """What a body says that is no answer."""

    said: str  # the message, for people; empty when there is none
    codes: str = ""  # codes, types and names of statuses
    status: int | None = None  # that the body names
    param: str = ""  # what is refused, as it was sent
    error: bool = False  # JSON with a message, which also under 200 is no answer


def meaning(status: int, words: Words, passes: bool) -> tuple[Means, str]:
    """What a refusal means, and what helps, with the marks of `_ROWS`; `passes` when the server tells how soon."""
    text = f"{words.codes} {words.said}{' (try again later)' if passes else ''}"
    return next(
        (means, helps)
        for statuses, wanted, unwanted, means, helps in _ROWS
        if re.fullmatch(statuses, str(status))
        and re.search(wanted, text, re.IGNORECASE)
        and not (unwanted and re.search(unwanted, text, re.IGNORECASE))
    )


def broken(text: str) -> tuple[str, str]:
    """What the body of a reply is that is neither an answer nor an error in words, and what helps."""
    text = text.strip()
    if text[:1] in ("{", "[") and decoded(text) is None:
        return "the body breaks off, or is no JSON", ""
    said, helps = next((said, helps) for begins, said, helps in _BROKEN if re.match(begins, text))
    return said.replace("{1}", _page(text)), helps


def parameter(words: Words, sent: Sequence[str], section: str, limit: int) -> str | None:
    """What helps when it is a parameter that is refused, of those that were sent; None when it is something else."""
    named = (name for name in sent if re.search(rf"\b{name}\b", words.said))  # a server that names it in words alone
    refused = words.param if words.param in PARAMETERS else next(named, None)
    if refused is None:
        return None
    # Its own limit is to stay, whatever it is called.
    others = [name for name in sent if name not in (refused, "max_completion_tokens")]
    first, *further = (PARAMETERS[name].format(section, limit) for name in (refused, *others))
    more = f" (as models that do refuse others too, you may have to {' and '.join(further)})"
    return f"{first}{more if further else ''}"


def elsewhere(server: str, section: str, location: str) -> str:
    """What helps when a server is at another address, which it names."""
    try:
        url = urljoin(f"{server}chat/completions", location)
    except ValueError:
        url = ""
    ends = "chat/completions|(?<!chat/)completions|models"
    shown = re.fullmatch(rf"(https?://[\w.:-]+(?:/[\w./-]*)?)/(?:{ends})/?", url[:300])
    if not shown or shown[1] == server.rstrip("/"):
        return f"mend {section}.base_url"
    return f"set {section}.base_url={shown[1]}, if you trust that address"


def decoded(text: str) -> Any:
    """The JSON value of a body; None when it is none. A stream of events, which nobody asked for, is its first one."""
    if text.startswith(("data:", "event:", ":")):
        text = next((line[5:] for line in text.split("\n") if line.startswith("data:")), "")
    try:
        return _JSON.decode(text.strip())
    except (ValueError, RecursionError):
        return None


def read(text: str) -> Words:
    """What a body says in place of an answer: JSON in whichever shape, a web page, or a text."""
    body = decoded(text)
    while isinstance(body, list) and body:
        body = body[0]
    return read_json(body) if isinstance(body, dict) else Words(_page(text)[:_MOST_READ])


def read_json(body: dict[str, Any]) -> Words:
    """What such an object says."""
    places = (body.get(name) for name in ("error", "detail", "errors"))  # one object, several, or something else
    within = [part for value in places for part in (value if isinstance(value, list) else [value])[:5]]
    parts = [part for part in (body, *within) if isinstance(part, dict)]
    codes = [str(part[name])[:100] for part in reversed(parts) for name in _CODES if part.get(name) is not None]
    number = next((code for code in codes if re.fullmatch(r"[45]\d\d(?:\d\d)?", code)), None)  # FastChat's have five
    named = (status for code in codes for words, status in _NAMED.items() if re.search(words, code, re.IGNORECASE))
    param, said = next((str(part["param"]) for part in parts if part.get("param")), ""), _message(body, 5)[:_MOST_READ]
    return Words(said, " ".join(codes), int(number[:3]) if number else next(named, None), param, bool(said))


def _message(value: Any, depth: int) -> str:
    """The words of an error's JSON: "temperature: not allowed" of a list of details."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth:
        return "; ".join(filter(None, (_message(each, depth - 1) for each in value[:5])))
    if not isinstance(value, dict) or not depth:
        return ""
    said = next(filter(None, (_message(value.get(name), depth - 1) for name in _MESSAGES)), "")
    place = value.get("loc")
    return f"{'.'.join(map(str, place[:5]))}: {said}" if said and isinstance(place, list) else said


def _page(text: str) -> str:
    """The words of a text; of a web page its title, or what it shows."""
    if not re.match(r"\s*<", text):
        return text
    text = re.sub(r"(?is)<(script|style)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)", " ", text[:20_000])
    title = re.search(r"(?is)<title[^<>]*>\s*([^<\s][^<]*)", text)
    return f"a web page: {html.unescape(title[1] if title else re.sub(r'<[^<>]*>?', ' ', text))}"


def other_model(answers: str, asked: str | None, section: str) -> str | None:
    """That another model answers than was asked, with the remedy; of a dated name the beginning is enough."""
    asked = without_paths(str(asked))[:100]
    if answers.startswith(asked):
        return None
    return f"answers as {answers} where {asked} is asked: set {section}.model to that, or mend {section}.base_url"


def line(text: str, key: str | None = None) -> str:
    """A server's words for people: on one line, without the key, paths and what a terminal would obey."""
    text = text[:_MOST_READ].replace(key, "***") if key else text[:_MOST_READ]
    return "".join(filter(str.isprintable, without_paths(" ".join(text.split()))))[:_MOST_WORDS]
