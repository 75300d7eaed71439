"""Replies of any size, packing, pace and shape cost little memory and no silence: one failed attempt each, said why."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from asked import api_for, asked, check_model
from raw_server import JSON, MEGABYTE, RawServer, Writes, bomb, completion, drip, endless, head, packed, reply

from lema.types import UserError

CHUNKED = head(200, JSON | {"Transfer-Encoding": "chunked"})
OPEN = head()[:-2]  # more headers may follow
GOOD = reply(completion())


@pytest.mark.parametrize("chunked", [False, True])
def test_a_reply_is_read_as_far_as_its_tokens_can_reach_and_no_further(chunked: bool, journal: Path) -> None:
    message = r"keeps failing \(reply too large: it has more than 97,536 bytes, for 500 tokens each\): mend"
    with RawServer(bomb(64, chunked=chunked)) as server:
        with pytest.raises(UserError, match=message):
            asked(3, api_for(server.url, max_retries=1), journal)
        assert len(server.requests) == 2
        assert not server.whole


def test_one_reply_that_is_too_large_is_tried_again_and_counts_at_its_worst_case(journal: Path) -> None:
    with RawServer(GOOD, bomb(1), GOOD) as server:
        answers, spending = asked(4, api_for(server.url, max_concurrent_requests=1), journal)
        assert all(answer.usable for answer in answers)
        assert len(server.requests) == 5
    assert 0.005 < spending.usd < 0.006  # 500 tokens at $10, and little besides


def test_a_reply_that_stays_too_large_is_one_failed_request_with_its_reason(journal: Path) -> None:
    with RawServer(*[GOOD] * 11, bomb(1)) as server:
        answers, _ = asked(12, api_for(server.url, max_retries=1, max_concurrent_requests=1), journal)
    *right, wrong = sorted(answers, key=lambda answer: answer.failed)  # a lost connection changes who asks last
    assert [answer.finish_reason for answer in [*right, wrong]] == ["stop"] * 11 + ["reply too large"]
    assert wrong.failed
    assert wrong.error == "reply too large: it has more than 97,536 bytes, for 500 tokens each"


@pytest.mark.parametrize("status", [400, 401, 500])
def test_of_a_refusal_the_beginning_is_read(status: int, journal: Path) -> None:
    with RawServer(bomb(64, status, start=b"The moon is full. ")) as server:
        with pytest.raises(UserError, match=rf"\(HTTP {status}: The moon is full\. x+\): ") as raised:
            asked(3, api_for(server.url, max_retries=0), journal)
        assert not server.whole
    assert len(str(raised.value)) < 700


def test_an_answer_may_have_all_its_tokens_in_the_longest_words_twice(journal: Path) -> None:
    text = "数学" * 1500  # 500 tokens of three characters each, of six bytes in JSON
    message = {"content": text, "reasoning_content": text, "reasoning": text}
    with RawServer(reply(completion(choices=[{"message": message, "finish_reason": "stop"}])), keep=True) as server:
        answers, _ = asked(2, api_for(server.url), journal)
    assert [answer.text for answer in answers] == [text] * 2


def test_a_text_beyond_all_tokens_is_one_that_was_cut(journal: Path) -> None:
    with RawServer(reply(completion("x" * 50_000)), keep=True) as server:
        answers, _ = asked(2, api_for(server.url), journal)
    assert {(answer.text, answer.finish_reason) for answer in answers} == {("x" * 9000, "length")}


def ended(reason: str, content: object = "Hello.", **changes: object) -> Writes:
    return reply(completion(choices=[{"message": {"content": content}, "finish_reason": reason, **changes}]))


@pytest.mark.parametrize(
    ("reason", "ours"),
    [("MAX_TOKENS", "length"), ("model_length", "length"), ("SAFETY", "content_filter"), ("spii", "content_filter")],
)
def test_what_others_call_the_end_of_an_answer_is_told_in_one_way(reason: str, ours: str, journal: Path) -> None:
    with RawServer(ended(reason), keep=True) as server:
        answers, _ = asked(2, api_for(server.url), journal)
    assert [(answer.finish_reason, answer.cut) for answer in answers] == [(ours, True)] * 2


@pytest.mark.parametrize(
    "broken",
    [
        *(ended(reason) for reason in ("abort", "error", "insufficient_system_resource")),
        ended("stop", error={"code": 502, "message": "The provider went away"}),
    ],
)
def test_an_answer_that_is_broken_off_is_asked_again(broken: Writes, journal: Path) -> None:
    with RawServer(GOOD, broken, GOOD) as server:
        answers, spending = asked(3, api_for(server.url, max_concurrent_requests=1), journal)
        assert len(server.requests) == 4
    assert all(answer.usable for answer in answers)
    assert spending.prompt_tokens == 4 * 20, "it is paid for"


def test_one_that_is_broken_off_again_and_again_is_a_failed_request(journal: Path) -> None:
    with RawServer(*[GOOD] * 11, ended("abort"), keep=True) as server:
        answers, _ = asked(12, api_for(server.url, max_retries=1, max_concurrent_requests=1), journal)
    assert (answers[-1].finish_reason, answers[-1].error) == ("broken off", "broken off: abort")
    assert answers[-1].failed


def test_of_an_answer_in_parts_the_texts_are_kept(journal: Path) -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]
    parts += [{"type": "text", "text": "It is "}, {"type": "text", "text": "8."}]
    with RawServer(ended("stop", parts), keep=True) as server:
        answers, _ = asked(2, api_for(server.url), journal)
    assert [answer.text for answer in answers] == ["It is 8."] * 2


def test_the_first_answers_without_a_text_end_the_run_before_all_is_paid(journal: Path) -> None:
    message = {"content": None, "reasoning_content": "Let me see."}
    silent = reply(completion(choices=[{"message": message, "finish_reason": "stop"}]))
    why = r"the first 20 answers have no text \(stop: it reasoned, and wrote no answer\): try corrector\.model with one"
    with RawServer(silent, keep=True) as server:
        with pytest.raises(UserError, match=why):
            asked(60, api_for(server.url), journal)
        assert 20 <= len(server.requests) < 40
    with RawServer(silent, silent, GOOD, keep=True) as server:
        answers, _ = asked(60, api_for(server.url, max_concurrent_requests=1), journal.with_name("other.sqlite"))
    assert len(answers) == 60


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "X-GZIP" * 9])
def test_what_is_packed_stays_packed(encoding: str, journal: Path) -> None:
    body = zlib.compress(completion().encode(), wbits=31)
    for status, words in ((200, "the body is packed"), (500, "HTTP 500: its words are packed")):
        message = rf"keeps failing \((malformed body: )?{words} \({encoding[:20]}"
        with (
            RawServer(reply(body, status, Content_Encoding=encoding)) as server,
            pytest.raises(UserError, match=message) as raised,
        ):
            asked(3, api_for(server.url, max_retries=0), journal)
        assert status == 500 or "switch that off at the server, or mend corrector.base_url" in str(raised.value)


@pytest.mark.parametrize("named", ["", "identity", "Identity", "utf-8", "UTF-8", "none", "binary"])
def test_what_only_names_an_encoding_is_no_packing(named: str, journal: Path) -> None:
    with RawServer(reply(completion("Größe"), Content_Encoding=named), keep=True) as server:
        answers, _ = asked(2, api_for(server.url), journal)
    assert [answer.text for answer in answers] == ["Größe"] * 2


@pytest.mark.parametrize("status", [200, 500])
def test_a_charset_is_no_way_to_pack_either(status: int, journal: Path) -> None:
    body = zlib.compress(b"x" * MEGABYTE)
    with (
        RawServer(reply(body, status, Content_Type="application/json; charset=zlib")) as server,
        pytest.raises(UserError, match="keeps failing"),
    ):
        asked(3, api_for(server.url, max_retries=0), journal)
    with RawServer(reply("\ufeff" + completion("Größe"), Content_Type="application/json; charset=utf-16")) as server:
        answers, _ = asked(3, api_for(server.url, max_concurrent_requests=1), journal)
    assert answers[0].text == "Größe"


@pytest.mark.parametrize(
    ("writes", "words"),
    [
        (reply(completion(), length=5000), "the reply breaks off, or is no HTTP: Not enough data"),
        (reply(completion(), length=50), "the reply breaks off, or is no HTTP: "),
        (reply(completion(), length=-5), "the reply breaks off, or is no HTTP: Invalid character in Content-Length"),
        (
            endless(b"x" * 65536, CHUNKED + b"fffffffffffffffffff\r\n"),
            "the reply breaks off, or is no HTTP: Chunk size",
        ),
        (endless(b"X-A: b\r\n" * 1000, OPEN), "the reply breaks off, or is no HTTP: Too many headers"),
        (endless(b"x" * 65536, OPEN + b"X-A: "), "the reply breaks off, or is no HTTP: Got more than"),
        (endless(b"X-A: b\r\n" * 1000, CHUNKED + b"1\r\nx\r\n0\r\n"), "the reply breaks off, or is no HTTP: Too many"),
        (endless(b"x" * 65536, b""), "the reply breaks off, or is no HTTP: Bad status line"),
        (drip(), "no answer within 0.5 s"),
        (drip(told=head(500, JSON | {"Content-Length": "1000000"})), "no answer within 0.5 s"),
        (drip(b"X-A: b\r\n", 0.05, OPEN), "no answer within 0.5 s"),
        (endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 10, b""), "no answer within 0.5 s"),
    ],
)
def test_no_reply_is_one_line(writes: Writes, words: str, journal: Path) -> None:
    with RawServer(writes) as server, pytest.raises(UserError, match=rf"keeps failing \({words}") as raised:
        asked(3, api_for(server.url, max_retries=0, request_timeout=0.5), journal)
    assert len(server.requests) == 2
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("writes", [bomb(64), packed(16, "gzip"), bomb(64, 500), packed(16, "gzip", 400)])
def test_a_list_of_models_that_cannot_be_read_says_nothing(writes: Writes) -> None:
    with RawServer(writes) as server:
        assert check_model(api_for(server.url), "corrector", 100) is None


@pytest.mark.slow
def test_a_list_of_models_is_waited_for_as_a_whole() -> None:
    with RawServer(drip()) as server:
        line = check_model(api_for(server.url), "corrector", 100)
    assert line
    assert line.endswith("/v1/: no list of models within 10 s: check it, or corrector.base_url")


CLIENT = """
import json, sys
from pathlib import Path
from asking_load import megabytes
from asked import api_for, asked, check_model
from lema.api.client import Client
from lema.types import UserError
url, width, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
before, said = megabytes(), ""
changes = {"max_concurrent_requests": width, "max_completion_tokens": limit, "max_retries": 1, "request_timeout": 2.0}
try:
    if width:
        asked(100, api_for(url, **changes), Path(sys.argv[4]), budget=1e9)
    else:
        said = check_model(api_for(url), "corrector", 100)
except UserError as error:
    said = str(error)
print(json.dumps([megabytes() - before, said]))
"""


def large() -> str:
    """What a limit of 131,072 tokens allows."""
    message = {"content": "Hi", "reasoning": "x" * 8_000_000}
    return completion(choices=[{"message": message, "finish_reason": "stop"}])


HOSTILE = {
    "600 MB": lambda: bomb(600),
    "600 MB in chunks": lambda: bomb(600, chunked=True),
    "a refusal of 600 MB": lambda: bomb(600, 400, start=b'{"error": {"message": "'),
    "an error of 600 MB": lambda: bomb(600, 500),
    "a gzip bomb": lambda: packed(600, "gzip"),
    "a bomb in a bomb": lambda: packed(600, "gzip, gzip"),
    "deflate": lambda: packed(600, "deflate"),
    "a refusal that is a gzip bomb": lambda: packed(600, "gzip", 400),
    "a bomb by its charset": lambda: packed(
        600, "deflate", Content_Encoding="identity", Content_Type="text/plain; charset=zlib"
    ),
    "drip": lambda: drip(),
    "drip of a refusal": lambda: drip(told=head(400, JSON | {"Content-Length": "1000000"})),
    "drip of headers": lambda: drip(b"X-A: b\r\n", 0.2, OPEN),
    "shorter": lambda: reply(completion(), length=5000),
    "longer": lambda: reply(completion(), length=50),
    "chunks without end": lambda: endless(b"400\r\n" + b"x" * 1024 + b"\r\n", CHUNKED),
    "one chunk without end": lambda: endless(b"x" * 65536, CHUNKED + b"7fffffffffffffff\r\n"),
    "a chunk's extension without end": lambda: endless(b"x" * 65536, CHUNKED + b"1;a="),
    "headers without end": lambda: endless(b"X-A: " + b"b" * 1000 + b"\r\n", OPEN),
    "a header without end": lambda: endless(b"b" * 65536, OPEN + b"X-A: "),
    "trailers without end": lambda: endless(b"X-A: " + b"b" * 1000 + b"\r\n", CHUNKED + b"1\r\nx\r\n0\r\n"),
    "continued without end": lambda: endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, b""),
    "many as large as allowed": lambda: reply(large()),
}


SLOW = ("600 MB", "a bomb in a bomb")  # the rest takes minutes


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else pytest.mark.full) for name in HOSTILE]
)
def test_hostile_replies_take_less_than_300_mb(name: str, tmp_path: Path) -> None:
    writes, limit = HOSTILE[name](), 131_072 if name == "many as large as allowed" else 500
    for width in (64, 0):  # 0: the list of models
        with RawServer(*[GOOD] * (width > 0), writes) as server:
            arguments = [server.url, width, limit, tmp_path / "journal.sqlite"]
            command = [sys.executable, "-c", CLIENT, *map(str, arguments)]
            run = subprocess.run(command, capture_output=True, text=True, timeout=100, env=os.environ)
        assert run.returncode == 0, run.stderr
        more, said = json.loads(run.stdout)
        print(f"{name}, {width} wide: {more:.0f} MB more: {said}")
        assert more < 300
        assert said is None or "\n" not in said
