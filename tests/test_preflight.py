"""Before anything is downloaded, sent or paid: all that is missing in one message, through the front door."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from lema import pipeline, preflight
from lema.models.weights import Weights
from lema.types import UserError


def test_a_real_cell_names_everything_it_lacks_at_once(run_cli) -> None:
    finished = run_cli("backbone=mistral", "task=math")
    assert finished.returncode != 0
    assert "Traceback" not in finished.stderr
    lines = [line.strip() for line in finished.stderr.splitlines() if line.startswith("  - ")]
    assert [line.split(":")[0] for line in lines] == [
        "- dataset",
        "- model",
        "- GPU",
        "- model",
        "- GPU",
        "- key",
        "- budget",
    ]
    for name in (
        "task.dataset.path=",
        "sampler.model.path=",
        "backbone.path=",
        "OPENAI_API_KEY",
        "corrector.budget_usd=",
    ):
        assert name in finished.stderr
    assert "HF_HUB_OFFLINE is set" in finished.stderr


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["corrector=gpt4"], {"- key", "- budget"}),
        (["backbone=llama2", "experiment=no_api"], {"- model", "- GPU"}),
        (["backbone=llama2", "mix=cot"], {"- model", "- GPU"}),
    ],
)
def test_only_what_the_cell_needs_is_asked_for(run_cli, overrides: list[str], names: set[str]) -> None:
    finished = run_cli(*overrides)
    assert finished.returncode != 0
    assert {line.strip().split(":")[0] for line in finished.stderr.splitlines() if line.startswith("  - ")} == names


@pytest.mark.parametrize("mix", ["cot", "lema"])
def test_csqa_says_that_it_has_no_rationales_before_anything_is_made(run_cli, tmp_path: Path, mix: str) -> None:
    question = {"stem": "Where?", "choices": [{"label": "A", "text": "bank"}, {"label": "B", "text": "mall"}]}
    for name in ("train", "dev"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"answerKey": "A", "question": question}) + "\n")
    finished = run_cli("backbone=tiny", "task=csqa", f"task.dataset.path={tmp_path}", f"mix={mix}")
    assert finished.returncode != 0
    assert "Traceback" not in finished.stderr
    [line] = [line for line in finished.stderr.splitlines() if line.startswith("  - ")]
    assert line.startswith(f"  - rationales: csqa has no reference solutions, so mix={mix} would have no CoT examples;")
    assert line.endswith("task.dataset.solution=FIELD")
    assert not [path for path in (tmp_path / "runs").glob("*") if path.name != "hydra"]


def test_both_data_sets_of_a_task_that_has_two_are_looked_for(run_cli) -> None:
    finished = run_cli("task=svamp")
    lines = [line for line in finished.stderr.splitlines() if line.startswith("  - dataset")]
    assert [line.rpartition(" or ")[2] for line in lines] == [
        "task.dataset.path=FOLDER",
        "task.train_dataset.path=FOLDER",
    ]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A Hub that answers with the status set for the start of a path, else 200; yields those and what was asked."""
    statuses: dict[str, int] = {}
    asked: list[tuple[str, str | None]] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(next((status for start, status in statuses.items() if self.path.startswith(start)), 200))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {"OFFLINE": "0", "ETAG_TIMEOUT": "10", "DISABLE_TELEMETRY": "1"}.items():
        monkeypatch.setenv(f"HF_HUB_{name}", value)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_tests")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield statuses, asked
    server.shutdown()
    server.server_close()


def test_what_the_hub_refuses_is_told_from_what_it_does_not_have(run_cli, hub) -> None:
    statuses, asked = hub
    statuses |= {"/datasets/": 404, "/mistralai/": 401}
    lines = run_cli("backbone=mistral", "task=math").stderr.splitlines()
    found = [line for line in lines if line.startswith(("  - dataset", "  - model"))]
    assert len(found) == 2, "the sampler's model, which is there, is not among them"
    assert "is not on the Hub (HTTP 404): check the id and the revision, or task.dataset.path=FOLDER" in found[0]
    assert "is refused by the Hub (HTTP 401): accept its licence" in found[1]
    assert found[1].endswith("hf auth login (or set HF_TOKEN), or backbone.path=FOLDER")
    assert len(asked) == 3
    assert {token for _, token in asked} == {"Bearer hf_of_the_tests"}
    assert all(path.endswith(("/README.md", "/config.json")) for path, _ in asked), "files, for pages are public"


def test_hub_that_is_not_reached_and_an_id_that_can_be_none(run_cli, hub, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    finished = run_cli("backbone=mistral", "task=gsm8k", "backbone.path=no/such/folder")
    assert "Traceback" not in finished.stderr
    dataset, model = [
        line for line in finished.stderr.splitlines() if line.startswith(("  - dataset", "  - model: no"))
    ]
    assert "cannot be reached (" in dataset
    assert dataset.endswith("check the network, or task.dataset.path=FOLDER")
    assert model.endswith("neither a folder nor the id of a repository on the Hub: correct it, or backbone.path=FOLDER")


@pytest.fixture
def refused(make_config, tmp_path: Path) -> Callable[..., list[str]]:
    """`refused("train=qlora")`: what that command lacks, a line each; nothing is made."""

    def run(*overrides: str) -> list[str]:
        config = make_config(*overrides, f"runs_dir={tmp_path / 'runs'}", "tracker=none")
        with pytest.raises(UserError) as raised:
            pipeline.run(config, [])
        assert not [path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]
        return str(raised.value).split("\n  - ")[1:]

    return run


def local_model(folder: Path, billions: float, name: str = "model.safetensors") -> Path:
    """A model's folder, two bytes a parameter, that takes no room on the disk."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    with (folder / name).open("wb") as file:
        file.truncate(int(billions * 2e9))
    return folder


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU lacks")
@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["backbone.attention=flash_attention_2", "backbone.precision=bf16"], ["package", "GPU"]),
        (["backbone.attention=flash_attention_2"], ["package", "precision", "GPU"]),
        (["backbone.attention=varlen", "backbone.precision=bf16"], ["GPU"]),
        (["backbone.attention=varlen"], ["precision", "GPU"]),
    ],
)
def test_attention_that_this_machine_cannot_compute(refused, overrides: list[str], lines: list[str]) -> None:
    found = refused(*overrides)
    assert [line.split(": ")[0] for line in found] == lines
    for line in found:
        assert f" {overrides[0]} " in line
        assert line.endswith("backbone.attention=" + ("sdpa" if line.startswith("precision") else "auto"))


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["train.method=qlora", "train.lora_rank=8"], "train.method=qlora needs bitsandbytes: {}, or train=lora"),
        (
            ["train.optimizer=paged_adamw_8bit"],
            "train.optimizer=paged_adamw_8bit needs bitsandbytes: {}, or train.optimizer=adamw_torch",
        ),
    ],
)
def test_what_needs_bitsandbytes_asks_for_it(refused, monkeypatch, overrides: list[str], line: str) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # not to be imported, as where it is not installed
    assert refused(*overrides) == ["package: " + line.format("pip install bitsandbytes")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU lacks")
@pytest.mark.parametrize("train", ["qlora", "lora"])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_7b_backbone_without_a_gpu_is_one_line(refused, tmp_path: Path, train: str, name: str) -> None:
    folder = local_model(tmp_path / "7b", 7.24, name)
    others = ("sampler=self", "corrector=reference")
    [line] = refused("backbone=mistral", f"backbone.path={folder}", f"train={train}", *others)
    weights = {"qlora": 4, "lora": 14}[train]
    start = f"GPU: {folder} has 7.2 billion parameters, {weights} GB of weights, and this machine has no CUDA GPU"
    assert line.startswith(start)
    assert line.endswith("GB of memory: run on a larger one, or choose a smaller backbone")


def test_weights_in_both_forms_are_counted_once(tmp_path: Path) -> None:
    folder = local_model(tmp_path / "both", 0.4)
    local_model(folder, 0.4, "pytorch_model.bin")
    assert not list(preflight._too_large("backbone", Weights("both", str(folder), None, ""), None, 2.0))


def test_a_small_model_must_fit_in_memory_too() -> None:
    small = Weights("small", "org/small", None, "")
    assert not list(preflight._too_large("backbone", small, 10_000_000, 2.0))
    [line] = preflight._too_large("backbone", small, 10_000_000, 1e9)
    assert line.startswith("GPU: org/small has 0.0 billion parameters, 10000000 GB of weights, and this machine has ")


@pytest.mark.parametrize(("capability", "lacks"), [((6, 1), True), ((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_bf16_on_a_card_without_it_is_one_line(capability: tuple[int, int], lacks: bool) -> None:
    card = "this GPU has compute capability {}.{}, bf16 needs 8.0 (an A100 or newer)".format(*capability)
    line = f"precision: backbone.precision=bf16, and {card}: backbone.precision=fp32"
    assert list(preflight._without_bf16("backbone", capability)) == [line] * lacks


def test_a_folder_that_is_no_model_is_one_line(refused, tmp_path: Path) -> None:
    (tmp_path / "no model").mkdir()
    [line] = refused(f"backbone.path={tmp_path / 'no model'}")
    holds = f"backbone.path={tmp_path / 'no model'} holds no config.json"
    assert line == f"model: {holds}: choose a model in Hugging Face format"


def test_a_model_must_be_somewhere(make_config, tmp_path: Path) -> None:
    config = make_config("sampler=open", "sampler.model.hub_id=null", f"runs_dir={tmp_path / 'runs'}", "tracker=none")
    with pytest.raises(UserError, match="has neither a path nor a hub_id: set one, path=FOLDER or hub_id=ORG/NAME"):
        pipeline.run(config, [])


def test_runs_folder_that_cannot_be_written(run_cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for arguments in ([], ["sweeps=demo"]):
        finished = run_cli(*arguments, f"runs_dir={tmp_path / 'file' / 'runs'}")
        assert finished.returncode != 0
        assert "Traceback" not in finished.stderr
        assert "cannot be written" in finished.stderr
        assert "runs_dir=" in finished.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, None, "task.dataset.path="),
        ("test.jsonl", None, "train.jsonl"),
        ("train.jsonl", "", "train.jsonl line 1"),
        ("train.jsonl", '{"question": "Q", "answer": "A #### 1"}\n{"question": "Q2", "ans', "train.jsonl line 2"),
        ("train.jsonl", '{"question": "Q", "answer": "no mark"}\n', "train.jsonl line 1, field 'answer'"),
    ],
    ids=["missing", "no file", "empty", "truncated", "no answer"],
)
def test_a_damaged_data_set_is_named_by_file_and_line(run_cli, tmp_path, name, content, message) -> None:
    folder = tmp_path / "data"
    if name:
        folder.mkdir()
        (folder / "test.jsonl").write_text('{"question": "Q", "answer": "A #### 1"}\n')
        if content is not None:
            (folder / name).write_text(content)
    finished = run_cli("task=gsm8k", f"task.dataset.path={folder}")
    assert finished.returncode != 0
    assert "Traceback" not in finished.stderr
    assert message in finished.stderr
