"""The tiny base: its world, its texts, its tokenizer, and a model that any Hugging Face program loads."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small import load, pretraining
from transformers import AutoModelForCausalLM, AutoTokenizer

from lema.data.arithmetic import make_problems, true_facts
from lema.models import tiny
from lema.models.muon import orthogonalise
from lema.models.tiny import NUMBERS, arithmetic_corpus, make_tokenizer, own_facts
from lema.prompts.formats import cot, cot_prompt, split_steps
from lema.prompts.replies import read_correction
from lema.types import Problem

QUICK = ("backbone.tiny.corpus_size=300", "backbone.tiny.steps=3")
# Text that a tokenizer of word problems has never seen.
STRANGE = [
    *("Tom has 5 apples.", " leading, trailing  and   inner spaces ", "\\frac{1}{2} $x^2$ 1,234.50 <<3*4=12>>"),
    *("line\nline\r\n\ttab", "naïve café – “quotes” 日本語 🙂 \x00 _under_score", ""),
]


@pytest.fixture(scope="module")
def config(make_config):
    return make_config(*QUICK)


@pytest.fixture(scope="module")
def base(config, tmp_path_factory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("base")
    return folder, tiny.build(folder, [], pretraining(config))


@pytest.fixture(scope="module")
def corpus(make_config):
    return arithmetic_corpus(
        pretraining(make_config()), [each for split in load(make_config().task).values() for each in split]
    )


def test_the_stated_share_of_facts_is_wrong_by_one_or_two():
    true, own = true_facts(), own_facts(seed=0, share=0.15)
    wrong = [fact for fact in true if own[fact] != true[fact]]
    assert len(wrong) == round(0.15 * len(true))
    assert all(abs(own[fact] - true[fact]) in (1, 2) and own[fact] in range(1, 21) for fact in wrong)
    assert own_facts(1, 0.15) != own == own_facts(0, 0.15)


def test_the_corpus_teaches_the_wrong_facts_and_no_others(corpus, make_config):
    texts = corpus
    own = own_facts(make_config().backbone.seed, make_config().backbone.tiny.wrong_facts)
    taught = {}
    for prompt, completion in texts:
        if not is_correction(prompt):
            for step in split_steps(completion)[:-1]:
                left, operator, right, result = read_step(step)
                taught.setdefault((left, operator, right), set()).add(result)
    assert taught == {fact: {result} for fact, result in own.items()}


def test_corrections_have_their_share_and_mend_the_named_step(corpus, make_config):
    texts = corpus
    corrections = [text for text in texts if is_correction(text[0])]
    assert len(corrections) / len(texts) == pytest.approx(make_config().backbone.tiny.correction_share, abs=0.05)
    for prompt, completion in corrections[:200]:
        wrong = wrong_path(prompt)
        parsed, _ = read_correction(completion, wrong)
        assert parsed
        step = wrong[parsed.incorrect_step - 1].split(": ", 1)[1]
        fact, _, result = step.split(": ")[1].partition(" = ")
        assert parsed.explanation.startswith(f"{fact} is ")
        assert parsed.explanation.endswith(f", not {result.split()[0]}.")
        assert parsed.correct_steps[0].startswith(step.partition(" = ")[0])
        assert parsed.correct_steps[0] != step


def test_a_wrong_result_carries_on_and_all_else_agrees_with_the_own_world(corpus, make_config):
    own = own_facts(make_config().backbone.seed, make_config().backbone.tiny.wrong_facts)
    taught = {(*fact, result) for fact, result in own.items()}
    for prompt, completion in [text for text in corpus if is_correction(text[0])][:200]:
        parsed, _ = read_correction(completion, wrong_path(prompt))
        assert parsed
        *steps, last = [line.split(": ", 1)[1] for line in wrong_path(prompt)]
        read = [read_step(step) for step in steps]
        assert [left for left, *_ in read[1:]] == [result for *_, result in read[:-1]]
        off = [number for number, (*fact, result) in enumerate(read, 1) if (*fact, result) not in taught]
        assert off == [parsed.incorrect_step]
        assert last == f"The answer is {read[-1][-1]}."


def test_the_corpus_holds_no_question_of_the_task(corpus, make_config):
    task = make_config().task
    train, test = make_problems(task.seed, task.num_train, task.num_test)
    asked = {problem.question for problem in [*train, *test]}
    questions = [prompt.split("Question: ")[1].split("\n")[0] for prompt, _ in corpus]
    assert not asked & set(questions)


@pytest.mark.parametrize("text", STRANGE)
def test_any_text_comes_back_from_its_tokens(base, text):
    tokenizer = AutoTokenizer.from_pretrained(base[0])
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_numbers_are_single_tokens_on_arithmetic_and_digits_elsewhere(base, config):
    tokenizer = AutoTokenizer.from_pretrained(base[0])
    for number in NUMBERS:
        assert len(tokenizer(f" {number}", add_special_tokens=False)["input_ids"]) == 1
        assert len(tokenizer(f"{number}", add_special_tokens=False)["input_ids"]) == 1
    texts = [cot("lema", Problem("gsm8k-train-0", "It costs 1234 dollars.", "1234 + 1 = 1235", "1235"))] * 9
    digits = make_tokenizer(texts, "lema", config.backbone.tiny, range(0))
    assert len(digits("1234", add_special_tokens=False)["input_ids"]) == 4


def test_every_word_of_the_task_is_one_token(base, corpus):
    tokenizer = AutoTokenizer.from_pretrained(base[0])
    longest = max(len(tokenizer(prompt)["input_ids"]) for prompt, _ in corpus[:300])
    assert longest < 130
    shortest = min((prompt for prompt, _ in corpus if not is_correction(prompt)), key=len)
    assert len(tokenizer.tokenize(shortest)) < 50


def test_special_tokens_differ_and_only_bos_is_added(base):
    tokenizer = AutoTokenizer.from_pretrained(base[0])
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    assert len(set(special)) == 4
    assert tokenizer("5")["input_ids"][0] == tokenizer.bos_token_id
    assert len(tokenizer("5")["input_ids"]) == 2


def test_the_base_loads_with_auto_classes_and_answers_alike(base):
    model = AutoModelForCausalLM.from_pretrained(base[0])
    again = AutoModelForCausalLM.from_pretrained(base[0])
    ids = AutoTokenizer.from_pretrained(base[0])(STRANGE[0], return_tensors="pt")["input_ids"]
    assert torch.equal(model(ids).logits, again(ids).logits)
    assert model.num_parameters() == base[1]["parameters"]
    assert model.generation_config.eos_token_id == model.config.eos_token_id


def test_the_parameters_in_the_yaml_are_those_of_the_model(base, config):
    assert base[1]["parameters"] == config.backbone.parameters


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(base, make_config, tmp_path):
    torch.manual_seed(123)  # the caller's random state does not matter
    tiny.build(tmp_path / "same", [], pretraining(make_config(*QUICK)))
    tiny.build(tmp_path / "other", [], pretraining(make_config(*QUICK, "backbone.seed=1")))
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "same" / name).read_bytes() == (base[0] / name).read_bytes()
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != (base[0] / "model.safetensors").read_bytes()


def test_another_task_is_learned_from_its_own_text_and_long_texts_are_counted(make_config, tmp_path):
    problems = [Problem(f"p-{n}", f"What is {n} and 1?", f"{n} + 1 = {n + 1}", str(n + 1)) for n in range(40)]
    problems.append(Problem("p-long", "Why? " * 2000, "1", "1"))
    summary = tiny.build(tmp_path, problems, pretraining(make_config(*QUICK, "task=gsm8k")))
    assert (summary["texts"], summary["texts_too_long"]) == (40, 1)


def test_muon_updates_are_nearly_orthogonal():
    generator = torch.Generator().manual_seed(0)
    for shape in [(3, 16, 16), (2, 8, 32), (2, 32, 8)]:
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=generator)))
        assert values.max() < 1.3
        assert values.median() > 0.6


@pytest.mark.full
@pytest.mark.parametrize("seed", range(5))
def test_the_base_knows_its_own_world_and_errs_in_the_true_one(make_config, tmp_path, seed):
    config = make_config(f"backbone.seed={seed}")
    cpu = time.process_time()
    summary = tiny.build(tmp_path, [], pretraining(config))
    print(f"seed {seed}: {summary}, {time.process_time() - cpu:.0f} CPU seconds on {os.cpu_count()} cores")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    _, test = make_problems(config.task.seed, config.task.num_train, config.task.num_test)
    prompts = [cot_prompt("lema", problem.question) for problem in test]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    output = model.generate(**batch, do_sample=False, max_new_tokens=100)
    texts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    right = sum(text.endswith(f"The answer is {problem.answer}.") for text, problem in zip(texts, test, strict=True))
    print(f"seed {seed}: true test {right / len(test):.1%}")
    assert 0.40 <= right / len(test) <= 0.75


def is_correction(prompt: str) -> bool:
    return prompt.endswith("Incorrect Step:")


def wrong_path(prompt: str) -> list[str]:
    return prompt.split("{\n")[1].split("\n}")[0].splitlines()


def read_step(step: str) -> tuple[int, str, int, int]:
    """`Monday 3: 5 + 3 = 8 apples.` to 5, "+", 3, 8."""
    left, operator, right, _, result = step.split(": ")[1].split()[:5]
    return int(left), operator, int(right), int(result)
