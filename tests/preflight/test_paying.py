"""Consent: what requests will cost is said before any is sent, with the command that goes on."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from openai_server import OpenAIServer
from small import SMALL, all_steps

from lema import pipeline
from lema.api.estimate import price
from lema.artifacts import Store
from lema.cell import Cell
from lema.config import Config
from lema.preflight import consent
from lema.types import UserError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-tests")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with OpenAIServer(model="gpt-6.2-sol") as opened:
        monkeypatch.setenv("OPENAI_BASE_URL", opened.url)
        yield opened


@pytest.fixture
def missing(make_config: Callable[..., Config], tmp_path: Path) -> Callable[..., list[str]]:
    def lines(*overrides: str) -> list[str]:
        cell = Cell(make_config(*overrides), Store(tmp_path))
        asked = [requests for step in all_steps(cell) for requests in step.requests(cell)]
        return list(consent.missing(cell.config, asked, list(overrides)))

    return lines


def test_a_real_cell_ends_with_its_estimate_and_the_command_that_goes_on(missing, server: OpenAIServer) -> None:
    [line] = missing("backbone=mistral", "task=gsm8k")
    assert re.match(
        r"budget: corrections by gpt-6\.2-sol: [\d,]+ to 29,892 requests, [\d.]+M to [\d.]+M prompt and [\d.]+M to "
        r"[\d.]+M completion tokens, \$[\d,]+ to [\d,]+, [\d,.]+ to [\d,.]+ minutes; "
        r"rationales by gpt-6\.2-sol: 30,000 requests, .*"
        r"Go on with: python run\.py backbone=mistral task=gsm8k budget_usd=\d+ \(nothing is paid without consent",
        line,
    ), line
    assert not server.requests
    most = re.findall(r"budget_usd=(\d+)", line)[0]
    assert missing("backbone=mistral", "task=gsm8k", f"budget_usd={most}") == []


def test_more_tries_and_more_samples_cost_more(missing, server: OpenAIServer) -> None:
    def most(*overrides: str) -> int:
        [line] = missing("corrector=gpt4", *overrides)
        return int(re.findall(r"budget_usd=(\d+) ", line)[0])

    assert most("corrector.tries=3") > 2 * most()
    assert most("sampler.samples=4") > 3 * most()
    assert most("limit=10") < most()


def test_the_budget_that_is_named_has_room_for_what_was_paid_before(
    make_config: Callable[..., Config], tmp_path: Path, server: OpenAIServer
) -> None:
    server.reply = lambda prompt: "No."
    given = [*SMALL, "corrector=gpt4", "corrector.input_usd=10000", "corrector.output_usd=1", f"runs_dir={tmp_path}"]
    pipeline.run(make_config(*given, "until=correct", "budget_usd=1000000"), given)
    more = [*given, "rationales=gpt4", "rationales.requests=3", "until=rationales"]
    with pytest.raises(UserError, match=r"budget: rationales by gpt-6\.2-sol: 3 requests") as refused:
        pipeline.run(make_config(*more), more)
    [most] = re.findall(r"budget_usd=(\d+) ", str(refused.value))
    pipeline.run(make_config(*more, "do=plan"), more)
    assert f'budget_usd={most}"' in next(tmp_path.glob("reports/*/plan.json")).read_text()
    pipeline.run(make_config(*more, f"budget_usd={most}"), more)
    assert len(server.requests) > 3


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["corrector.model=gpt-9"], r"server: .*gpt-9.*"),
        (["corrector.base_url=http://127.0.0.1:9/v1"], r"server: http://127\.0\.0\.1:9/v1.*corrector\.base_url"),
    ],
)
def test_the_server_is_asked_whether_the_key_may_use_the_model(
    missing, server: OpenAIServer, overrides: list[str], line: str
) -> None:
    found = missing("corrector=gpt4", "budget_usd=5", *overrides)
    assert re.match(line, found[0])
    assert "sk-secret" not in str(found)
    assert not server.requests


def test_a_model_without_a_known_price_needs_one_unless_it_is_free(missing, server: OpenAIServer) -> None:
    server.models = [{"id": "mine"}]
    [line] = missing("corrector=gpt4", "corrector.model=mine", "budget_usd=5")
    assert line.startswith("requests: corrector.model=mine: conf/prices has no price of it: set corrector.input_usd=")
    free = ("corrector.input_usd=0", "corrector.output_usd=0")
    assert missing("corrector=gpt4", "corrector.model=mine", *free) == [], "what costs nothing needs no consent"


def test_everything_that_is_missing_is_said_at_once(missing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    found = missing("corrector=gpt4", "rationales=gpt4")
    assert [line.split(":")[0] for line in found] == ["key", "budget"]
    assert found[0].startswith("key: corrector, rationales send requests; set OPENAI_API_KEY")


def test_another_models_mistakes_are_asked_for_by_their_own_key(missing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    real = ["backbone=mistral", "task=gsm8k", "sampler=self", "corrector=reference", "rationales=none"]
    found = missing(*real, "mix=lema_random", "sampler/model@sampler.other=gpt4")
    assert found[0].startswith("key: sampler.other.api send requests; ")


def test_every_price_is_of_a_model_and_the_dearest_comes_first(make_config) -> None:
    config = make_config()
    for name, each in config.prices.items():
        assert 0 < each.cached_usd < each.input_usd < each.output_usd, name
    for api in (make_config("corrector=gpt4").corrector, make_config("rationales=gpt4").rationales):
        assert price(api, config.prices, "x").output_usd == 10


def test_export_writes_what_was_asked_and_answered(
    make_config: Callable[..., Config], tmp_path: Path, server: OpenAIServer
) -> None:
    server.reply = lambda prompt: "No."
    overrides = [*SMALL, "corrector=gpt4", "budget_usd=5", f"runs_dir={tmp_path}", "until=correct"]
    pipeline.run(make_config(*overrides), overrides)
    pipeline.run(make_config(*overrides, "until=null", "do=export"), overrides)
    requests, responses = ((tmp_path / "export" / f"{name}.jsonl").read_text() for name in ("requests", "responses"))
    assert len(requests.splitlines()) == len(responses.splitlines()) == len(server.requests) > 0
    assert '"url": "/v1/chat/completions"' in requests
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert server.headers[0]["authorization"] == "Bearer sk-secret-of-the-tests"
    assert not [content for content in written if b"sk-secret" in content], "nor in an artifact or the journal"


def test_nothing_to_export_is_one_line(make_config, tmp_path: Path) -> None:
    config = make_config("do=export", f"runs_dir={tmp_path}")
    with pytest.raises(UserError, match="no request was sent from this runs folder yet"):
        pipeline.run(config, [])
