"""engine=server against a server that nobody here wrote: vLLM's own, over a real pretrained model."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asked import api_for
from real_server import real_server

from lema import engines
from lema.api.client import attempt, listed
from lema.api.requests import Exact
from lema.artifacts import Store
from lema.cell import Cell
from lema.engines import Account
from lema.models.weights import Weights
from lema.prompts.formats import cot_prompt
from lema.types import PROMPT_TOO_LONG, Completion, Prompt, UserError

pytestmark = pytest.mark.slow
CONTEXT, KEY = 1024, "sk-of-a-real-server"


@pytest.fixture(scope="module")
def model() -> Weights:
    folder = os.environ.get("LEMA_TEST_MODEL")
    if not folder:
        pytest.skip("set LEMA_TEST_MODEL to a folder with a small pretrained model")
    return Weights("real", folder, None, "digest")


@pytest.fixture(scope="module")
def server(model: Weights, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of vLLM's server, whose model's own settings would change every answer."""
    command = os.environ.get("LEMA_TEST_VLLM")
    if not command:
        pytest.skip("set LEMA_TEST_VLLM to the command of a vLLM")
    folder = tmp_path_factory.mktemp("vllm")
    shutil.copytree(model.location, folder / "model")
    own = '{"temperature": 0.6, "top_k": 1, "repetition_penalty": 1.3, "eos_token_id": 2}'
    (folder / "model/generation_config.json").write_text(own)
    arguments = ["serve", str(folder / "model"), "--served-model-name", "real", "--dtype", "float32"]
    arguments += ["--max-model-len", str(CONTEXT), "--enforce-eager"]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_API_KEY": KEY}
    for name in ("PYTHONPATH", "OMP_NUM_THREADS"):
        environment.pop(name, None)
    with real_server([command, *arguments], folder / "log", environment) as url:
        yield f"{url}/v1"


@pytest.fixture
def asked(
    server: str, model: Weights, make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Completion]]:
    """What an engine answers, with changes of how."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (tmp_path / "resume").mkdir()

    def answers(prompts: list[Prompt], engine: str = "server", **how: Any) -> list[Completion]:
        overrides = [f"engine={engine}", *([f"engine.base_url={server}"] if engine == "server" else [])]
        overrides += ["backbone=mistral", f"backbone.path={model.location}", "backbone.precision=fp32"]
        config = make_config(*overrides)
        local = replace(Cell(config, Store(tmp_path)).evaluated(four_bit=False, tuned=False), **how)
        account = Account(tmp_path / "paid.sqlite", {}, None, 0.0, retry_failed=False)
        loaded = engines.load(local, model, None, account)
        answers.about = loaded.about  # pyright: ignore[reportFunctionMemberAccess]
        return loaded.complete(prompts, tmp_path / "resume" / f"{engine} {len(list(tmp_path.rglob('*')))}")

    return answers


def test_greedy_answers_are_those_of_the_model_loaded_here(asked: Any, data_dir: Path) -> None:
    lines = (data_dir / "gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()[:8]
    prompts = [Prompt(cot_prompt("lema", json.loads(line)["question"], [])) for line in lines]
    here = asked(prompts, "transformers", max_new_tokens=32)
    there = asked(prompts, max_new_tokens=32)
    assert asked.about == {"engine": "server vllm", "model": "real", "asked": "completions of token ids"}
    same = [one.text == other.text for one, other in zip(here, there, strict=True)]
    assert sum(same) >= 7, [(one.text, other.text) for one, other in zip(here, there, strict=True)]
    assert [one.finish_reason for one in here] == [other.finish_reason for other in there] or not all(same)
    assert all(other.num_tokens for other in there)


def test_a_seed_gives_its_sample_again_and_an_attempt_has_its_own(asked: Any, tmp_path: Path) -> None:
    prompts = [Prompt("Write a word, and then another word:", attempt) for attempt in range(6)]
    first = [answer.text for answer in asked(prompts, temperature=1.0, max_new_tokens=24)]
    assert len(set(first)) >= 5
    again = [answer.text for answer in asked(prompts[::-1], temperature=1.0, max_new_tokens=24, seed=0)][::-1]
    other = [answer.text for answer in asked(prompts, temperature=1.0, max_new_tokens=24, seed=1)]
    assert sum(one == two for one, two in zip(first, again, strict=True)) >= 5
    assert not set(first) & set(other)


def test_what_the_model_has_no_room_for_is_counted_and_an_answer_ends_at_the_context(asked: Any) -> None:
    long = "one two three four five six seven eight nine ten " * 105
    inside = "one two three four five six seven eight nine ten " * 95
    answers = asked([Prompt(f"{long}{number}") for number in range(2)] + [Prompt(inside)], max_new_tokens=1000)
    assert [(answer.text, answer.finish_reason) for answer in answers[:2]] == [("", PROMPT_TOO_LONG)] * 2
    assert answers[2].finish_reason == "length"
    assert answers[2].num_tokens
    assert answers[2].num_tokens < 200


def test_a_stop_ends_a_text_behind_it(asked: Any) -> None:
    [answer] = asked([Prompt("Count: one, two, three, four,", stop=",")], max_new_tokens=30)
    assert answer.text.endswith(",")
    assert answer.text.count(",") == 1
    assert answer.finish_reason == "stop"


def test_a_text_is_read_as_the_servers_own_tokenizer_does(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    api = api_for(server, model="real", max_tokens=1)
    tried = attempt(Exact("1 + 1 =", 1, {"return_token_ids": True, "temperature": 0.0}), api, "engine")
    assert tried.tokens
    assert len(tried.prompt_token_ids or ()) == tried.tokens[0]


@pytest.mark.parametrize(
    ("key", "name", "line"),
    [
        ("wrong-key", None, r"HTTP 401: Unauthorized: set an OPENAI_API_KEY that it accepts"),
        (KEY, "gone", r"engine\.model=gone: .* does not list it for this key: choose one it lists, as real"),
    ],
)
def test_a_wrong_key_and_an_unknown_model_are_one_line(
    server: str, key: str, name: str | None, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match=line):
        listed(api_for(server, model=name), "engine")
