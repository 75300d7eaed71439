"""A batch whose rows come and go: what an answer depends on, what ends it, and what happens where memory ends."""

from collections import Counter
from collections.abc import Callable
from inspect import signature
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lema import engines
from lema.models.continuous import Answering, Row, choose
from lema.types import Prompt, UserError


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=40, initializer_range=0.5)).eval()


def rows(number: int = 24) -> list[Row]:
    return [Row([3 + seed % 7] * (1 + seed % 11), 2 + seed % 13, seed) for seed in range(number)]


def written(at_work: Answering, asked: list[Row]) -> list[list[int]]:
    finished = [row for each in at_work.answer(asked) for row in each]
    assert sorted(map(id, finished)) == sorted(map(id, asked)), "each is told once"
    return [row.tokens for row in asked]


def test_tokens_are_drawn_by_softmax_of_logits_over_temperature_and_nothing_else() -> None:
    logits, number = torch.tensor([2.0, 1.0, 0.0, -1.0, float("-inf")]), 20_000
    drawn = Counter(choose(logits.expand(number, 5), [Row([1], 9, seed) for seed in range(number)], 0.7).tolist())
    shares = (logits / 0.7).softmax(-1).tolist()
    for token, share in enumerate(shares):
        assert abs(drawn[token] / number - share) < 4 * (share * (1 - share) / number) ** 0.5 + 1e-12
    assert set(choose(logits.expand(9, 5), rows(9), 0.0).tolist()) == {0}


def test_each_token_of_a_row_has_a_number_of_its_own() -> None:
    drawn = [Row([1], 9, seed, tokens=[0] * length).draw() for seed in range(50) for length in range(50)]
    assert len(set(drawn)) == 2500
    assert 0 <= min(drawn) < 0.01
    assert 0.99 < max(drawn) < 1
    assert abs(sum(drawn) / 2500 - 0.5) < 0.03


def test_a_sample_has_a_seed_of_its_problem_and_its_number() -> None:
    asked = [Prompt(text, attempt) for text in ("1 + 1", "1 + 2") for attempt in range(3)]
    assert len({engines.sample_seed(seed, prompt) for prompt in asked for seed in (0, 1)}) == 12


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_makes_others_wait_leaves_and_goes_on_at_the_end(model, temperature: float) -> None:
    expected = written(Answering(model, {5}, 10_000, temperature=temperature), rows())
    long = [*rows(), Row([9, 8], 150, 77)]
    found = written(Answering(model, {5}, 220, temperature=temperature), long)
    assert found[:-1] == expected


def lacking(monkeypatch: pytest.MonkeyPatch, model: Any, fails: Callable[[int], bool]) -> list[int]:
    """Have memory end in a pass of so many rows, by their number; the rows of each pass that was tried."""
    tried, forward = list[int](), type(model).forward

    def limited(self: Any, *given: Any, **options: Any) -> Any:
        tried.append(len(options["input_ids"]))
        if fails(tried[-1]):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
        return forward(self, *given, **options)

    limited.__signature__ = signature(forward)  # pyright: ignore[reportFunctionMemberAccess]
    monkeypatch.setattr(type(model), "forward", limited)
    return tried


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("joined", [True, False])
def test_where_memory_ends_fewer_rows_write_the_same(monkeypatch, model, joined: bool, temperature: float) -> None:
    expected = written(Answering(model, {5}, 10_000, temperature=temperature), rows())
    tried = lacking(monkeypatch, model, lambda number: number > 5)
    assert written(Answering(model, {5}, 10_000, temperature=temperature, joined=joined), rows()) == expected
    assert max(tried) > 5
    assert tried[-1] <= 5


def test_a_batch_grows_again_after_memory_ended_once(monkeypatch, model) -> None:
    monkeypatch.setattr("lema.models.continuous._PATIENCE", 10)
    tried = lacking(monkeypatch, model, lambda number: number > 10 and len(tried) < 4)
    written(Answering(model, (), 400), rows(200))
    assert max(tried[:4]) > 10
    assert max(tried[5:12]) < max(tried[50:])


def test_memory_that_does_not_hold_one_row_is_one_line(monkeypatch, model) -> None:
    lacking(monkeypatch, model, lambda number: number > 0)
    with pytest.raises(UserError, match=r"^out of memory with one answer at a time: lower max_new_tokens"):
        written(Answering(model, (), 10_000), rows())


def test_an_error_that_is_no_lack_of_memory_is_not_hidden(model) -> None:
    with pytest.raises(IndexError):
        written(Answering(model, (), 10_000), [Row([400], 3)])


def test_a_stop_text_ends_a_row_where_it_is_whole(model) -> None:
    def decode(tokens: list[int]) -> str:
        return "".join("abcdefghij"[token % 10] for token in tokens)

    [free] = written(Answering(model, (), 10_000, decode=decode), [Row([3, 4], 12)])
    stop = decode(free)[4:7]
    row = Row([3, 4], 12, stop=stop)
    written(Answering(model, (), 10_000, decode=decode), [row])
    assert row.ended == "stop"
    assert decode(row.tokens) == decode(free)[: decode(free).index(stop) + 3]


def test_a_prompt_that_is_asked_several_times_is_read_once(monkeypatch, model) -> None:
    tried = lacking(monkeypatch, model, lambda number: False)
    asked = [Row([3, 4, 5], 6, seed) for seed in range(10)]
    written(Answering(model, (), 10_000, temperature=1.0), asked)
    assert tried[:2] == [1, 10]
    assert len({tuple(row.tokens) for row in asked}) > 5
