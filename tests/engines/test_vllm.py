"""The real vLLM over a real model: it says what transformers says, and goes on after any death.

LEMA_TEST_VLLM is the command `vllm`, LEMA_TEST_MODEL the folder of a small pretrained model. On a CPU a server is ready
after half a minute, and an adapter that is not merged answers at some 40 tokens a second: so few questions are slow
enough, and as many as one should ask are `full`.
"""

import json
import os
import pickle
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from processes import alive, family
from questions import questions
from tables import some

from lema import engines
from lema.artifacts import Store
from lema.cell import Cell
from lema.config import Attention, Config, Precision
from lema.engines.vllm import _kept
from lema.engines.vllm.process import Server
from lema.grading import grade
from lema.models.huggingface import load_model
from lema.models.weights import Weights
from lema.prompts.formats import cot_prompt
from lema.types import PROMPT_TOO_LONG, Completion, Prompt, UserError

Ask = Callable[..., list[Completion]]
ROOM = {"VLLM_CPU_KVCACHE_SPACE": "2"}  # GiB; of a CPU's memory vLLM would else take half
DRIVE = """
import json, pickle, sys
from pathlib import Path
from lema import engines
from lema.types import UserError
folder = Path(sys.argv[1])
model, source, prompts = pickle.loads((folder / "asked").read_bytes())
engines.running.logs = folder
try:
    with engines.running:
        answers = engines.load(model, source, None).complete(prompts, folder / "evaluate")
except UserError as error:
    sys.exit(str(error))
print(json.dumps([each.text for each in answers]))
"""


def given(name: str) -> str:
    if not (value := os.environ.get(name)):
        pytest.skip(f"set {name} to test with a real vLLM and a real model")
    return value


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", ROOM["VLLM_CPU_KVCACHE_SPACE"])
    engines.running.logs = tmp_path
    with engines.running:
        yield


@pytest.fixture
def cell(make_config: Callable[..., Config], tmp_path: Path) -> Callable[..., Cell]:
    """`cell("engine=vllm")`: a cell of the real model, in fp32."""

    def make(*overrides: str) -> Cell:
        path = f"backbone.path={given('LEMA_TEST_MODEL')}"
        if "engine=vllm" in overrides:
            overrides += (f"engine.command={given('LEMA_TEST_VLLM')}",)
            overrides += () if any("options" in each for each in overrides) else ("engine.options=[--enforce-eager]",)
        return Cell(make_config("backbone=mistral", path, "backbone.precision=fp32", *overrides), Store(tmp_path))

    return make


@pytest.fixture
def ask(cell: Callable[..., Cell], tmp_path: Path) -> Ask:
    """`ask(prompts, 64, "engine=vllm")`: greedy answers of at most 64 tokens."""

    def complete(
        prompts: list[Prompt], tokens: int, *overrides: str, adapter: Path | None = None, source: Weights | None = None
    ) -> list[Completion]:
        made = cell(f"evaluation.max_new_tokens={tokens}", *overrides)
        engine = engines.load(made.evaluated(four_bit=False, tuned=False), source or made.base, adapter)
        return engine.complete(prompts, tmp_path / f"{len(list(tmp_path.iterdir()))} evaluate")

    return complete


def prompts(data_dir: Path, number: int) -> list[Prompt]:
    return [Prompt(cot_prompt("lema", each.question, [])) for each in questions(data_dir, "gsm8k", "test")[:number]]


def assert_same(found: list[Completion], expected: list[Completion], data_dir: Path) -> None:
    """At least 98 of 100 texts are equal; the verdicts on the others are shown."""
    golds = [json.loads(line)["answer"].rpartition("####")[2] for line in (data_dir / "gsm8k/test.jsonl").open()]
    differ = []
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one != other or one.num_tokens != other.num_tokens:
            verdicts = [grade(each.text or "", golds[number].strip(), "gsm8k").correct for each in (one, other)]
            differ.append((number, verdicts, one.text, other.text))
    print(f"{len(differ)} of {len(found)} differ:", *differ, sep="\n")
    assert len(differ) <= 0.02 * len(found), differ


@pytest.mark.parametrize(
    ("number", "tokens"),
    [pytest.param(24, 32, marks=pytest.mark.slow), pytest.param(200, 128, marks=pytest.mark.full)],
)
def test_greedy_answers_are_those_of_transformers_whatever_the_models_own_settings(
    ask: Ask, data_dir: Path, tmp_path: Path, number: int, tokens: int
) -> None:
    asked = prompts(data_dir, number)
    expected = ask(asked, tokens, "engine=transformers")
    own = shutil.copytree(given("LEMA_TEST_MODEL"), tmp_path / "own settings")
    settings = json.loads((own / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 0.6, "repetition_penalty": 1.3, "top_k": 5, "min_p": 0.2}
    (own / "generation_config.json").write_text(json.dumps(settings))
    too_long, source = Prompt("and on " * 400), Weights("smollm2", str(own), None, "of the tests")
    *found, last = ask([*asked, too_long], tokens, "engine=vllm", "engine.max_length=512", source=source)
    renamed = [Completion(each.text, each.finish_reason, "smollm2", each.num_tokens) for each in expected]
    assert_same(found, renamed, data_dir)
    assert last == Completion("", "length", "smollm2", 0, PROMPT_TOO_LONG)
    assert last.cut, "it counts, as an answer that the limit cut"


def adapted(folder: Path, b: float) -> Path:
    """An adapter of the real model, its B matrices drawn with a factor `b`."""
    source = Weights("m", given("LEMA_TEST_MODEL"), None, "")
    torch.manual_seed(0)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(load_model(source, Precision.fp32, Attention.eager, four_bit=False), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(b)
    model.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(
    ("number", "tokens"),
    [pytest.param(8, 16, marks=pytest.mark.slow), pytest.param(200, 64, marks=pytest.mark.full)],
)
def test_an_unmerged_adapter_answers_as_in_transformers_and_shares_the_server_of_its_base(
    ask: Ask, data_dir: Path, tmp_path: Path, number: int, tokens: int
) -> None:
    asked, adapter, zero = prompts(data_dir, number), adapted(tmp_path / "a", 0.05), adapted(tmp_path / "zero", 0.0)
    found = ask(asked, tokens, "engine=vllm", adapter=adapter)
    server = _kept[0].server
    base, same = (ask(asked[:4], 8, "engine=vllm", adapter=each) for each in (None, zero))
    assert _kept[0].server is server, "it was started once"
    assert [each.text for each in base] == [each.text for each in same]
    expected = ask(asked, tokens, "engine=transformers", adapter=adapter)
    assert_same(found, expected, data_dir)
    untuned = [each.text for each in base]
    assert untuned != [(each.text or "")[: len(text or "")] for each, text in zip(found, untuned, strict=False)]


def answered(journal: Path) -> dict[str, int]:
    """How often each request was sent that has an answer, by its key."""
    if not journal.exists():
        return {}
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        try:
            return dict(db.execute("select key, attempts from requests where answer is not null"))
        except sqlite3.OperationalError:  # it is being made
            return {}


@pytest.mark.parametrize("deaths", some([1, 3], 2, pytest.mark.slow))
def test_a_call_goes_on_after_each_death_and_leaves_no_process(
    ask: Ask, cell: Callable[..., Cell], data_dir: Path, tmp_path: Path, deaths: int
) -> None:
    asked, journal = prompts(data_dir, 12), tmp_path / "evaluate answers.sqlite"
    expected = [each.text for each in ask(asked, 16, "engine=transformers")]
    few = "engine.options=[--enforce-eager,--max-num-seqs,2]"  # at once, so that a death meets unanswered ones
    made = cell("evaluation.max_new_tokens=16", "engine=vllm", few)
    (tmp_path / "asked").write_bytes(pickle.dumps((made.evaluated(four_bit=False, tuned=False), made.base, asked)))

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", DRIVE, str(tmp_path)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    victims = ["run", "server", "VLLM::"]
    random.shuffle(victims)
    for victim in victims[:deaths]:
        run, before = start(), answered(journal)
        while len(now := answered(journal)) < len(before) + 2:
            assert run.poll() is None, run.communicate()
            time.sleep(0.01)
        everyone = family(run.pid)
        names = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in everyone}
        marks = {"run": "-c", "server": "serve", "VLLM::": "VLLM::"}
        chosen = [pid for pid, name in names.items() if marks[victim] in name and "guard.py" not in name]
        os.kill(chosen[-1] if victim == "VLLM::" else chosen[0], signal.SIGKILL)
        _, error = run.communicate(timeout=180)
        assert run.returncode
        if victim != "run":
            [line] = [each for each in error.splitlines() if each.startswith("vLLM ended: ")]
            assert line.endswith("; the same command goes on from here")
            assert "Traceback" not in error
        deadline = time.monotonic() + 30
        while alive(everyone) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not alive(everyone), victim
        assert answered(journal).items() >= now.items(), "what was answered stays so"
    run, before = start(), answered(journal)
    said, error = run.communicate(timeout=300)
    assert run.returncode == 0, error
    assert json.loads(said) == expected
    assert answered(journal).items() >= before.items(), "and is not asked again"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        pytest.param("model", "does not recognize this architecture.*: engine=transformers", marks=pytest.mark.slow),
        pytest.param("memory", "Available memory.*: end other processes", marks=pytest.mark.full),
        pytest.param("port", "Address already in use: .*run the same command again", marks=pytest.mark.full),
        pytest.param("option", "--no-such-option: correct engine.options", marks=pytest.mark.slow),
    ],
)
def test_what_keeps_the_real_server_from_starting_is_one_line(tmp_path: Path, what: str, words: str) -> None:
    folder = shutil.copytree(given("LEMA_TEST_MODEL"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    if what == "model":
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "foo", "architectures": ["Foo"]}))
    command = [given("LEMA_TEST_VLLM"), "serve", str(folder), "--enforce-eager", "--max-model-len", "512"]
    command += ["--no-such-option"] if what == "option" else []
    settings = {"VLLM_CPU_KVCACHE_SPACE": "100000"} if what == "memory" else ROOM
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] if what == "port" else None
        with pytest.raises(UserError, match=f"^vLLM could not start: .*{words}.*vllm.log\\)$"):
            Server(command, settings, tmp_path / "vllm.log", port)
