"""What a model ships to shape its texts: its end tokens end them, and nothing else of it is felt."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import training
from tables import some, table
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lema import engines, pipeline
from lema.config import BackboneConfig
from lema.data.arithmetic import make_problems
from lema.engines import LocalModel
from lema.engines.transformers import Settings
from lema.models import checkpoints, merge, trainer
from lema.models.continuous import Row
from lema.models.encoding import encode_prompt
from lema.models.huggingface import end_ids, load_to_answer, load_tokenizer, load_trainable
from lema.models.weights import Weights
from lema.models.writing import answering
from lema.prompts.formats import cot_prompt
from lema.types import Prompt, UserError

WORDS = ["<unk>", "<s>", "</s>", "<pad>", "<turn>", *(f"w{number}" for number in range(27))]
PROMPTS = ["w1 w2 w3", "w4", "w9 w9 w9 w9 w9 w9", "w5 w20 w7 w1", "w11 w12"]
# Values that change what transformers' `generate` does, or end it in an error, by what the key holds. `None` is a key
# that is left as it is: the end tokens, which are to be taken, and what transformers writes about the file itself.
VALUES: dict[str, list[Any] | None] = dict(table(__file__, "values"))
# Keys of `config.json` that change what a forward pass returns, and keys that no version knows.
OTHERS: dict[str, list[Any]] = {"return_dict": [False], "custom_generate": ["code"], "made_up": [1]}
KEYS = {name: values for name, values in {**VALUES, **OTHERS}.items() if values is not None}
CASES = [(name, value) for name, values in KEYS.items() for value in values]


def test_every_key_that_transformers_knows_has_a_value_here() -> None:
    assert set(vars(GenerationConfig())) <= set(VALUES)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, which ends a text now and then, and says nothing of how to generate."""
    torch.manual_seed(26)
    sizes: Any = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=len(WORDS), initializer_range=0.5))
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special: Any = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    folder = tmp_path_factory.mktemp("models") / "plain"
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=raw, **special).save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def shipped(plain: Path, tmp_path: Path) -> Callable[..., Weights]:
    """`shipped({"top_k": 1})`: the model with that in generation_config.json, or, by name, in another of its files."""

    def make(settings: Any, file: str = "generation_config.json", model: Path = plain) -> Weights:
        folder, number = tmp_path / "shipped", 0
        while folder.exists():
            folder, number = tmp_path / f"shipped {number}", number + 1
        folder.mkdir()
        for each in model.iterdir():
            (folder / each.name).symlink_to(each.resolve())
        if isinstance(settings, dict) and (folder / file).exists():
            settings = json.loads((folder / file).read_text()) | settings
        (folder / file).unlink(missing_ok=True)
        (folder / file).write_text(settings if isinstance(settings, str) else json.dumps(settings))
        return Weights("shipped", str(folder), None, "digest")

    return make


@pytest.fixture(scope="module")
def backbone(make_config) -> BackboneConfig:
    return make_config("backbone.attention=sdpa").backbone


@pytest.fixture(scope="module")
def ask(backbone: BackboneConfig, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`ask(source)`: what a model answers greedily, what it samples, and what merging sees of it."""

    def asked(source: Weights, prompts: list[str] = PROMPTS, adapter: Path | None = None) -> Any:
        found: list[Any] = []
        for number, temperature in enumerate((0.0, 0.8)):
            resume = tmp_path_factory.mktemp("resume") / f"{number}"
            how = LocalModel(
                Settings(name="transformers", batch_tokens=60),  # of five prompts two or three at once
                backbone.computation,
                max_new_tokens=12,
                temperature=temperature,
            )
            answers = engines.load(how, source, adapter).complete([Prompt(text) for text in prompts], resume)
            found.append([(each.text, each.finish_reason) for each in answers])
        tokenizer = load_tokenizer(source)
        loaded = load_to_answer(source, backbone.computation, four_bit=False)
        rows = [Row(encode_prompt(tokenizer, prompt), 3, tokens=[7, 5, 30]) for prompt in prompts]
        return [*found, torch.cat([merge._logits(loaded, row) for row in rows])]

    return asked


def equal(one: Any, other: Any) -> bool:
    return one[:2] == other[:2] and torch.equal(one[2], other[2])


@pytest.fixture(scope="module")
def expected(ask, plain) -> Any:
    found = ask(Weights("plain", str(plain), None, "digest"))
    assert len({text for text, _ in found[0]}) > 3, "answers that would not tell"
    assert {reason for _, reason in found[0] + found[1]} == {"length", "stop"}
    return found


REAL_PROMPTS = [cot_prompt("lema", each.question) for each in make_problems(seed=5, num_train=3, num_test=0)[0]]
FILES = ("generation_config.json", "config.json")
# All first values at once, all second ones, all third ones: none is to be felt, so none hides another.
TOGETHER = [{name: values[number] for name, values in KEYS.items() if len(values) > number} for number in range(3)]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("settings", TOGETHER, ids=["first", "second", "third"])
def test_no_key_of_either_file_is_felt(shipped, ask, expected, file, settings) -> None:
    assert equal(ask(shipped(settings, file)), expected)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("name", "value"), some(CASES, 10, pytest.mark.slow))
def test_no_key_by_itself_is_felt(shipped, ask, expected, file, name, value) -> None:
    assert equal(ask(shipped({name: value}, file)), expected)


def test_an_adapter_answers_and_is_merged_as_if_the_base_had_shipped_nothing(
    make_config, backbone, plain, shipped, ask, tmp_path
) -> None:
    settings = TOGETHER[0]
    base, bare = shipped(settings, "config.json", shipped(settings).folder), Weights("plain", str(plain), None, "")
    config = make_config("backbone.attention=sdpa", "train=lora")
    adapted: Any = load_trainable(base, backbone.computation, config.train, 1, checkpointing=False)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapter = tmp_path / "adapter"
    adapted.save_pretrained(adapter)
    (adapter / "generation_config.json").write_text(json.dumps(settings))
    found = []
    for source in (base, bare):
        merged = tmp_path / f"merged {len(found)}"
        merge.merge(source, adapter, merged, backbone.precision, dequantise=False)
        assert ask(Weights("merged", str(merged), None, ""))[0] == ask(source, adapter=adapter)[0]
        measured = merge.agreement(source, adapter, merged, backbone.computation, PROMPTS, four_bit=False)
        assert measured["equal_outputs"] == 1
        written = json.loads((merged / "generation_config.json").read_text())
        assert not [name for name in written if name not in ("_from_model_config", "transformers_version")]
        found.append((ask(source, adapter=adapter)[:2], measured))
    assert found[0] == found[1]
    assert found[0][0] != ask(bare)[:2], "an adapter that would not tell"


@pytest.mark.parametrize("settings", TOGETHER, ids=["first", "second", "third"])
def test_a_trained_model_is_saved_whatever_its_base_shipped(make_config, backbone, shipped, tmp_path, settings) -> None:
    source = shipped(settings | {"eos_token_id": [2, 4]}, "config.json", shipped(settings).folder)
    config, tokenizer = make_config("train=full", "train.batch_size=1"), load_tokenizer(source)
    model = load_trainable(source, backbone.computation, config.train, 1, checkpointing=False)
    rows = [{"id": "one", "input_ids": [1, 9, 8, 2], "labels": [-100, -100, 8, 2]}]
    trainer.train(model, tokenizer, rows, 1, tmp_path / "out", training(config), lambda *_: None)
    [checkpoint] = checkpoints.saved(tmp_path / "out")
    assert end_ids(Weights("trained", str(checkpoint), None, "")) == [2, 4]


def cut_at(rows: list[list[int]], ends: set[int]) -> list[list[int]]:
    """Token rows up to the first end, which is left in."""
    lengths = [next((number for number, token in enumerate(row, 1) if token in ends), None) for row in rows]
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        *((None, None, {2}), (28, None, {2, 28}), ([28], None, {2, 28}), ([2, 28, 13], None, {2, 28, 13})),
        *(([28, 13], [20], {2, 28, 13}), (None, [28], {2, 28}), ([], 28, {2, 28}), (-1, None, {2})),
        (10**30, None, {2}),
    ],
)
def test_a_text_ends_at_each_end_token_of_model_and_tokenizer(
    ask, backbone, plain, shipped, generation, config, ends
) -> None:
    source = shipped({"eos_token_id": config}, "config.json", shipped({"eos_token_id": generation}).folder)
    greedy, *_ = ask(source)
    bare = Weights("plain", str(plain), None, "")
    unending, tokenizer = load_to_answer(bare, backbone.computation, four_bit=False), load_tokenizer(bare)
    written = [Row(encode_prompt(tokenizer, prompt), 12) for prompt in PROMPTS]
    for _ in answering(unending, (), 0.0, None, str).answer(written):
        pass
    rows = cut_at([row.tokens for row in written], ends)
    assert [reason for _, reason in greedy] == ["stop" if row[-1] in ends else "length" for row in rows]
    assert [text for text, _ in greedy] == [
        " ".join(WORDS[token] for token in row if token not in ends | {0, 1, 2, 3}) for row in rows
    ]


@pytest.mark.parametrize(("content", "what"), table(__file__, "end tokens that cannot be read are one line"))
def test_end_tokens_that_cannot_be_read_are_one_line(make_config, shipped, tmp_path, content, what) -> None:
    source = shipped(content)
    named = (f"backbone.path={source.location}", "backbone.parameters=null")  # of another size than the tiny backbone
    config = make_config(*named, f"runs_dir={tmp_path / 'runs'}", "tracker=none")
    with pytest.raises(UserError) as raised:
        pipeline.run(config, [])
    [line] = str(raised.value).split("\n  - ")[1:]
    assert line.startswith(f"model: {source.location}: the generation config")
    assert what in line
    assert not [path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]


@pytest.fixture(scope="module")
def real() -> Path:
    """The folder of a real model."""
    folder = os.environ.get("LEMA_TEST_MODEL")
    if not folder:
        pytest.skip("set LEMA_TEST_MODEL to the folder of a small pretrained model, as SmolLM2-135M")
    return Path(folder)


@pytest.mark.full
@pytest.mark.parametrize(
    "settings", [*TOGETHER, *({name: value} for name, value in CASES)], ids=lambda each: str(each)[:60]
)
def test_no_key_is_felt_by_a_real_model(real, ask, bare_answers, shipped, settings) -> None:
    """In both files: all keys at once, and each by itself."""
    settings = settings | {"eos_token_id": json.loads((real / "generation_config.json").read_text())["eos_token_id"]}
    with_them = shipped(settings, "config.json", shipped(settings, model=real).folder)
    assert equal(ask(with_them, REAL_PROMPTS), bare_answers)


# A cell in which each step that generates text does so: sampling, selection among two checkpoints, merging, evaluation.
CELL = (
    "experiment=no_api backbone=mistral engine=transformers task=arithmetic limit=6 task.num_dev=4 train=lora "
    "backbone.size=own backbone.name=smollm2 backbone.precision=fp32 "
    "backbone.attention=sdpa train.max_steps=4 train.save_steps=2 train.batch_size=2 train.row_tokens=1024 "
    "train.optimizer=adamw_torch sampler.max_new_tokens=30 evaluation.max_new_tokens=30 tracker=none"
).split()


@pytest.fixture(scope="module")
def made(make_config, tmp_path_factory) -> Callable[[str], dict[str, str]]:
    """`made(folder)`: the bytes of what sampling, training, selection, merging and evaluation make of a model."""

    def run(folder: str) -> dict[str, str]:
        runs = tmp_path_factory.mktemp("cell") / "runs"
        own = [*CELL, f"backbone.path={folder}", f"runs_dir={runs}"]
        for last in (["until=sample"], ["mix=cot", "until=evaluate"]):
            pipeline.run(make_config(*own, *last), [])
        written = [path for stage in ("sample", "select", "merge", "evaluate") for path in (runs / stage).rglob("*")]
        texts = [path for path in written if path.suffix in (".json", ".jsonl") and path.name != "record.json"]
        names = {path.relative_to(runs).as_posix() for path in texts if "merged" not in path.parts}
        shown = f'"model": "{Path(folder).name}"'  # what a score says of a model's folder
        return {re.sub(r"-[0-9a-f]{12}/", "/", name): (runs / name).read_text().replace(shown, "") for name in names}

    return run


@pytest.fixture(scope="module")
def bare_cell(real, made) -> dict[str, str]:
    return made(str(real))


@pytest.mark.full
@pytest.mark.parametrize("settings", TOGETHER, ids=["first", "second", "third"])
def test_no_key_is_felt_in_any_step_of_a_real_cell(real, made, bare_cell, shipped, settings) -> None:
    """Sampling, selection, merging and evaluation of a real model leave the same bytes, with all keys in both files."""
    settings = settings | {"eos_token_id": json.loads((real / "generation_config.json").read_text())["eos_token_id"]}
    found = made(shipped(settings, "config.json", shipped(settings, model=real).folder).location)
    assert {name.split("/")[0] for name in bare_cell} == {"sample", "select", "merge", "evaluate"}
    assert found == bare_cell


@pytest.fixture(scope="module")
def bare_answers(real, ask) -> Any:
    """What the real model answers as it is published, its own settings being the defaults of transformers."""
    return ask(Weights("real", str(real), None, ""), REAL_PROMPTS)
