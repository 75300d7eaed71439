"""Completion tokens a second: our loop, static batches of transformers' `generate`, and vLLM, in interleaved rounds.

Run by hand: pytest -n 0 -m full -s tests/benchmarks/test_generation_speed.py, with LEMA_TEST_DATA (GSM8K),
LEMA_TEST_MODEL (a small pretrained model, of which a run on a GPU takes the tokenizer alone) and, for vLLM,
LEMA_TEST_VLLM (its command). LEMA_TEST_ROUNDS=1 is a shorter run. The tables go to README.md beside this file.
"""

import json
import os
import random
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import GPU, machine, publish
from real_server import real_server
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from lema.models.continuous import Row
from lema.models.writing import answering
from lema.prompts.formats import cot_prompt

pytestmark = pytest.mark.full

QUESTIONS, STATIC = 256, (16, 64, 128)
ROUNDS = int(os.environ.get("LEMA_TEST_ROUNDS", "5"))
COMMAND = "pytest -n 0 -m full -s tests/benchmarks/test_generation_speed.py"
Asked = list[tuple[list[int], int]]  # the tokens of each prompt, and how many are to be written
OURS, VLLM = "ours, rows come and go", "vLLM"


def asked(tokenizer: Any, folder: Path, vocabulary: int) -> Asked:
    """Questions of GSM8K, each with a budget that is drawn from the lengths of the reference solutions."""
    drawn = random.Random(0)
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    lengths = [len(tokenizer.encode(row["answer"], add_special_tokens=False)) for row in rows]
    prompts = [tokenizer.encode(cot_prompt("lema", row["question"])) for row in drawn.sample(rows, QUESTIONS)]
    # Random weights read any tokens, as long as they have these.
    return [([token % vocabulary for token in prompt], drawn.choice(lengths)) for prompt in prompts]


def ours(model: Any, what: Asked) -> None:
    at_work = answering(model, set(), 0.0, None, str)
    rows = [Row(prompt, most) for prompt, most in what]
    for _ in at_work.answer(rows):
        pass
    assert all(len(row.tokens) == row.most for row in rows)


def static(model: Any, what: Asked, size: int) -> None:
    """Batches of prompts of like length, each as long as its longest budget."""
    what = sorted(what, key=lambda one: len(one[0]))
    for start in range(0, len(what), size):
        batch = what[start : start + size]
        width, most = max(len(prompt) for prompt, _ in batch), max(most for _, most in batch)
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt, _ in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in batch])
        options: dict[str, Any] = {"max_new_tokens": most, "min_new_tokens": most, "do_sample": False}
        with torch.inference_mode():
            made = model.generate(ids.to(model.device), attention_mask=mask.to(model.device), pad_token_id=0, **options)
        assert made.shape[1] == width + most


@contextmanager
def served(command: str, model: Path, log: Path) -> Iterator[Callable[[Asked], None]]:
    """A vLLM server of a model, started once; what is yielded asks it everything at the same time."""
    started = [*command.split(), "serve", str(model), "--dtype", "bfloat16", "--max-model-len", "1024"]
    started += ["--skip-tokenizer-init"] + ([] if GPU else ["--enforce-eager"])
    environment = os.environ | ({} if GPU else {"VLLM_CPU_KVCACHE_SPACE": "2"})

    def post(url: str, one: tuple[list[int], int]) -> None:
        body: dict[str, Any] = {"model": str(model), "prompt": one[0], "max_tokens": one[1], "temperature": 0}
        body |= {"ignore_eos": True, "detokenize": False}
        request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=3600) as reply:
            assert json.loads(reply.read())["usage"]["completion_tokens"] == one[1]

    def ask(url: str, what: Asked) -> None:
        with ThreadPoolExecutor(len(what)) as pool:
            list(pool.map(partial(post, url), what))

    with real_server(started, log, environment) as url:
        yield partial(ask, url)


def vllm_version(command: str) -> str:
    said = subprocess.run([*command.split(), "--version"], capture_output=True, text=True, check=True).stdout
    return f", vLLM {said.split()[-1]}"


def table(seconds: dict[str, list[float]], tokens: int) -> list[str]:
    lines = ["| | completion tokens/s | lowest to highest | ours is faster by |", "|---|---|---|---|"]
    for name, spent in seconds.items():
        speeds = [tokens / each for each in spent]
        row = f"| {name} | {statistics.median(speeds):,.0f} | {min(speeds):,.0f} to {max(speeds):,.0f} |"
        lines.append(f"{row} {ratio(seconds, OURS, name):.2f}x |")
    return [*lines, ""]


def ratio(seconds: dict[str, list[float]], of: str, than: str) -> float:
    """How much faster one is, as the median of the rounds' ratios: a neighbour's load falls on both sides of one."""
    return statistics.median(b / a for a, b in zip(seconds[of], seconds[than], strict=True))


@pytest.mark.timeout(4 * 3600)
def test_rows_that_come_and_go_are_faster_than_static_batches(data_dir: Path, tmp_path: Path) -> None:
    if not (folder := os.environ.get("LEMA_TEST_MODEL")):
        pytest.skip("set LEMA_TEST_MODEL to the folder of a small pretrained model, as SmolLM2-135M")
    vllm, model, name = os.environ.get("LEMA_TEST_VLLM"), Path(folder), "SmolLM2-135M"
    if GPU:
        model, name = tmp_path / "model", "Llama-2-7B of random weights"
        torch.manual_seed(0)
        with torch.device("cuda"):
            loaded: Any = AutoModelForCausalLM.from_config(LlamaConfig(), dtype=torch.bfloat16)
        if vllm:
            loaded.save_pretrained(model)
    else:
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    loaded = loaded.eval()
    loaded.generation_config.eos_token_id = None  # each answer has exactly its budget
    what = asked(AutoTokenizer.from_pretrained(folder), data_dir / "gsm8k", loaded.config.vocab_size)
    tokens = sum(most for _, most in what)
    arms: dict[str, Callable[[Asked], None]] = {OURS: lambda each: ours(loaded, each)}
    for size in STATIC:
        arms[f"`generate`, batches of {size}"] = lambda each, size=size: static(loaded, each, size)
    seconds: dict[str, list[float]] = {}
    with served(vllm, model, tmp_path / "vllm.log") if vllm else nullcontext() as ask:
        arms |= {VLLM: ask} if ask else {}
        for number in range(ROUNDS + 1):
            for arm, run in arms.items():
                began = time.perf_counter()
                run(what if number else [(prompt, 4) for prompt, _ in what[:16]])  # the first round warms up
                if number:
                    seconds.setdefault(arm, []).append(time.perf_counter() - began)
                    print(f"\n  {arm}: {tokens / seconds[arm][-1]:,.0f} tokens/s", end="", flush=True)
    lines = table(seconds, tokens)
    print("\n".join(["", *lines]))
    measured_on = machine() + (vllm_version(vllm) if vllm else "")
    about = f"{date.today()}, `{COMMAND}`: {measured_on}. {name} in bf16, {QUESTIONS} questions, {tokens:,} tokens; "
    publish("generation", [f"{about}medians of {ROUNDS} interleaved rounds.", "", *lines])
    best = min(STATIC, key=lambda size: statistics.median(seconds[f"`generate`, batches of {size}"]))
    assert ratio(seconds, OURS, "`generate`, batches of 16") >= 1.3
    assert ratio(seconds, OURS, f"`generate`, batches of {best}") >= 1.1
    assert not vllm or ratio(seconds, VLLM, f"`generate`, batches of {best}") >= 2
