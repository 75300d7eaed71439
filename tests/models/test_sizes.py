"""The estimated size of a training run: a table made by hand, and real small models."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tables import some, table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig

from lema.config import Attention, Config, Layout, Method, Precision, TrainConfig
from lema.models.huggingface import load_trainable
from lema.models.layout import Plan, planned
from lema.models.sizes import MARGIN, TrainingSize, available_memory, measured_peak, training_size
from lema.models.weights import Weights
from lema.types import UserError

# hidden, MLP, layers, heads, kv heads, vocabulary: the published config.json. Then, for LoRA of rank 64 and dropout
# 0.05 on bf16 weights, packed rows of 4,096 tokens, examples of 300 tokens on average: parameters, trained; FLOPs a
# token and what activation checkpointing adds; bytes of weights, of activations without and with checkpointing.
# Llama-2-7B by hand: 32 layers x (4 x 4096^2 + 3 x 4096 x 11008) = 6,476,005,376 in linear layers, + 32000 x 4096 in
# the head: N = 6,607,077,376; + 32000 x 4096 in the embedding and 65 x 4096 in norms.
#   trained: 32 x 64 x (4 x 8192 + 3 x 15104) = 159,907,840
#   FLOPs: attention 2 x 32 x 4096 x 300 = 78,643,200; 4 N + 6 x trained + 3 x attention; again: 2 N + attention
#   weights: 2 x 6,738,415,616 + 18 x 159,907,840
#   a layer and token: norms 8 x 4096, attention 8 x 4096, MLP 6 x 11008, linear inputs 3 x (6 x 4096 + 11008), rank
#   14 x 64: 239,488 bytes; x 32 layers, + 12 x 32000 of logits = 8,047,616; x 4,096 tokens
#   checkpointed: inputs 32 x 2 x 4096 + one layer's 239,488 + 384,000 = 885,632; x 4,096 tokens
TABLE = {key: tuple(values) for key, *values in table(__file__, "table")}
# The same six, and parameters, where the head is the embedding. SmolLM2-135M: 30 layers x (2 x 576^2 + 2 x 576 x 192
# + 3 x 576 x 1536) + 49152 x 576 + 61 x 576.
TIED = {
    "smollm2 135m": (576, 1536, 30, 9, 3, 49152, 134_515_008),
    "smollm2 360m": (960, 2560, 32, 15, 5, 49152, 361_821_120),
    "smollm2 1.7b": (2048, 8192, 24, 32, 32, 49152, 1_711_376_384),
}
# Of one shape with another, down to the vocabulary.
SAME = {"metamath 7b": "wizardmath 7b", "metamath 13b": "wizardmath 13b", "metamath 70b": "llama2 70b"}
SAME |= {f"{name}-instruct": name for name in TIED}

# Bytes of weights, of activations without and with checkpointing, and FLOPs a token, for other methods.
# QLoRA holds 4.127 bits a quantised parameter, 4 bytes of each other one; its MLP and layer inputs are 32-bit. The 70B:
#   0.515875 x 68,451,041,280 + 4 x 525,606,912 + 18 x 828,375,040; a layer and token: 8 x 8192 + 4 x (8192 + 1024)
#   + 12 x 28672 + 896 + 3 x (6 x 8192 + 28672) = 680,832; x 80 + 384,000 = 54,850,560; x 4,096
#   checkpointed: (80 x 4 x 8192 + 680,832 + 384,000) x 4,096
# Full is 18 bytes a parameter: weight, gradient, two moments, bf16 copy; a layer and token of the 7B: 16 x 4096
#   + 8 x 4096 + 6 x 11008 + 2 x (6 x 4096 + 11008) = 235,520; x 32 + 384,000 = 7,920,640; x 4,096
#   checkpointed: (32 x 4 x 4096 + 235,520 + 384,000) x 4,096; FLOPs: 6 N + 3 x attention
OTHERS = {
    ("llama2 7b", Method.full): (121_291_481_088, 32_442_941_440, 4_685_037_568, 39_878_393_856),
    ("llama2 70b", Method.qlora): (52_325_359_288.32, 224_667_893_760, 15_098_970_112, 281_002_639_360),
}


def architecture(name: str) -> LlamaConfig | MistralConfig:
    """The config of a row of the table."""
    hidden, mlp, layers, heads, kv_heads, vocabulary, *_ = {**TABLE, **TIED}[name]
    kind = MistralConfig if name.startswith("mistral") else LlamaConfig
    size: dict[str, Any] = {"hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers}
    size |= {"vocab_size": vocabulary, "num_attention_heads": heads}
    return kind(**size, num_key_value_heads=kv_heads, tie_word_embeddings=name in TIED)


@pytest.fixture(scope="module")
def train(make_config: Callable[..., Config]) -> TrainConfig:
    """LoRA as the table has it."""
    config = make_config("backbone=llama2", "train=lora", "task=gsm8k", "train.row_tokens=4096", "train.lora_rank=64")
    return replace(config.train, lora_dropout=0.05, batch_size=96)


@pytest.fixture(scope="module")
def llama_7b(train: TrainConfig) -> TrainingSize:
    """LLaMA-2-7B for 1,000 steps of 96 examples of 270 tokens."""
    return training_size(architecture("llama2 7b"), train, Precision.bf16, 270, 1000)


@pytest.mark.parametrize("name", some(TABLE, 4))
def test_a_real_backbone_takes_what_was_worked_out_by_hand(name: str, train: TrainConfig) -> None:
    found = training_size(architecture(name), train, Precision.bf16, 300, 2000)
    counts = (found.parameters, found.trained, found.flops, found.flops_again)
    assert (*counts, found.weight_bytes, found.activation_bytes, found.checkpointed_bytes) == TABLE[name][6:]
    assert found.tokens == 2000 * 96 * 300


@pytest.mark.parametrize(("name", "method"), OTHERS)
def test_every_method_takes_what_was_worked_out_by_hand(name: str, method: Method, train: TrainConfig) -> None:
    train = replace(train, method=method)
    if method is Method.full:
        train = replace(train, lora_rank=0, lora_dropout=0.0)
    found = training_size(architecture(name), train, Precision.bf16, 300, 1)
    assert found.parameters == TABLE[name][6]
    assert found.trained == TABLE[name][6 if method is Method.full else 7]
    bytes_ = (found.weight_bytes, found.activation_bytes, found.checkpointed_bytes)
    assert (*bytes_, found.flops) == pytest.approx(OTHERS[name, method], rel=1e-12)


def test_every_size_on_offer_is_in_the_table_with_its_parameters(root: Path) -> None:
    offered = {
        f"{path.stem} {size}": values.parameters
        for path in (root / "conf/backbone").glob("*.yaml")
        for size, values in OmegaConf.load(path).backbone.sizes.items()
        if size != "own"
    }
    shapes = {**TABLE, **TIED}
    assert offered == {name: shapes[SAME.get(name, name)][6] for name in [*shapes, *SAME]}


@pytest.mark.parametrize("name", TIED)
def test_a_head_that_is_the_embedding_counts_once(name: str, train: TrainConfig) -> None:
    assert training_size(architecture(name), train, Precision.bf16, 300, 1).parameters == TIED[name][6]


def test_a_padded_batch_takes_the_memory_of_its_longest(train: TrainConfig, llama_7b: TrainingSize) -> None:
    lengths = {"micro_batch_size": 4, "max_source_tokens": 256, "max_target_tokens": 768}
    padded = replace(train, batches="padded", **lengths)  # 4 x (256 + 768) tokens, as many as in a packed row
    found = training_size(architecture("llama2 7b"), padded, Precision.bf16, None, 1000)
    assert found.activation_bytes == llama_7b.activation_bytes
    assert found.at_most
    assert found.tokens == 1000 * 96 * 1024


def test_checkpointing_is_needed_where_memory_is_short(llama_7b: TrainingSize) -> None:
    assert 48e9 < llama_7b.memory(checkpointing=False) < 80e9
    assert llama_7b.memory(checkpointing=True) == pytest.approx(1.1 * (16_355_172_352 + 3_626_500_096))


# Of a rank of a sharded 70B, by hand. A block has 2 x 8192^2 + 2 x 8192 x 1024 + 3 x 8192 x 28672 + 2 x 8192 =
# 855,654,400 weights, and LoRA's 828,375,040 / 80; outside the blocks are 2 x 32000 x 8192 + 8192 = 524,296,192.
#   LoRA: 2 x 524,296,192 + 2 x (2 x 855,654,400 + 8 x 10,354,688) = 4,636,884,992
#   full: 8 x (524,296,192 + 2 x 855,654,400) = 17,884,839,936
GATHERED = {Method.lora: 4_636_884_992, Method.full: 17_884_839_936}
QLORA = {"method": Method.qlora, "optimizer": "paged_adamw_32bit"}
ANY: Any = None
FULL = {"method": Method.full, "lora_rank": 0, "lora_dropout": 0.0}


LAID_OUT = [
    (QLORA, 1, Plan(ANY, 1, False, True)),  # 1.1 x (52.3 + 15.1) GB
    (QLORA, 4, Plan(ANY, 4, False, True)),
    ({}, 4, Plan(ANY, 4, True, True)),  # 1.1 x (152.9 / 4 + 4.6 + 9.0) GB
    ({}, 16, Plan(ANY, 16, True, True)),  # 184 GB without checkpointing
    ({"layout": Layout.replicated}, 4, "each of 4 ranks, which has 80 GB: train=qlora, or 3 GPUs like this one"),
    ({}, 1, "training holds 153 GB of weights on one GPU, which has 80 GB: train=qlora, or 3 GPUs like this one"),
    ({"optimizer": "paged_adamw_32bit"}, 4, "train=qlora, or 3 GPUs like this one with train.optimizer=adamw_tor"),
    (FULL, 4, "holds 310 GB of weights on each of 4 ranks, which has 80 GB: train=lora, or 31 GPUs like this one"),
    (FULL, 31, Plan(ANY, 31, True, True)),
    (FULL | {"optimizer": "paged_adamw_32bit"}, 4, "holds 690 GB of weights on each of 4 ranks"),
    (QLORA | {"layout": Layout.sharded}, 4, "4-bit weights cannot be sharded: train=lora"),
    ({"optimizer": "lion_8bit", "layout": Layout.sharded}, 4, "train.optimizer=lion_8bit cannot be sharded"),
    ({"layout": Layout.sharded}, 1, "there is one rank: train.processes=2"),
]


@pytest.mark.parametrize(
    ("changed", "cards", "expected"),
    some(LAID_OUT, 4),
)
def test_a_training_of_70b_is_laid_out_over_cards_of_80_gb(changed, cards, expected, train: TrainConfig) -> None:
    config = replace(train, **changed)
    size = training_size(architecture("llama2 70b"), config, Precision.bf16, 300, 2000)
    assert size.gathered_bytes == GATHERED.get(config.method, size.gathered_bytes)
    if isinstance(expected, Plan):
        assert planned(size, config, cards, 80e9) == replace(expected, size=size)
        return
    with pytest.raises(UserError) as refused:
        planned(size, config, cards, 80e9)
    assert expected in str(refused.value)


def test_a_training_that_fits_is_replicated(train: TrainConfig, llama_7b: TrainingSize) -> None:
    assert planned(llama_7b, train, 4, 80e9) == Plan(llama_7b, 4, False, False)
    assert planned(llama_7b, train, 4, 40e9) == Plan(llama_7b, 4, False, True)
    assert planned(llama_7b, train, 4, 20e9) == Plan(llama_7b, 4, True, True)
    assert planned(llama_7b, replace(train, layout=Layout.sharded), 4, 80e9) == Plan(llama_7b, 4, True, False)


def test_the_size_of_a_training_is_one_line(llama_7b: TrainingSize) -> None:
    # 25.92 million tokens x 27.60 GFLOP / (0.4 x 800 TFLOP/s) = 2,236 s
    assert llama_7b.words(800e12, checkpointing=False) == (
        "6.74 G parameters, 160 M trained; 54.2 GB of memory without activation checkpointing; "
        "25.9 M tokens at 27.6 GFLOP each, 0:37:16 at 40% of 800 TFLOP/s"
    )
    assert "22 GB of memory with activation checkpointing" in llama_7b.words(800e12, checkpointing=True)
    assert llama_7b.seconds(800e12, checkpointing=True) == pytest.approx(3312, abs=1)  # 40.88 GFLOP a token


def test_the_machine_is_measured() -> None:
    assert 1e8 < measured_peak(Precision.fp32) < 1e13
    assert available_memory() > 1e8


SMALL = LlamaConfig(
    hidden_size=128,
    intermediate_size=320,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=384,
    tie_word_embeddings=False,
)


@pytest.fixture
def load_small(tmp_path: Path, make_config: Callable[..., Config], train: TrainConfig) -> Callable[..., Any]:
    """`load_small(method, checkpointing)`: a small model as training loads it for bf16, and its config."""

    def load(method: Method, checkpointing: bool) -> tuple[Any, TrainConfig]:
        LlamaForCausalLM(SMALL).save_pretrained(tmp_path)
        rank = 0 if method is Method.full else 8
        config = replace(train, method=method, lora_rank=rank, lora_dropout=0.0, row_tokens=256)
        backbone = replace(make_config("backbone=llama2", "task=gsm8k").backbone, attention=Attention.sdpa)
        return load_trainable(
            Weights("small", str(tmp_path), None, ""), backbone.computation, config, 0, checkpointing
        ), config

    return load


@pytest.mark.parametrize("method", Method)
def test_the_loaded_model_is_as_large_as_estimated(method: Method, load_small: Callable[..., Any]) -> None:
    model, config = load_small(method, checkpointing=False)
    found = training_size(SMALL, config, Precision.bf16, None, 1)
    trained = [part for part in model.parameters() if part.requires_grad]
    assert found.trained == sum(part.numel() for part in trained)
    frozen = sum(part.nbytes for part in model.parameters() if not part.requires_grad)
    # The scales of quantised blocks are no parameters: 0.127 of 4.127 bits.
    assert found.weight_bytes - 18 * found.trained == pytest.approx(frozen, rel=0.02)


class Storages(TorchDispatchMode):
    """The most bytes that storages made under it held at once."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.live, self.now, self.peak = {tensor.untyped_storage()._cdata: 0 for tensor in known}, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.live:
                storage = tensor.untyped_storage()
                self.live[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata)
        self.peak = max(self.peak, self.now)
        return made

    def _free(self, key: int) -> None:
        self.now -= self.live.pop(key)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", Method)
def test_a_real_step_takes_the_memory_estimated(
    method: Method, checkpointing: bool, load_small: Callable[..., Any]
) -> None:
    model, config = load_small(method, checkpointing)
    found = training_size(SMALL, config, Precision.bf16, None, 1)
    model.train()
    for part in model.parameters():
        part.grad = torch.zeros_like(part) if part.requires_grad else None
    ids = torch.arange(256)[None]
    known = [tensor for part in model.parameters() for tensor in (part, part.grad) if tensor is not None]
    with Storages(known) as storages:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
    state = found.weight_bytes - 2 * found.trained  # all but the bf16 copies, which the step makes
    step = found.memory(checkpointing) / MARGIN - state
    # Checkpointing full takes least: its bf16 copies, most of this small step, are gone when the backward pass peaks.
    low = 0.65 if checkpointing else 0.97
    assert low < storages.peak / step < 1.03
