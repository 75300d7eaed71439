"""engine=server: a model that somebody else serves answers in the place of one that is loaded here."""

import json
import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai_server import OpenAIServer
from small import SMALL, rows, summary

from lema import engines, pipeline, preflight
from lema.api.requests import VLLM
from lema.artifacts import Store
from lema.cell import Cell
from lema.engines import Account, LocalModel, sample_seed, server as server_module
from lema.engines.server import Settings
from lema.identity import identity
from lema.models.encoding import encode_prompt
from lema.models.huggingface import load_tokenizer
from lema.models.weights import Weights
from lema.types import PROMPT_TOO_LONG, Completion, Prompt, UserError

PROMPTS = [Prompt("What is 2 + 3?"), Prompt("What is 2 + 3?", attempt=1), Prompt("And 7 + 1, at last?", stop="\n\n")]
MODEL = {"id": "base", "object": "model"}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")


@pytest.fixture(scope="module", autouse=True)
def answering(make_config: Callable[..., Any], base: Weights) -> None:
    Asked.model = Cell(make_config(), Store(Path("runs"))).evaluated(four_bit=False, tuned=False)


@pytest.fixture(scope="module")
def base(make_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A small backbone whose tokenizer has a BOS."""
    runs = tmp_path_factory.mktemp("runs")
    overrides = [*SMALL, "until=base", f"runs_dir={runs}"]
    pipeline.run(make_config(*overrides), overrides)
    [folder] = (runs / "base").iterdir()
    weights = Weights("tiny", str(folder), None, "digest")
    tokenizer = load_tokenizer(weights)
    Asked.count = staticmethod(lambda text: len(encode_prompt(tokenizer, text)))
    return weights


@pytest.fixture
def ids(base: Weights) -> Callable[[str], list[int]]:
    tokenizer = load_tokenizer(base)
    return lambda text: encode_prompt(tokenizer, text)


def serving(*reply: Any, **options: Any) -> OpenAIServer:
    """A server that cuts a text as the backbone's tokenizer does."""
    return OpenAIServer(*reply, **{"count": Asked.count, **options})


class Asked:
    """An engine at a server, and where it keeps its answers."""

    model: LocalModel  # of any cell
    count: Callable[[str], int]  # of the backbone's tokens

    def __init__(self, server: OpenAIServer | str, base: Weights, folder: Path, **settings: Any) -> None:
        how = {"temperature": settings.pop("temperature", 0.0), "seed": 5, "max_new_tokens": 50}
        values: dict[str, Any] = {"max_concurrent_requests": 8, "max_retries": 1, "request_timeout": 9, "max_wait": 60}
        url = server if isinstance(server, str) else server.url
        self.account = Account(folder / "paid.sqlite", {}, settings.pop("budget_usd", None), 0.0, retry_failed=False)
        chosen = Settings(**{"name": "server", "base_url": url, **values, **settings})
        model = replace(Asked.model, engine=chosen, **how)
        self.engine, self.resume = engines.load(model, base, None, self.account), folder / "resume" / "sample"

    def __call__(self, prompts: list[Prompt] = PROMPTS) -> list[Completion]:
        return self.engine.complete(prompts, self.resume)


def reads(count: Callable[[dict], int], *, refuse_ids: bool = False) -> Callable[[dict], tuple[int, str] | None]:
    """A server that reads so many tokens in a request, and may take no ids."""

    def answer(body: dict) -> tuple[int, str] | None:
        if refuse_ids and isinstance(body.get("prompt"), list):
            return 422, json.dumps({"detail": [{"loc": ["body", "prompt"], "msg": "Input should be a valid string"}]})
        usage = {"prompt_tokens": count(body), "completion_tokens": 2, "total_tokens": count(body) + 2}
        choice = {"index": 0, "text": f"{body['prompt']}", "finish_reason": "stop"}
        return 200, json.dumps({"model": body["model"], "choices": [choice], "usage": usage})

    return answer


def test_the_exact_ids_are_sent_with_all_that_shapes_an_answer(base: Weights, ids: Any, tmp_path: Path) -> None:
    with serving(lambda prompt: str(len(prompt)), models=[MODEL]) as server:
        one = Asked(server, base, tmp_path, temperature=0.7, max_concurrent_requests=1)
        answers = one()
        assert one.engine.about == {"engine": "server", "model": "base", "asked": "completions of token ids"}
    tried, text, *bodies = server.requests
    assert tried["prompt"] == ids(text["prompt"])
    assert tried["max_tokens"] == 1
    for body, prompt in zip(bodies, PROMPTS, strict=True):
        plainly = {"top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "n": 1, "temperature": 0.7}
        sent = {"model": "base", "prompt": ids(prompt.text), "max_tokens": 50}
        sent |= {"stop": ["\n\n"]} if prompt.stop else {}
        assert {name: value for name, value in body.items() if name != "seed"} == plainly | sent
    assert {body["seed"] for body in bodies} == {sample_seed(5, prompt) for prompt in PROMPTS}
    assert [answer.text for answer in answers] == [str(len(ids(prompt.text))) for prompt in PROMPTS]
    assert one.engine.costs == {}
    assert not one.account.journal.exists()


def test_a_vllm_server_is_also_told_what_its_models_own_settings_may_not_change(base: Weights, tmp_path: Path) -> None:
    vllm = MODEL | {"owned_by": "vllm"}
    with serving(models=[vllm]) as server:
        one = Asked(server, base, tmp_path)
        one()
        assert one.engine.about["engine"] == "server vllm"
    tried, _, *bodies = server.requests
    assert all(VLLM.items() <= body.items() for body in bodies)
    assert all("seed" not in body for body in bodies), "greedy"
    assert tried["return_token_ids"]
    assert not any("return_token_ids" in body for body in bodies), "which would double every reply"


def test_answers_are_kept_as_they_come(base: Weights, tmp_path: Path) -> None:
    prompts, down = [Prompt(f"Number {number}?") for number in range(30)], {"after": 17}

    def fault(body: dict) -> str:
        down["after"] -= 1
        return "ok" if down["after"] >= 0 else "reset"

    with serving(lambda prompt: str(prompt[-3:]), fault, models=[MODEL]) as server:
        with pytest.raises(
            UserError, match=r"keeps failing .* of 30 answers are saved; the \d+ that are left cost noth"
        ):
            Asked(server, base, tmp_path)(prompts)
        down["after"] = 1000
        answers = Asked(server, base, tmp_path)(prompts)
    assert len({answer.text for answer in answers}) > 5
    with sqlite3.connect(tmp_path / "resume/sample answers.sqlite") as db:
        assert db.execute("select count(*) from requests where answer is not null").fetchone() == (30,)
    assert server.met["ok"] == 30 + 4, "and each of two engines tried the server with ids and a text"


def test_a_server_that_takes_no_ids_gets_the_text_that_it_reads_as_we_would(
    base: Weights, ids: Any, tmp_path: Path
) -> None:
    begin = load_tokenizer(base).bos_token

    def own_bos(body: dict) -> int:
        return len(ids(body["prompt"]))

    def no_bos(body: dict) -> int:
        return len(ids(body["prompt"].removeprefix(begin))) - (not body["prompt"].startswith(begin))

    for count, front in ((own_bos, ""), (no_bos, begin)):
        with serving(models=[MODEL], instead=reads(count, refuse_ids=True)) as server:
            one = Asked(server, base, tmp_path / str(len(front)))
            assert [answer.text for answer in one()] == [front + prompt.text for prompt in PROMPTS]
            assert one.engine.about["asked"] == f"completions of texts{f' behind {begin}' if front else ''}"


def test_a_server_that_reads_another_prompt_is_refused(base: Weights, ids: Any, tmp_path: Path) -> None:
    ours = len(ids(server_module._TRIED.text))
    double = serving(models=[MODEL], instead=reads(lambda body: 99))
    with double as server, pytest.raises(UserError) as refused:
        Asked(server, base, tmp_path)()
    words = f"it reads a prompt as 99 tokens where the backbone's tokenizer has {ours}: it serves another model"
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_model_with_another_tokenizer_is_refused(base: Weights, ids: Any, tmp_path: Path) -> None:
    """As many ids are sent as are read, by whatever model."""
    with serving(models=[MODEL], count=lambda text: len(text)) as server, pytest.raises(UserError) as refused:
        Asked(server, base, tmp_path)()
    assert f"it reads a prompt as {len(server_module._TRIED.text)} tokens where" in str(refused.value)


def test_chats_are_the_last_road_and_said_aloud(
    base: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(lambda prompt: f"{prompt}!", models=[MODEL], paths=["/v1/chat/completions"]) as server:
        one = Asked(server, base, tmp_path, temperature=0.7)
        answers = one()
        assert one.engine.about["asked"] == "chats"
    assert [answer.text for answer in answers] == [f"{prompt.text}!" for prompt in PROMPTS]
    assert [line for line in caplog.messages if "has no /v1/completions: its chat template stands around" in line]
    assert {body["seed"] for body in server.requests[1:]} == {sample_seed(5, prompt) for prompt in PROMPTS}
    assert all(body["temperature"] == 0.7 for body in server.requests)
    assert all(body["max_tokens"] == 50 for body in server.requests[1:])


def test_without_the_backbones_tokenizer_texts_are_sent_unchecked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = Weights("far", str(tmp_path / "nowhere"), None, "digest")
    with serving(lambda prompt: prompt, models=[MODEL]) as server:
        answers = Asked(server, nowhere, tmp_path)()
    assert [answer.text for answer in answers] == [prompt.text for prompt in PROMPTS]
    assert "prompts are sent as texts, as the backbone's tokenizer is not here" in caplog.text
    assert "so a second BOS cannot be excluded" in caplog.text


def test_a_prompt_that_fills_the_context_is_an_unanswered_one(
    base: Weights, ids: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    room = len(ids(PROMPTS[0].text)) + 7
    long = Prompt("What is " + "1 + " * 30 + "1?")
    with serving(models=[MODEL | {"max_model_len": room}]) as server:
        answers = Asked(server, base, tmp_path)([PROMPTS[0], long])
    assert [body["max_tokens"] for body in server.requests[2:]] == [7], "the long one is not asked at all"
    assert answers[1] == Completion("", PROMPT_TOO_LONG, "base")
    assert "1 of 2 prompts are as long as the context of base or longer: they count as unanswered" in caplog.text
    assert not answers[1].failed


def test_a_price_is_paid_from_the_runs_budget_and_its_journal(base: Weights, tmp_path: Path) -> None:
    with serving(models=[MODEL], prices=(2.0, 10.0)) as server:
        one = Asked(server, base, tmp_path, input_usd=2.0, output_usd=10.0, budget_usd=1.0)
        one()
        assert one.engine.costs["usd"] == pytest.approx(server.usd, rel=0.1), "tries included"
        assert not one.account.journal.exists(), "by the model's name alone no other artifact may have these answers"
        with pytest.raises(UserError, match=r"budget_usd=0: "):
            Asked(server, base, tmp_path / "other", input_usd=2.0, output_usd=10.0, budget_usd=0.0)()


@pytest.mark.parametrize(
    ("server", "settings", "line"),
    [
        (
            {"models": [MODEL]},
            {"model": "gone"},
            r"engine\.model=gone: .* does not list it for this key: .*, as base$",
        ),
        (
            {"models": [MODEL, {"id": "more"}]},
            {},
            r"engine\.model=null: .* lists 2 models \(base, more\): name the one",
        ),
        ({"models": []}, {}, r"engine\.model=null: .* lists no models: name the one"),
        ({"models": 401}, {}, r"HTTP 401: Incorrect API key provided: Bearer \*\*\*|set an OPENAI_API_KEY that it acc"),
        (
            {"models": [MODEL], "model": "other"},
            {"model": "base"},
            r"answers as other where base is asked: set engine\.m",
        ),
        ({"models": 404, "paths": []}, {"model": "base"}, r"refuses requests \(HTTP 404: not found\): "),
    ],
)
def test_each_thing_that_is_wrong_at_a_server_is_one_line(
    base: Weights, tmp_path: Path, server: dict, settings: dict, line: str
) -> None:
    with serving(**server) as double, pytest.raises(UserError, match=line) as refused:
        Asked(double, base, tmp_path, **settings)()
    assert "\n" not in str(refused.value)


def test_a_server_that_is_not_there_or_a_missing_key_is_one_line(
    base: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9/v1/: no connection: .*: check it, or engine\.base_url"):
        Asked("http://127.0.0.1:9/v1", base, tmp_path)()
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set: export it"):
        Asked("http://127.0.0.1:9/v1", base, tmp_path)()


def test_a_server_that_begins_to_answer_as_another_model_ends_the_run(base: Weights, tmp_path: Path) -> None:
    turns = iter(["ok"] * 6 + ["wrong_model"] * 90)
    prompts = [Prompt(f"Number {number}?") for number in range(30)]
    line = r"answers as another-model where base is asked: .*4 of 30 answers are saved"
    double = serving(faults=lambda body: next(turns), models=[MODEL])
    with double as server, pytest.raises(UserError, match=line):
        Asked(server, base, tmp_path, max_concurrent_requests=1)(prompts)


def test_a_cell_samples_and_scores_a_served_checkpoint(
    run: Callable[..., dict[str, Path]], make_config: Callable[..., Any], tmp_path: Path
) -> None:
    """`base` stands for the backbone, and `mine` for what was trained."""
    models = [MODEL, {"id": "mine"}]

    def answer(body: dict) -> tuple[int, str] | None:
        said = "The answer is 7." if body["model"] == "base" else "The answer is 12."
        prompt = body["prompt"]
        count = Asked.count(prompt) if isinstance(prompt, str) else len(prompt)
        usage = {"prompt_tokens": count, "completion_tokens": 6}
        choice = {"index": 0, "text": said, "finish_reason": "stop"}
        return 200, json.dumps({"model": body["model"], "choices": [choice], "usage": usage})

    with serving(models=models, instead=answer) as server:
        asking = ["engine=server", f"engine.base_url={server.url}", "engine.model=base"]
        priced = [*asking, "engine.tuned=mine", "selection=last", "engine.input_usd=1", "engine.output_usd=2"]
        with pytest.raises(UserError, match="budget: ") as refused:
            run(*priced)
        estimated = re.findall(r"(?:budget:|;) (\w[^;\n]*?) requests, .*? minutes", str(refused.value))
        assert estimated == [
            "solutions of self by base: 40",
            "answers to arithmetic by base: 12",
            "answers to arithmetic by mine: 12",
        ]
        assert re.search(r"Go on with: .* budget_usd=1 .*, or engine=transformers sampler=self", str(refused.value))
        pipeline.run(make_config(*SMALL, f"runs_dir={tmp_path / 'runs'}", *priced, "do=plan"), [])
        [plan] = (tmp_path / "runs/reports").glob("*/plan.json")
        assert json.loads(plan.read_text())["total"]["requests"] == [64, 64]
        assert json.loads(plan.read_text())["total"]["usd"][1] > 0
        with pytest.raises(UserError, match=r"engine: engine=server cannot load what is trained here: end before it"):
            run(*asking)
        with pytest.raises(UserError, match=r"cannot load the model of sampler\.models\.tuned, which is trained"):
            run(*asking, "engine.tuned=mine", "selection=last", "sampler=tuned")
        with pytest.raises(UserError, match=r"engine: engine\.tuned=mine is one checkpoint: selection=last, not dev"):
            run(*asking, "engine.tuned=mine")
        with pytest.raises(UserError, match=r"server: engine\.tuned=gone: .* does not list it .*, as base, mine$"):
            run(*asking, "engine.tuned=gone", "selection=last")
        assert not server.requests
        run(*asking, "until=train", "selection=last")
        trained = list((tmp_path / "runs/train").iterdir())
        made = run(*asking, "engine.tuned=mine", "selection=last")
        whole = [body for body in server.requests if body["max_tokens"] > 1]  # the others tried the server
        assert len(whole) == 64
    assert list((tmp_path / "runs/train").iterdir()) == trained, (
        "the name of what was trained changes nothing before it"
    )
    assert summary(made["sample_self"])["models"] == ["base"]
    texts = [
        {row["text"] for row in rows(made[name] / "predictions.jsonl")} for name in ("evaluate_untuned", "evaluate")
    ]
    assert texts == [{"The answer is 7."}, {"The answer is 12."}]
    assert not (tmp_path / "runs/journal.sqlite").exists()
    told = json.loads((made["evaluate"] / "record.json").read_text())["recipe"]["config"]["model"]["engine"]
    assert told == {"name": "server", "model": "mine"} | {key: value for key, value in told.items() if value is None}


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["sampler=open"],
            r"engine=server answers for the backbone alone, and sampler\.models\.wizardmath_7b\.weights",
        ),
        (
            ["corrector=local"],
            r"engine=server answers for the backbone alone, and corrector\.weights are another model's",
        ),
        (["engine.input_usd=1"], r"engine: a price has two parts: set engine\.input_usd= and engine\.output_usd="),
        (["engine.model=null"], r"server: answers are known by the model's name: set engine\.model=base"),
        (["engine.base_url=http://127.0.0.1:9/v1"], r"server: http://127\.0\.0\.1:9/v1/: no connection: "),
    ],
)
def test_what_a_server_cannot_answer_is_refused_before_anything_is_made(
    run: Callable[..., dict[str, Path]], tmp_path: Path, overrides: list[str], line: str
) -> None:
    with serving(models=[MODEL]) as server, pytest.raises(UserError, match=line):
        run("engine=server", f"engine.base_url={server.url}", "until=mix", *overrides)
    assert not server.requests
    assert not list((tmp_path / "runs").rglob("*.jsonl"))


def test_what_one_engine_of_a_step_has_paid_the_next_one_may_not(
    base: Weights, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    with serving(models=[MODEL], prices=(2.0, 10.0)) as server:
        served = ["engine=server", f"engine.base_url={server.url}", "engine.model=base", "budget_usd=1"]
        cell = Cell(make_config(*served, "engine.input_usd=2", "engine.output_usd=10"), Store(tmp_path))
        how = cell.evaluated(four_bit=False, tuned=False)
        cell.begin("evaluate")
        greedy = cell.context.engine(how, base)
        greedy.complete(PROMPTS, tmp_path / "greedy")
        sampled: Any = cell.context.engine(replace(how, temperature=0.7), base)
        assert sampled.account.paid_usd == cell.spent == greedy.costs["usd"] > 0
        cell.begin("evaluate")
        assert cell.spent == 0
        assert cell.context.engine(how, base) is not greedy, "whose costs are those of the step before"


def test_a_server_that_answers_nothing_ends_the_step(base: Weights, tmp_path: Path) -> None:
    with serving(models=[MODEL | {"max_model_len": 3}]) as server, pytest.raises(UserError, match="answered none of"):
        Asked(server, base, tmp_path)()


def test_a_large_backbone_that_somebody_serves_needs_no_room_here(make_config: Callable[..., Any]) -> None:
    """Up to its mistakes nothing of it is loaded on this machine, so a laptop samples from 70B."""
    arguments = ["backbone=llama2", "backbone.size=70b", "sampler=self", "rationales=none", "corrector=reference"]
    with serving(models=[MODEL]) as server:
        served = ["engine=server", f"engine.base_url={server.url}", "engine.model=base"]
        found = []
        for more in ([], served):
            cell = Cell(make_config(*arguments, *more), Store(Path("runs")))
            found.append([line.split(":")[0] for line in preflight._missing(cell, {"sample", "correct"}, False)])
    assert "GPU" in found[0]
    assert found[1] == []


def test_the_address_is_no_part_of_a_recipe(make_config: Callable[..., Any]) -> None:
    here, there = (
        identity(make_config("engine=server", *more).engine) for more in ([], ["engine.base_url=http://x/v1"])
    )
    assert here == there == identity(make_config("engine=server", "engine.max_concurrent_requests=3").engine)
    assert here != identity(make_config("engine=server", "engine.model=other").engine)
