"""Before anything is downloaded, sent or paid: all that is missing in one message, through the front door."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hub_server
import pytest
import torch
from tables import some, table

from lema import pipeline, preflight
from lema.artifacts import Store
from lema.cell import Cell
from lema.config import Method
from lema.preflight import hardware
from lema.preflight.hardware import MemoryNeed
from lema.types import UserError


def test_a_real_cell_names_everything_it_lacks_at_once(run_cli) -> None:
    finished = run_cli("backbone=mistral", "task=math", "engine=transformers")
    assert finished.returncode != 0
    assert "Traceback" not in finished.stderr
    lines = [line.strip() for line in finished.stderr.splitlines() if line.startswith("  - ")]
    assert [line.split(":")[0] for line in lines] == [
        *("- dataset", "- model", "- GPU", "- model", "- GPU", "- key", "- budget"),
    ]
    for name in (
        *("task.dataset.path=", "sampler.models.wizardmath_7b.weights.path=", "backbone.path=", "OPENAI_API_KEY"),
        "budget_usd=",
    ):
        assert name in finished.stderr
    assert "HF_HUB_OFFLINE is set" in finished.stderr


NEEDS = [
    (["backbone=llama2", "mix=cot"], {"- model", "- GPU", "- engine", "- key", "- budget"}),
    (["corrector=gpt4"], {"- key", "- budget"}),
    (["backbone=llama2", "mix=cot", "rationales=none"], {"- model", "- GPU", "- engine"}),
    (["backbone=llama2", "engine=transformers", "experiment=no_api"], {"- model", "- GPU"}),
]


@pytest.mark.parametrize(
    ("overrides", "names"),
    some(NEEDS, 2),
)
def test_only_what_the_cell_needs_is_asked_for(run_cli, overrides: list[str], names: set[str]) -> None:
    finished = run_cli(*overrides)
    assert finished.returncode != 0
    assert {line.strip().split(":")[0] for line in finished.stderr.splitlines() if line.startswith("  - ")} == names


@pytest.mark.parametrize("mix", ["cot", "lema", "corrections"])
def test_csqa_says_that_it_has_no_rationales_where_they_are_asked_for(refused, tmp_path: Path, mix: str) -> None:
    question = {"stem": "Where?", "choices": [{"label": "A", "text": "bank"}, {"label": "B", "text": "mall"}]}
    for name in ("train", "dev"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"answerKey": "A", "question": question}) + "\n")
    # A folder that is no model, so that there is always something to refuse.
    lines = refused("task=csqa", f"task.dataset.path={tmp_path}", f"mix={mix}", f"backbone.path={tmp_path}")
    assert lines.pop().startswith("model: ")
    assert len(lines) == (mix != "corrections")
    for line in lines:
        assert line.startswith(f"rationales: csqa has no reference solutions, so mix={mix} would have no CoT examples;")
        assert line.endswith("task.dataset.solution=FIELD")


@pytest.mark.parametrize(("mix", "part", "refused"), table(__file__, "leaving out a part"))
def test_only_an_arm_with_corrections_can_leave_out_a_part_of_them(make_config, mix, part, refused) -> None:
    if not refused:
        assert make_config(f"mix={mix}", f"mix.without={part}").mix.without == part
        return
    line = f"mix.without={part}: mix={mix} has no corrections; mix=lema or mix.without=null"
    with pytest.raises(UserError) as raised:
        make_config(f"mix={mix}", f"mix.without={part}")
    assert str(raised.value) == line


def test_both_data_sets_of_a_task_that_has_two_are_looked_for(run_cli) -> None:
    finished = run_cli("task=svamp")
    lines = [line for line in finished.stderr.splitlines() if line.startswith("  - dataset")]
    assert [line.rpartition(" or ")[2] for line in lines] == [
        "task.dataset.path=FOLDER",
        "task.train_dataset.path=FOLDER",
    ]


def test_the_rows_of_a_further_test_are_looked_for_before_anything_is_made(refused, tmp_path: Path) -> None:
    row = {"question": "Tom has 5 apples and eats 2. How many?", "answer": "5 - 2 = 3\n#### 3"}
    for name in ("train", "test"):
        (tmp_path / "gsm8k").mkdir(exist_ok=True)
        (tmp_path / "gsm8k" / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    [line] = refused("task=gsm8k", f"task.dataset.path={tmp_path / 'gsm8k'}", "evaluation.tasks=[svamp]")
    beside = "dataset: evaluation.tasks: svamp is looked for beside the training rows"
    assert line == f"{beside}, {tmp_path / 'svamp' / 'test.jsonl'}: No such file or directory; put it there"
    lines = refused("task=gsm8k", "evaluation.tasks=[svamp,asdiv]")
    assert [line.split()[1] for line in lines] == ["openai/gsm8k", "ChilleD/SVAMP", "EleutherAI/asdiv"]
    assert all(line.endswith("or task.dataset.path=FOLDER") for line in lines)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A Hub that answers with the status set for the start of a path, else 200; yields those and what was asked.

    A status may have an error code: `(404, "EntryNotFound")`.
    """
    statuses: dict[str, int | tuple[int, str]] = {}
    for name, value in {"OFFLINE": "0", "ETAG_TIMEOUT": "10", "DISABLE_TELEMETRY": "1"}.items():
        monkeypatch.setenv(f"HF_HUB_{name}", value)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_tests")

    def answer(path: str) -> hub_server.Answer:
        status = next((status for start, status in statuses.items() if path.startswith(start)), 200)
        return (status[0], {"X-Error-Code": status[1]}, b"") if isinstance(status, tuple) else (status, {}, b"")

    with hub_server.hub(answer) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield statuses, asked


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


@pytest.mark.parametrize(("kind", "status", "said"), table(__file__, "what the Hub answers is told in its sense"))
def test_what_the_hub_answers_is_told_in_its_sense(hub, kind: str, status: Any, said: str | None) -> None:
    code = "import sys; from lema.preflight.hub import unreachable; print(*unreachable(*sys.argv[1:], None, 'x.path'))"
    hub[0]["/"] = tuple(status)
    found = subprocess.run([sys.executable, "-c", code, kind, "o/n"], capture_output=True, text=True, check=True).stdout
    assert found == (f"{kind}: o/n {said}, or x.path=FOLDER\n" if said else "\n")


def test_hub_that_is_not_reached_and_an_id_that_can_be_none(run_cli, hub, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    finished = run_cli("backbone=mistral", "task=gsm8k", "backbone.path=no/such/folder")
    assert "Traceback" not in finished.stderr
    dataset, model = [line for line in finished.stderr.splitlines() if line.startswith(("  - dataset", "  - model: b"))]
    assert "cannot be reached (" in dataset
    assert dataset.endswith("check the network, or task.dataset.path=FOLDER")
    assert model.startswith("  - model: backbone.path=no/such/folder: no such folder; name a folder")
    assert "billion" not in model


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


def local_model(folder: Path, billions: float) -> Path:
    """A model's folder that takes no room on the disk: its header names bf16 numbers, and none of them is written."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    size = int(billions * 1e9)
    header = json.dumps({"weight": {"dtype": "BF16", "shape": [size], "data_offsets": [0, 2 * size]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * size)
    return folder


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU lacks")
@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["backbone.attention=flash_attention_2", "backbone.precision=bf16"], ["package", "GPU"]),
        (["backbone.attention=flash_attention_2"], ["package", "precision", "GPU"]),
    ],
)
def test_attention_that_this_machine_cannot_compute(refused, overrides: list[str], lines: list[str]) -> None:
    found = refused(*overrides)
    assert [line.split(": ")[0] for line in found] == lines
    for line in found:
        assert f" {overrides[0]} " in line
        assert line.endswith("backbone.attention=" + ("sdpa" if line.startswith("precision") else "auto"))


def test_mistakes_of_another_model_need_own_ones_to_be_compared_with(refused) -> None:
    found = refused("mix=lema_random", "sampler=open", "sampler.models.wizardmath_7b.weights.path=nowhere")
    [line] = [line for line in found if line.startswith("mix: ")]
    assert line.startswith("mix: sampler=open makes mistakes that are another model's already: run mix=lema")


def test_a_file_of_another_models_mistakes_that_is_not_there_is_named_before_a_run(refused) -> None:
    recorded = ["sampler=self", "sampler/model@sampler.other=recorded", "sampler.other.recorded=nowhere.jsonl"]
    found = refused("backbone=mistral", "task=gsm8k", "mix=lema_random", *recorded)
    [line] = [line for line in found if line.startswith("recorded: ")]
    assert re.match(r"recorded: sampler\.other\.recorded=.*nowhere\.jsonl: no such file; ", line)


@pytest.mark.parametrize(("overrides", "line"), table(__file__, "what needs bitsandbytes asks for it"))
def test_what_needs_bitsandbytes_asks_for_it(refused, monkeypatch, overrides: list[str], line: str) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # not to be imported, as where it is not installed
    assert refused(*overrides) == ["package: " + line.format("pip install bitsandbytes")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU lacks")
@pytest.mark.parametrize(
    ("train", "needs"),
    [
        ("qlora", "4 GB of weights, 14 GB of weights to sample with"),
        ("lora", "14 GB of weights"),
        ("full", "14 GB of weights"),
    ],
)
def test_a_7b_backbone_without_a_gpu_is_one_line(refused, tmp_path: Path, train: str, needs: str) -> None:
    folder = local_model(tmp_path / "7b", 7.24)
    others = ("sampler=self", "corrector=reference", "rationales=none", "engine=transformers")
    [line] = refused("backbone=mistral", f"backbone.path={folder}", f"train={train}", *others)
    assert line.startswith(f"GPU: {folder} has 7.2 billion parameters, {needs}, and this machine has no CUDA GPU, and ")
    assert line.endswith("GB of memory: run on a larger one, or choose a smaller backbone")


ANSWERED = {"train", "select", "evaluate"}


@pytest.mark.parametrize(
    ("overrides", "stages", "memory", "said"),
    [  # 10 billion parameters, memory in GB: what does not fit, and what then is the first remedy
        (["train=qlora"], ANSWERED, 6, None),
        (["train=qlora"], ANSWERED, 5, "5 GB of weights, run"),
        (["train=qlora"], ANSWERED | {"merge"}, 21, None),
        (["train=qlora"], ANSWERED | {"merge"}, 19, "20 GB of merged weights, train.merge=null"),
        (["train=qlora"], {"merge"}, 1, None),  # it goes block by block
        (["engine=vllm", "train=qlora", "engine.tensor_parallel=2"], ANSWERED | {"merge"}, 11, None),
        (["train=qlora"], ANSWERED | {"merge"}, 5, "5 GB of weights, 20 GB of merged weights, run"),
        (["train=qlora"], ANSWERED | {"merge", "sample"}, 19, "20 GB of weights to sample with, run"),
        (["train=qlora", "sampler=open"], ANSWERED | {"sample"}, 6, None),
        (
            ["train=qlora", "backbone.precision=fp32"],
            {"merge", "evaluate"},
            39,
            "40 GB of merged weights, train.merge=null",
        ),
        (["train=lora"], ANSWERED | {"merge", "sample"}, 21, None),
        (["train=lora"], ANSWERED | {"merge", "sample"}, 19, "20 GB of weights, run"),
        (["engine=vllm", "train=qlora"], {"train"}, 6, None),
        (["engine=vllm", "train=qlora"], ANSWERED, 19, "20 GB of weights to serve, a larger engine.tensor_parallel"),
        (["engine=vllm", "train=qlora", "engine.tensor_parallel=2"], ANSWERED | {"sample"}, 11, None),
        (["engine=vllm", "train=lora", "engine.tensor_parallel=2"], ANSWERED, 19, "20 GB of weights, run"),
        (["train=full"], ANSWERED, 21, None),
        (["train=full"], {"evaluate"}, 19, "20 GB of weights, run"),
    ],
)
def test_each_form_of_the_backbone_must_fit_on_the_gpu(make_config, overrides, stages, memory, said) -> None:
    config = make_config("backbone=mistral", "sampler=self", "engine=transformers", *overrides)
    held = hardware.held(config, stages, False)
    lines = list(hardware.too_large("backbone", "org/model", 10**10, held, True, memory * 10**9))
    if said is None:
        assert not lines
        return
    [line] = lines
    assert config.train.method is Method.qlora or not hardware.held(config, {"train"}, True), "the layout says it"
    needs, remedy = said.rsplit(", ", 1)
    assert line.startswith(
        f"GPU: org/model has 10.0 billion parameters, {needs}, and this machine has a GPU of {memory} GB: {remedy}"
    )
    assert line.endswith("run on a larger one, or choose a smaller backbone")


def test_a_folder_without_a_size_of_its_own_has_no_other_models(make_config, tmp_path: Path) -> None:
    published = make_config("backbone=mistral").backbone
    assert hardware.parameters(published) == 7_241_732_096
    for path in (str(tmp_path), "org/another"):
        other = make_config("backbone=mistral", f"backbone.path={path}").backbone
        assert hardware.parameters(other) == 0
    other = make_config("backbone=mistral", f"backbone.path={local_model(tmp_path, 0.4)}").backbone
    assert hardware.parameters(other) == 400_000_000


def test_a_model_of_another_size_does_not_bear_a_published_name(refused, tmp_path: Path) -> None:
    asked = ["backbone=mistral", "engine=transformers", "train=lora", "corrector=reference", "rationales=none"]
    for name, billions in (("mistral with chat tokens", 7.3), ("qwen 0.4b", 0.4)):
        folder = local_model(tmp_path / name, billions)
        lines = [each for each in refused(*asked, f"backbone.path={folder}") if "another model" in each]
    other = "has 400,000,000 parameters, and mistral has 7,241,732,096, so it is another model"
    own = ["backbone.name=qwen-0.4b", "backbone.size=own"]
    assert lines == [f"model: {folder} {other}: give it a name of its own, {' '.join(own)}"]
    assert "another model" not in " ".join(refused(*asked, *own, f"backbone.path={folder}"))


@pytest.mark.parametrize(("width", "fits"), [(2.0, True), (1e9, False)])
def test_a_small_model_must_fit_in_memory_too(width: float, fits: bool) -> None:
    lines = list(
        hardware.too_large("backbone", "org/small", 10_000_000, [MemoryNeed("of weights", width)], False, 10**9)
    )
    start = (
        "GPU: org/small has 0.0 billion parameters, 10000000 GB of weights, and this machine has no CUDA GPU, and 1 GB"
    )
    assert [line.startswith(start) for line in lines] == [True] * (not fits)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        *((["train=qlora"], ["model", "GPU", "disk"]), (["train=qlora", "train.merge=null"], ["model", "GPU"])),
        *((["train=qlora", "until=train"], ["model", "GPU"]), (["train=full"], ["model", "GPU"])),
    ],
)
def test_a_merged_model_needs_room_on_the_disk(refused, tmp_path: Path, overrides: list[str], names: list[str]) -> None:
    base = ("backbone=mistral", "engine=transformers", "backbone.precision=fp32", "mix=cot", "task=arithmetic")
    base += ("rationales=none",)
    lines = refused(*base, f"backbone.parameters={10**15}", *overrides)
    assert [line.split(":")[0] for line in lines] == names
    for line in lines[2:]:
        start = f"disk: the merged model takes 4000000 GB, and runs_dir={tmp_path / 'runs'} has "
        assert line.startswith(start)
        assert line.endswith(" GB free: free some, choose another folder with runs_dir=, or train.merge=null")


@pytest.mark.parametrize(("overrides", "lines"), table(__file__, "asking dev questions"))
def test_what_asks_dev_questions_where_none_are_held_out_is_refused_first(refused, overrides, lines) -> None:
    found = refused("task.num_dev=0", "train.save_steps=50", *overrides)
    assert [line.split()[1] for line in found] == lines
    for line in found:
        assert line.split(": ")[0] == "dev"
        assert line.endswith(", or hold questions out with task.num_dev=")
        assert (": selection=last" in line) == line.startswith("dev: selection=dev")


@pytest.mark.parametrize(
    "overrides", [["selection=last"], ["selection=paper"], ["train.max_steps=50"], ["until=mix"], ["task.num_dev=1"]]
)
def test_without_dev_questions_what_asks_none_goes_on(make_config, tmp_path: Path, overrides: list[str]) -> None:
    config = make_config("task.num_dev=0", "train.save_steps=50", *overrides)
    stages = list(pipeline.plan(Cell(config, Store(tmp_path))))
    reached = set(stages[: stages.index(config.until) + 1] if config.until else stages)
    assert not list(preflight.without_dev(config, reached))


@pytest.mark.parametrize(("capability", "lacks"), [((6, 1), True), ((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_bf16_on_a_card_without_it_is_one_line(capability: tuple[int, int], lacks: bool) -> None:
    card = "this GPU has compute capability {}.{}, bf16 needs 8.0 (an A100 or newer)".format(*capability)
    line = f"precision: backbone.precision=bf16, and {card}: backbone.precision=fp32"
    assert list(hardware.without_bf16("backbone", capability)) == [line] * lacks


def test_a_folder_that_is_no_model_is_one_line(refused, tmp_path: Path) -> None:
    (tmp_path / "no model").mkdir()
    [line] = refused(f"backbone.path={tmp_path / 'no model'}")
    holds = f"backbone.path={tmp_path / 'no model'} holds no config.json"
    assert line == f"model: {holds}: choose a model in Hugging Face format"


def test_a_model_must_be_somewhere(make_config, tmp_path: Path) -> None:
    config = make_config(
        "sampler=open",
        "sampler.models.wizardmath_7b.weights.hub_id=null",
        f"runs_dir={tmp_path / 'runs'}",
        "tracker=none",
    )
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
    some(table(__file__, "a damaged data set is named by file and line"), 3),
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
