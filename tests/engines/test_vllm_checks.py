"""What must hold of a server before its answers count, each promise broken by a server that speaks vLLM's protocol."""

import json
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small import ROOT

from lema.config import Precision
from lema.engines.vllm import Base, _command, _rank, checks
from lema.engines.vllm.found import OWN
from lema.engines.vllm.process import Server
from lema.models import adapters, sizes
from lema.models.weights import Weights
from lema.types import UserError


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    """`start("second BOS")`: a server with this fault."""
    servers: list[Server] = []

    def started(fault: str) -> Server:
        command = [sys.executable, str(ROOT / "tests/doubles/wrong_vllm.py"), fault, "serve", "m"]
        servers.append(Server([*command, "--served-model-name", "base"], {}, tmp_path / "vllm.log"))
        return servers[-1]

    yield started
    for server in servers:
        server.stop()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("none", None),
        ("another model", "another answers in the place of base"),
        ("second BOS", r"the model sees other prompts than are sent \(4 tokens where 3 were sent\)"),
        ("not greedy", "greedy answers to one prompt differ in 3 tries"),
        ("generation_config.json", "the model's own generation settings .* shape its answers"),
        ("adapter without effect", "the adapter tuned has no effect"),
        ("noise", None),
    ],
)
def test_a_broken_promise_is_one_line(start, fault: str, words: str | None) -> None:
    def check() -> None:
        server = start(fault)
        checks.check(server, "base", [5, 6, 7])
        checks.check_adapter(server, "base", "tuned", [5, 6, 7])

    if words is None:
        check()
        return
    with pytest.raises(UserError, match=rf"^vLLM: {words}.*engine=transformers$"):
        check()


def adapter(folder: Path, rank: int = 8, more: dict[str, Any] | None = None, b: float = 1.0) -> Path:
    """An adapter's folder."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "base_model_name_or_path": str(folder)}))
    matrices = {"base.q.lora_A.weight": torch.ones(rank, 4), "base.q.lora_B.weight": torch.full((4, rank), b)}
    save_file(matrices | (more or {}), folder / "adapter_model.safetensors")
    return folder


def test_an_adapter_is_known_by_what_it_does_and_needs_room_for_its_rank(tmp_path: Path) -> None:
    first, same = adapter(tmp_path / "a"), adapter(tmp_path / "b")
    assert adapters.content(first) == adapters.content(same)
    assert adapters.content(first) != adapters.content(zero := adapter(tmp_path / "zero", b=0.0))
    assert (adapters.is_zero(first), adapters.is_zero(zero)) == (False, True)
    assert [_rank(None), _rank(first), _rank(adapter(tmp_path / "33", 33))] == [0, 8, 64]


@pytest.mark.parametrize(
    ("rank", "more", "words"),
    [
        (513, {}, "its rank is 513, and vLLM has room for 512 at most"),
        (
            8,
            {"base.embed_tokens.weight": torch.ones(4, 4)},
            "it holds base.embed_tokens.weight whole, which",
        ),
    ],
)
def test_an_adapter_that_vllm_cannot_serve_is_to_be_merged(tmp_path: Path, rank: int, more: dict, words: str) -> None:
    with pytest.raises(UserError, match=f"{words}.*: merge it, train.merge=original selection=last, or engine=transf"):
        _rank(adapter(tmp_path / "a", rank, more))


def test_on_several_gpus_one_api_server_hands_adapters_to_all_copies(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default vLLM has one for each copy, and then refuses adapters at run time."""
    monkeypatch.setattr(sizes, "visible_gpus", lambda: 4)
    settings = make_config("engine=vllm", "engine.tensor_parallel=2").engine
    weights = Weights("m", "m", None, "")
    command = _command(Base(settings, weights, Precision.bf16, False), weights, 64, 8)
    said = dict(pairwise(command))
    assert (said["--data-parallel-size"], said["--api-server-count"]) == ("2", "1")
    assert {name.removeprefix("--") for name in command if name.startswith("--")} <= OWN
