"""What a server says in place of an answer is shown in its words, with one remedy that fits."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from asked import KEY, api_for, asked, number_of
from openai_server import OpenAIServer
from raw_server import RawServer, completion, reply

from lema.api.client import Client, Landed, check_model
from lema.api.journal import export
from lema.types import UserError

LATER, AGAIN, PROMPT, TOO_LONG, CONTENT, END = (
    "later",
    "again",
    "prompt",
    "prompt too long",
    "refused by the server",
    "end",
)
CREDIT, KEYS, MODEL, ADDRESS = (
    "add credit",
    "set an OPENAI_API_KEY",
    r"choose a corrector\.model",
    r"mend corrector\.base_url",
)
PLACE, SAYS = "from a place that it serves", "mend what it says"


def said(message: object, code: object = None, **more: object) -> str:
    return json.dumps({"error": {"message": message, "code": code, **more}})


def page(title: str) -> str:
    style = "<style>body {color: red}</style><script>if (1 < 2) {}</script><!-- <title>no</title> -->"
    return f"<!DOCTYPE html>\n<html><head><title>{title}</title>{style}</head><body><h1>{title}</h1><hr>nginx</body>"


def broken(code: object, message: str, content: str | None = "") -> str:
    choice = {"finish_reason": "error", "error": {"code": code, "message": message}, "message": {"content": content}}
    return completion(choices=[choice])


# Status, body, what is made of it, the words that are shown, the remedy.
TABLE = [
    # An error under 200 is what it says it is.
    (200, '{"error": "It is broken"}', AGAIN, "HTTP 200: It is broken", SAYS),
    (200, said("It is broken", None), AGAIN, "HTTP 200: It is broken", SAYS),
    (200, said("No", "strange"), AGAIN, "HTTP 200: No", SAYS),
    (200, '{"detail": "It is broken"}', AGAIN, "HTTP 200: It is broken", SAYS),
    (200, '{"message": "It is broken"}', AGAIN, "HTTP 200: It is broken", SAYS),
    (200, '{"error": true, "message": "It is broken"}', AGAIN, "HTTP 200: It is broken", SAYS),
    (200, '{"success": false, "errors": [{"code": 7003, "message": "No route"}]}', AGAIN, "HTTP 200: No route", SAYS),
    (200, said("Slow", 429), LATER, "HTTP 200, error 429: Slow", ""),
    (200, said("Slow", "429"), LATER, "HTTP 200, error 429: Slow", ""),
    (200, said("Slow", None, type="rate_limit_error"), LATER, "HTTP 200, error 429: Slow", ""),
    (200, said("Slow", "rate_limit_exceeded"), LATER, "HTTP 200, error 429: Slow", ""),
    (200, said("Rate limit reached"), LATER, "HTTP 200: Rate limit reached", None),
    (200, f"[{said('Slow', 429, status='RESOURCE_EXHAUSTED')}]", LATER, "HTTP 200, error 429: Slow", ""),
    (200, '{"object": "error", "message": "Slow", "code": 42901}', LATER, "HTTP 200, error 429: Slow", ""),
    (200, said("Upstream died", 502), AGAIN, "HTTP 200, error 502: Upstream died", ""),
    (200, said("Busy", None, type="overloaded_error"), AGAIN, "HTTP 200, error 503: Busy", ""),
    (200, said("Insufficient credits", 402), END, "HTTP 200, error 402: Insufficient credits", CREDIT),
    (200, '{"error": "insufficient credits"}', END, "HTTP 200: insufficient credits", CREDIT),
    (200, said("You exceeded", "insufficient_quota"), END, "You exceeded", CREDIT),
    (200, said("No auth credentials found", 401), END, "No auth credentials found", KEYS),
    (200, said("x is none", "model_not_found"), END, "x is none", MODEL),
    (
        200,
        '{"object": "error", "message": "This model\'s maximum context length is 1024 tokens. However, your prompt'
        ' contains 2000 tokens.", "type": "BadRequestError", "code": 400}',
        TOO_LONG,
        "HTTP 200, error 400: This model's maximum context",
        "",
    ),
    (200, broken(429, "Slow upstream"), LATER, "HTTP 200, error 429: Slow upstream", ""),
    (200, broken(502, "Dead upstream", None), AGAIN, "HTTP 200, error 502: Dead upstream", ""),
    (200, 'data: {"error": {"message": "Slow", "code": 429}}\n\n', LATER, "HTTP 200, error 429: Slow", ""),
    (200, 'event: error\ndata: {"error": {"message": "x", "type": "overloaded_error"}}\n\n', AGAIN, "error 503: x", ""),
    # A reply that is none.
    (200, "", AGAIN, "the body is empty", ""),
    (204, "", AGAIN, "the body is empty", ""),
    (200, completion()[:60], AGAIN, "the body breaks off, or is no JSON", ""),
    (200, "[" * 90_000, AGAIN, "the body breaks off, or is no JSON", ""),
    (200, '{"a":' * 9_000 + "1" + "}" * 9_000, AGAIN, "the body breaks off, or is no JSON", ""),
    (200, page("Welcome to nginx!"), AGAIN, r"^the body is a web page: Welcome to nginx!$", ADDRESS),
    (200, "<html>\n<body>Hello &amp; welcome", AGAIN, r"^the body is a web page: Hello & welcome$", ADDRESS),
    (200, "Ollama is running", AGAIN, "the body is no chat completion: Ollama is running", ADDRESS),
    (200, 'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\n', AGAIN, "is a stream of events", ADDRESS),
    (200, '{"message": {"role": "assistant", "content": "Hi"}}', AGAIN, "no chat completion: {", ADDRESS),
    (200, completion(choices=[]), AGAIN, "no chat completion: {", ADDRESS),
    (200, completion(choices=[{"message": "Hi"}]), AGAIN, "no chat completion: {", ADDRESS),
    *[(200, body, AGAIN, "no chat completion: ", ADDRESS) for body in ("[]", "[1]", "{}", "3", "null", "true", '"x"')],
    # Credit, in whichever status.
    (400, said("Your credit balance is too low to access the API. Go to Plans & Billing."), END, "too low", CREDIT),
    (400, said("Please make sure your account is in good standing.", "Arrearage"), END, "good standing", CREDIT),
    (401, said("You exceeded your current quota, please check your plan"), END, "current quota", CREDIT),
    (402, said("Insufficient Balance", "invalid_request_error"), END, "HTTP 402: Insufficient Balance", CREDIT),
    (402, said("This requires more credits, or fewer max_tokens. You can only afford 134."), END, "afford", CREDIT),
    (402, "Payment Required", END, "HTTP 402: Payment Required", CREDIT),
    (402, page("Payment Required"), END, "HTTP 402: a web page: Payment Required", CREDIT),
    (403, said("user quota is not enough", "insufficient_user_quota"), END, "not enough", CREDIT),
    (403, '{"error": "Your team has used all available credits or reached its spending limit"}', END, "team", CREDIT),
    (429, said("You exceeded", "insufficient_quota"), END, "You exceeded", CREDIT),
    (429, said("You exceeded", None, type="insufficient_quota"), END, "You exceeded", CREDIT),
    (429, said("None left", "InsufficientQuota"), END, "None left", CREDIT),
    (429, said("Insufficient-Quota"), END, "Insufficient-Quota", CREDIT),
    (429, '{"error": "insufficient quota"}', END, "insufficient quota", CREDIT),
    (429, '{"message": "Monthly quota exceeded"}', END, "Monthly", CREDIT),
    (429, said("Your account is suspended", None, type="exceeded_current_quota_error"), END, "suspended", CREDIT),
    (429, said("Your account is not active, please check your billing details"), END, "not active", CREDIT),
    (429, said("Billing hard limit has been reached", "billing_hard_limit_reached"), END, "hard limit", CREDIT),
    (429, said("余额不足或无可用资源包", "1113"), END, "余额不足", CREDIT),
    (500, said("You exceeded your current quota", "insufficient_quota"), END, "quota", CREDIT),
    (500, '{"error": "quota exceeded"}', END, "quota exceeded", CREDIT),
    (500, '{"error": "the billing service does not answer"}', AGAIN, "billing service", ""),
    (400, said("Cannot parse: his balance is $3, and the billing of his credit"), PROMPT, "Cannot parse", SAYS),
    # Too many requests, which pass though they speak of a quota.
    (429, said("Quota exceeded for requests per minute. Check your plan and billing. Retry in 48s"), LATER, "48s", ""),
    (429, said("Quota exceeded for online_prediction_requests_per_base_model. Submit a quota increase"), LATER, "", ""),
    (429, said("You are over the token rate limit of your tier. Retry after 6 seconds. Quota: x"), LATER, "6 s", ""),
    (429, "", LATER, "HTTP 429 without a word", ""),
    (498, said("Flex tier capacity exceeded"), LATER, "HTTP 498: Flex", ""),
    # Keys and places.
    (400, said("Incorrect API key provided: KEY"), END, r"provided: \*\*\*", KEYS),
    (400, said("API key not valid. Please pass a valid API key.", 400, status="INVALID_ARGUMENT"), END, "valid", KEYS),
    (401, '{"detail": "Unauthorized"}', END, "HTTP 401: Unauthorized", KEYS),
    (401, page("401 Authorization Required"), END, "a web page: 401 Authorization Required", KEYS),
    (401, "", END, "HTTP 401 without a word", KEYS),
    (407, page("Proxy"), END, "HTTP 407", KEYS),
    (403, said("You have insufficient permissions for this operation."), END, "permissions", KEYS),
    (403, said("Country, region, or territory not supported", "unsupported_country"), END, "Country", PLACE),
    (403, said("User location is not supported for the API use."), END, "location", PLACE),
    (451, "Unavailable For Legal Reasons", END, "HTTP 451: Unavailable", PLACE),
    (
        403,
        page("Attention Required! | Cloudflare"),
        END,
        "a web page: Attention Required!",
        f"let you through.*{ADDRESS}",
    ),
    (403, "error code: 1010", END, "error code: 1010", "let you through"),
    # The content of one prompt.
    (403, said("Your input was flagged", 403, metadata={"reasons": ["violence"]}), CONTENT, "HTTP 403: Your input", ""),
    (400, said("Filtered due to the content management policy", "content_filter"), CONTENT, "HTTP 400: Filtered", ""),
    (400, said("Input data may contain inappropriate content", "data_inspection_failed"), CONTENT, "Input data", ""),
    (413, page("413 Request Entity Too Large"), TOO_LONG, r"^HTTP 413: a web page: 413 Request Entity Too Large$", ""),
    # Models and paths.
    (400, said("Model Not Exist"), END, "Model Not Exist", MODEL),
    (403, said("Project `p` does not have access to model `m`", "model_not_found"), END, "Project", MODEL),
    (404, said("The model `m` does not exist or you do not have access to it.", "model_not_found"), END, "`m`", MODEL),
    (404, said("No endpoints found for m.", 404), END, "No endpoints", f"{MODEL}.*{ADDRESS}"),
    (404, page("404 Not Found"), END, "a web page: 404 Not Found", f"^{ADDRESS}$"),
    (404, '{"detail": "Not Found"}', END, "HTTP 404: Not Found", f"^{ADDRESS}$"),
    (404, "404 page not found", END, "404 page not found", f"^{ADDRESS}$"),
    (404, said("Invalid URL (POST /v1/v1/chat/completions)"), END, "Invalid URL", f"^{ADDRESS}$"),
    (405, '{"detail": "Method Not Allowed"}', END, "HTTP 405: Method Not Allowed", f"^{ADDRESS}$"),
    (406, "", END, "HTTP 406 without a word", f"^{ADDRESS}$"),
    (410, '{"error": "gone"}', END, "HTTP 410: gone", f"{MODEL}.*{ADDRESS}"),
    (415, '{"detail": "Unsupported media type"}', END, "HTTP 415: Unsupported", f"^{ADDRESS}$"),
    (501, '{"error": "not implemented"}', END, "HTTP 501: not implemented", f"^{ADDRESS}$"),
    (304, "", END, "HTTP 304 to another address", f"^{ADDRESS}$"),
    # What one prompt or a parameter is refused for.
    (400, "", PROMPT, "HTTP 400 without a word", ADDRESS),
    (
        400,
        page("400 Bad Request"),
        PROMPT,
        "a web page: 400 Bad Request",
        r"mend what it says, or change corrector\.base_url",
    ),
    (422, '{"detail": [{"loc": ["body", "prompt"], "msg": "Field required"}]}', PROMPT, "body.prompt: Field", SAYS),
    (
        422,
        '{"detail": [{"loc": ["body", "max_completion_tokens"], "msg": "Not permitted"}]}',
        END,
        "Not",
        "max_tokens=500",
    ),
    (400, said("No such thing", None, param="model"), PROMPT, "No such thing", r"or change corrector\.model"),
    (400, said("No such thing", None, param="__class__"), PROMPT, "No such thing", r"or change corrector\.base_url"),
    # What may pass.
    (408, "", AGAIN, "HTTP 408", ""),
    (409, said("Conflict"), AGAIN, "HTTP 409: Conflict", ""),
    (424, '{"error": "Request failed during generation", "error_type": "generation"}', AGAIN, "HTTP 424: Request", ""),
    (425, "", AGAIN, "HTTP 425", ""),
    (499, "client closed request", AGAIN, "HTTP 499: client", ""),
    (500, "", AGAIN, "HTTP 500 without a word", ""),
    (500, said({"deep": {"message": "x"}}), AGAIN, "HTTP 500", ""),
    *[
        (status, page(f"{status} No"), AGAIN, rf"^HTTP {status}: a web page: {status} No$", "")
        for status in (502, 503, 504)
    ],
    *[(status, f"error code: {status}", AGAIN, f"HTTP {status}: error", "") for status in (520, 521, 522, 523, 524)],
    (529, '{"type": "error", "error": {"type": "overloaded_error", "message": "Busy"}}', AGAIN, "HTTP 529: Busy", ""),
    (999, "x", AGAIN, "HTTP 999: x", ""),
]


def landed(status: int, body: str, **headers: str) -> tuple[Landed, RawServer]:
    with RawServer(reply(body.replace("KEY", KEY), status, None, **headers)) as server:
        client = Client(api_for(server.url), "corrector")

        async def once() -> Landed:
            async with client.openai:
                return await client.send('{"model": "gpt-test", "messages": []}')

        return asyncio.run(once()), server


def kind(found: Landed) -> str:
    if found.answer:
        return found.answer.finish_reason
    kinds = {LATER: found.limited, PROMPT: found.final, END: found.hopeless}
    return " ".join(name for name, so in kinds.items() if so) or AGAIN


@pytest.mark.parametrize(("status", "body", "made", "words", "remedy"), TABLE)
def test_the_words_of_a_server_are_shown_with_one_remedy_that_fits(
    status: int, body: str, made: str, words: str, remedy: str | None
) -> None:
    found, server = landed(status, body)
    shown = found.answer.error if found.answer else found.said
    assert kind(found) == made, found
    assert re.search(words, shown), shown
    assert len(shown) <= 300
    assert "\n" not in shown
    assert KEY not in shown
    if remedy:
        assert re.search(remedy, found.remedy), found.remedy
    if remedy == "":
        assert not found.remedy
    assert sum(part in found.remedy for part in ("credit", "OPENAI_API_KEY", "a place", "says")) <= 1, "they contradict"
    assert len(server.requests) == 1


@pytest.mark.parametrize("told", [{}, {"Content_Encoding": "identity"}, {"Content_Encoding": ""}])
def test_no_compression_is_asked_for(told: dict[str, str]) -> None:
    found, server = landed(200, completion(), **told)
    assert found.answer
    assert found.answer.text == "Hello."
    assert b"accept-encoding: identity\r\n" in server.requests[0].lower()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "remedy"),
    [
        ("ELSEWHERE/chat/completions", r"^set corrector\.base_url=ELSEWHERE, if you trust that address$"),
        (
            "https://other.example/api/v1/chat/completions",
            r"^set corrector\.base_url=https://other\.example/api/v1, if",
        ),
        ("//other.example/v1/chat/completions/", r"^set corrector\.base_url=http://other\.example/v1, if"),
        ("/login?next=x", r"^mend corrector\.base_url$"),
        ("http://me:secret@other.example/v1/chat/completions", r"^mend corrector\.base_url$"),
        ("http://[::1", r"^mend corrector\.base_url$"),
        ("", r"^mend corrector\.base_url$"),
        ("x" * 5000, r"^mend corrector\.base_url$"),
    ],
)
def test_neither_key_nor_prompt_follows_to_another_address(status: int, location: str, remedy: str) -> None:
    with RawServer(reply(completion())) as elsewhere:
        found, _ = landed(status, "", Location=location.replace("ELSEWHERE", elsewhere.url))
        assert not elsewhere.requests
        assert found.hopeless
        assert re.search(remedy.replace("ELSEWHERE", elsewhere.url), found.remedy), found.remedy
        with RawServer(reply("", 307, Location=f"{elsewhere.url}/models")) as server:
            line = check_model(api_for(server.url), "corrector", 100)
        assert line
        assert line.endswith(f"set corrector.base_url={elsewhere.url}, if you trust that address")
        assert not elsewhere.requests


def test_a_limit_that_is_told_with_a_time_to_come_back_passes() -> None:
    assert kind(landed(429, said("Please check your plan and billing"))[0]) == END
    assert kind(landed(429, said("Please check your plan and billing"), Retry_After="2")[0]) == LATER
    assert kind(landed(429, said("No", "insufficient_quota"), Retry_After="2")[0]) == END


@pytest.mark.parametrize(
    ("reason", "ended"),
    [
        ("stop", "stop"),
        (None, "None"),
        (3, "3"),
        ("x" * 900, "x" * 40),
        ("a\x1b[2J\nb", "a[2J b"),
        ({"a": 1}, "{'a': 1}"),
    ],
)
def test_the_reason_why_an_answer_ends_is_short_and_plain(reason: object, ended: str) -> None:
    found, _ = landed(200, completion(choices=[{"message": {"content": "Hi"}, "finish_reason": reason}]))
    assert found.answer
    assert found.answer.finish_reason == ended


def test_an_error_among_answers_is_kept_in_the_servers_words(journal: Path, tmp_path: Path) -> None:
    def instead(body: dict) -> tuple[int, str] | None:
        return (200, said("Upstream\n died", 502)) if number_of(body) == 3 else None

    with OpenAIServer(instead=instead) as server:
        answers, _ = asked(12, api_for(server, max_retries=1), journal)
    assert [answer.finish_reason for answer in answers] == ["stop"] * 3 + ["HTTP 502"] + ["stop"] * 8
    assert answers[3].error == "HTTP 200, error 502: Upstream died"
    export(journal, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "responses.jsonl").read_text().splitlines()]
    [error] = [row["error"] for row in rows if row["error"]]
    assert error == {"code": "HTTP 502", "message": "HTTP 200, error 502: Upstream died"}


def test_a_limit_told_under_200_is_waited_for_and_costs_nothing(journal: Path) -> None:
    limits = iter([(200, said("Slow", 429))] * 2)
    with OpenAIServer(instead=lambda body: next(limits, None)) as server:
        answers, spending = asked(3, api_for(server), journal)
    assert all(answer.usable for answer in answers)
    assert spending.usd == pytest.approx(server.usd)


def test_an_error_under_200_ends_the_run_with_its_words(journal: Path) -> None:
    with OpenAIServer(instead=lambda body: (200, said("The moon is full"))) as server:
        message = r"keeps failing \(HTTP 200: The moon is full\): mend what it says\. 0 of 5 answers are saved"
        with pytest.raises(UserError, match=message):
            asked(5, api_for(server, max_retries=1), journal)
