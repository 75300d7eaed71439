"""Configuration through the front door: what composes, what wins, what is refused and in which words."""

import copy
import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from small import ROOT
from tables import some, table

from lema.compose import to_config
from lema.config import Config, CorrectionMethod, Grader, Method, Optimizer, Schedule, SourceKind, further_tests
from lema.config.allowed import Name, Range, refused, rule
from lema.grading.official import VERDICTS
from lema.identity import digest, identity
from lema.types import UserError

WITHOUT_EFFECT = (
    "runs_dir do until only report power compare results audit clean retry_failed budget_usd prices tracker".split()
)
WITHOUT_EFFECT += "train.resume_checkpoints train.compile train.layout train.processes train.grace_seconds".split()
WITHOUT_EFFECT += "backbone.sizes evaluation.tasks evaluation.learnt".split()
WITHOUT_EFFECT += "engine.batch_tokens engine.command engine.tensor_parallel engine.memory_share".split()
WITHOUT_EFFECT += "sampler.file sampler.model sampler.base_url".split()
WITHOUT_EFFECT_ON_TEXTS = (
    "base_url input_usd output_usd max_concurrent_requests max_requests_per_minute max_tokens_per_minute max_retries "
    "request_timeout max_wait"
).split()


# conf/api/server.yaml is chosen by the files of the groups that ask a server.
GROUP_FILES = sorted(file for file in (ROOT / "conf").glob("*/*.yaml") if file != ROOT / "conf/api/server.yaml")
MODEL_FILES = sorted((ROOT / "conf/sampler/model").glob("*.yaml"))
# What nobody but the user can know.
ASKED = {"recorded": "recorded=FILE", "server": "api.model=NAME"}
BACKBONES = sorted(file.stem for file in (ROOT / "conf/backbone").glob("*.yaml"))
REAL = [name for name in BACKBONES if name not in ("tiny", "smollm2")]  # over common/published.yaml
OFFERED = {name: OmegaConf.load(ROOT / f"conf/backbone/{name}.yaml").backbone.sizes for name in [*REAL, "smollm2"]}
SIZES = [(name, size) for name, sizes in OFFERED.items() for size in sizes if size != "own"]
TASKS = sorted(file.stem for file in (ROOT / "conf/task").glob("*.yaml"))
MIXES = sorted(file.stem for file in (ROOT / "conf/mix").glob("*.yaml"))
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
# Packages that take seconds to import, and that nobody needs for a typo, a plan or a TAB.
HEAVY = {"torch", "transformers", "datasets", "openai", "wandb", "peft", "accelerate", "bitsandbytes", "numpy"}


def commands() -> list[str]:
    """Every `python run.py ...` that a configuration file gives in its comments."""
    files = [ROOT / "conf/config.yaml", *GROUP_FILES, *SWEEPS]
    found = [re.findall(r"^#\s*python run\.py((?: [\w./-]+=\S+)*)", file.read_text(), re.MULTILINE) for file in files]
    return sorted({command.strip() for file in found for command in file})


def cells(compose_tree, *arguments: str) -> list[list[str]]:
    """The command line of each cell, expanded by Hydra's own sweeper."""
    chosen = [argument for argument in arguments if argument.startswith("sweeps=")]
    params = compose_tree(*chosen).hydra.sweeper.params or {}
    overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    overrides += OverridesParser.create().parse_overrides(list(arguments))
    return BasicSweeper.split_arguments(overrides, None)[0]


def assert_complete(config: Config) -> None:
    text = json.dumps(dataclasses.asdict(config), default=str)
    assert "???" not in text
    assert "${" not in text


@pytest.mark.parametrize("file", GROUP_FILES, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_every_file_composes(make_config, file):
    choice = f"{file.parent.name}={file.stem}"
    asked = {"sampler=recorded": ["sampler.file=FILE"], "sampler=server": ["sampler.model=NAME"]}.get(choice, [])
    assert_complete(make_config(choice, *asked))


@pytest.mark.parametrize("file", MODEL_FILES, ids=lambda file: file.stem)
def test_every_model_can_be_added_to_a_sampler(make_config, file):
    asked = [f"sampler.models.mine.{ASKED[file.stem]}"] if file.stem in ASKED else []
    config = make_config(f"+sampler/model@sampler.models.mine={file.stem}", *asked)
    assert_complete(config)
    assert list(config.sampler.models) == ["self", "mine"]


@pytest.mark.parametrize(("name", "key"), {"recorded": "file", "server": "model"}.items())
def test_what_nobody_but_the_user_can_know_must_be_set(make_config, name, key):
    with pytest.raises(UserError, match=rf"^sampler\.{key}: must be set"):
        make_config(f"sampler={name}")


def test_no_file_lies_outside_a_group():
    shared = [ROOT / f"conf/{name}.yaml" for name in ("api/server", "backbone/common/published")]
    shared += [*(ROOT / "conf/corrector/model").glob("*.yaml"), ROOT / "conf/hydra/launcher/slurm.yaml"]
    others = {*MODEL_FILES, *shared, ROOT / "conf/task/dataset/gsm8k.yaml"}
    assert set((ROOT / "conf").rglob("*.yaml")) == {ROOT / "conf/config.yaml", *GROUP_FILES, *others}


@pytest.mark.slow
@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_cell_of_every_sweep_composes_under_the_sweeps_name(make_config, compose_tree, file):
    lines, keys = cells(compose_tree, f"sweeps={file.stem}"), set()
    for cell in lines:
        config = make_config(*cell)
        assert_complete(config)
        assert config.tracker.group == file.stem
        keys.add(digest(identity(config)))
    assert len(keys) == len(lines)


@pytest.mark.parametrize("command", some(commands(), 3))
def test_every_command_in_a_comment_composes(make_config, compose_tree, command):
    all_cells = cells(compose_tree, *command.split())
    for cell in (all_cells[0], all_cells[-1]):
        assert_complete(make_config(*cell))


@pytest.mark.parametrize(
    ("number", "size", "task"),
    some([(n, *each) for n, each in enumerate(itertools.product(SIZES, TASKS))], 17, pytest.mark.slow),
)
def test_every_size_composes_with_every_task_and_some_mixes(make_config, number, size, task):
    backbone, size = size
    for mix in list(MIXES)[number % 6 :: 6]:  # six neighbours have them all
        if task == "csqa" and mix in ("lema_no_step", "inline"):
            continue  # refused: its corrections name no step
        config = make_config(f"backbone={backbone}", f"backbone.size={size}", f"task={task}", f"mix={mix}")
        assert_complete(config)
        assert config.train.max_source_tokens == config.task.max_source_tokens


@pytest.mark.parametrize(("number", "backbone", "size"), some([(n, *pair) for n, pair in enumerate(SIZES)], 3))
def test_each_size_composes_with_its_own_weights_and_the_papers_learning_rate(make_config, number, backbone, size):
    # Tasks and mixes take turns; the slow test has their product.
    task, mix = TASKS[number % len(TASKS)], MIXES[number % len(MIXES)]
    config = make_config(f"backbone={backbone}", f"backbone.size={size}", f"task={task}", f"mix={mix}")
    assert_complete(config)
    billions = float(re.findall(r"[\d.]+", size)[0]) / (1000 if "m" in size.partition("-")[0] else 1)
    assert config.train.learning_rate == (
        1e-4 if billions >= 34 else 2e-4 if billions > 2 else 3e-4 if billions > 1 else 1e-3
    )
    assert config.backbone.hub_id == config.backbone.sizes[size].hub_id
    assert config.backbone.revision == config.backbone.sizes[size].revision
    assert config.backbone.parameters is not None
    assert 0.9 < config.backbone.parameters / (billions * 1e9) < 1.1


def test_hub_revisions_are_full_commits_or_null():
    for name, size in SIZES:
        revision = OmegaConf.load(ROOT / f"conf/backbone/{name}.yaml").backbone.sizes[size].get("revision")
        assert revision is None or re.fullmatch("[0-9a-f]{40}", revision), (name, size)


def test_mistral_on_math_is_the_papers_recipe(make_config):
    config = make_config("backbone=mistral", "task=math")
    train = config.train
    assert (config.sampler.name, config.corrector.name, train.method) == ("open", "gpt4", Method.qlora)
    assert (train.batch_size, train.max_steps, train.epochs) == (96, 2000, None)
    assert (train.lora_rank, train.lora_alpha, train.lora_dropout) == (64, 16, 0.05)
    assert (train.max_source_tokens, train.max_target_tokens) == (768, 768)
    assert config.evaluation.max_new_tokens == 2048
    assert config.budget_usd is None


@pytest.mark.parametrize("choice", [f"task={task}" for task in TASKS] + [f"mix={mix}" for mix in MIXES])
def test_without_a_backbone_nothing_is_paid_or_downloaded(make_config, choice):
    config = make_config(choice)
    assert config.corrector.method is CorrectionMethod.reference
    assert [source.kind for source in config.sampler.models.values()] == [SourceKind.backbone]
    assert config.backbone.hub_id is None
    assert config.train.method is Method.full


@pytest.mark.parametrize("backbone", ["tiny", "mistral"])
@pytest.mark.parametrize("task", TASKS)
def test_a_task_never_changes_another_group(compose_tree, backbone, task):
    usual = dict(compose_tree(f"backbone={backbone}").hydra.runtime.choices)
    chosen = dict(compose_tree(f"backbone={backbone}", f"task={task}").hydra.runtime.choices)
    assert {name: choice for name, choice in chosen.items() if "task/dataset" not in name} == {**usual, "task": task}


@pytest.mark.parametrize("backbone", REAL)
def test_a_real_backbone_selects_the_papers_groups(compose_tree, backbone):
    choices = compose_tree(f"backbone={backbone}").hydra.runtime.choices
    assert (choices.sampler, choices.corrector, choices.rationales, choices.train) == ("open", "gpt4", "gpt4", "qlora")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_command_line_wins_over_a_backbone(compose_tree, backbone):
    usual = compose_tree(f"backbone={backbone}").hydra.runtime.choices
    sampler = "self" if usual.sampler == "open" else "open"
    corrector = "reference" if usual.corrector == "gpt4" else "gpt4"
    chosen = compose_tree(f"backbone={backbone}", f"sampler={sampler}", f"corrector={corrector}", "train=lora")
    choices = chosen.hydra.runtime.choices
    assert (choices.sampler, choices.corrector, choices.train) == (sampler, corrector, "lora")


@pytest.mark.parametrize("backbone", REAL)
def test_an_experiment_wins_over_a_backbone(compose_tree, backbone):
    choices = compose_tree(f"backbone={backbone}", "experiment=no_api").hydra.runtime.choices
    assert (choices.sampler, choices.corrector, choices.rationales) == ("self", "reference", "none")


def test_the_command_line_wins_over_an_experiment(compose_tree):
    choices = compose_tree("backbone=mistral", "experiment=no_api", "corrector=gpt4").hydra.runtime.choices
    assert (choices.sampler, choices.corrector) == ("self", "gpt4")


def test_the_command_line_wins_over_every_value_a_backbone_sets(make_config):
    assert make_config("evaluation.max_new_tokens=3").evaluation.max_new_tokens == 3
    assert make_config("backbone=llama", "engine=transformers").engine.name == "transformers"
    assert make_config("backbone=mistral", "train.learning_rate=1e-5").train.learning_rate == 1e-5


def test_every_task_made_here_is_compared_by_rules_of_its_own_name(make_config):
    for name in TASKS:
        task = make_config(f"task={name}").task
        assert (task.grader, task.name) == (name, name)
    assert {member.value for member in Grader} == set(VERDICTS)


def test_cells_of_different_backbones_share_sampler_and_corrector(make_config):
    shared = [make_config(f"backbone={name}") for name in REAL]
    assert len({digest([identity(c)["sampler"], identity(c)["corrector"], identity(c)["task"]]) for c in shared}) == 1


def test_a_sweep_is_narrowed_by_the_command_line(compose_tree):
    lines = cells(compose_tree, "sweeps=main_table", "task=math", "backbone=llama2,mistral")
    assert [line[:3] for line in lines] == [
        ["task=math", f"backbone={backbone}", f"mix={mix}"]
        for backbone in ("llama2", "mistral")
        for mix in ("cot", "lema")
    ]


@pytest.mark.parametrize(
    ("limits", "examples", "steps"),
    [
        (["train.epochs=3", "train.max_steps=null"], 200, 38),
        (["train.epochs=3", "train.max_steps=null"], 192, 36),
        (["train.epochs=0.5", "train.max_steps=null"], 200, 7),
        (["train.epochs=3", "train.max_steps=20"], 200, 20),
        (["train.epochs=null", "train.max_steps=20"], 1, 20),
    ],
)
def test_the_steps_of_a_training_are_those_of_its_epochs_up_to_a_limit(make_config, limits, examples, steps):
    assert make_config("train.batch_size=16", *limits).train.steps(examples) == steps


def test_consent_to_pay_comes_from_the_command_line_or_the_environment(make_config, monkeypatch):
    assert make_config().budget_usd is None
    monkeypatch.setenv("LEMA_BUDGET_USD", "20")
    assert make_config().budget_usd == 20.0
    assert make_config("budget_usd=5").budget_usd == 5.0
    monkeypatch.setenv("LEMA_BUDGET_USD", "")
    assert make_config().budget_usd is None
    monkeypatch.setenv("LEMA_BUDGET_USD", "much")
    with pytest.raises(UserError, match=r"^budget_usd: .*Value 'much'"):
        make_config()


def test_a_short_path_is_where_the_sampler_takes_its_model_from(make_config, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://there/v1")
    config = make_config("sampler=server", "sampler.model=m")
    api = config.sampler.models["server"].api
    assert (api.model, api.base_url) == ("m", "http://there/v1")
    elsewhere = make_config("sampler=server", "sampler.model=m", "sampler.base_url=http://here/v1")
    assert elsewhere.sampler.models["server"].api.base_url == "http://here/v1"
    assert identity(elsewhere) == identity(config) != identity(make_config("sampler=server", "sampler.model=n"))
    recorded = make_config("sampler=recorded", "sampler.file=f")
    assert recorded.sampler.models["recorded"].recorded == "f"
    assert identity(recorded) != identity(make_config("sampler=recorded", "sampler.file=g"))


def leaves(node: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all plain values in a tree of dataclasses and dicts; an absent sub-config is none."""
    if dataclasses.is_dataclass(node):
        fields = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
        absent = {field.name for field in dataclasses.fields(node) if "Config]" in str(field.type)}
        fields = {name: value for name, value in fields.items() if value is not None or name not in absent}
    elif isinstance(node, dict):
        fields = node
    else:
        return [path]
    return [leaf for name, value in fields.items() for leaf in leaves(value, (*path, name))]


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, Enum):
        return next(member for member in type(value) if member is not value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [*value, "more"]
    if value is None:
        return "something"
    return value + ("x" if isinstance(value, str) else 1)


@pytest.mark.parametrize(
    "overrides", [(), ("backbone=mistral", "task=gsm8k"), ("task=svamp",)], ids=["tiny", "mistral", "svamp"]
)
def test_identity_changes_with_everything_but_what_cannot_change_a_result(make_config, overrides):
    config = make_config(*overrides)
    before = digest(identity(config))
    for path in leaves(config):
        changed = copy.deepcopy(config)
        node: Any = changed
        for name in path[:-1]:
            node = node[name] if isinstance(node, dict) else getattr(node, name)
        if isinstance(node, dict):
            node[path[-1]] = other(node[path[-1]])
        else:
            setattr(node, path[-1], other(getattr(node, path[-1])))
        key = ".".join(path)
        ignored = any(key == name or key.startswith(f"{name}.") for name in WITHOUT_EFFECT)
        ignored |= path[-1] in WITHOUT_EFFECT_ON_TEXTS
        assert (digest(identity(changed)) == before) is ignored, key


def test_one_greedy_answer_is_as_if_there_were_no_samples(make_config):
    plain = make_config()
    asked = make_config("evaluation.samples=1", "evaluation.temperature=0", "evaluation.seed=0")
    assert identity(asked) == identity(plain)
    assert not {"samples", "temperature", "seed", "tasks"} & identity(plain)["evaluation"].keys()
    drawn = identity(make_config("evaluation.temperature=0.7"))["evaluation"]
    assert drawn == identity(plain)["evaluation"] | {"temperature": 0.7}
    more = identity(make_config("evaluation.temperature=0.7", "evaluation.samples=8", "evaluation.seed=3"))
    assert more["evaluation"] == drawn | {"samples": 8, "seed": 3}


@pytest.mark.parametrize("task", ["svamp", "asdiv", "gsm8k"])
def test_a_further_test_is_the_task_that_its_own_run_has(make_config, task):
    others = {"svamp": "gsm8k", "asdiv": "svamp", "gsm8k": "asdiv"}
    folders = {"gsm8k": ["dataset=/data/gsm8k"]} | {
        each: [f"dataset=/data/{each}", "train_dataset=/data/gsm8k"] for each in ("svamp", "asdiv")
    }
    run, own = (
        make_config(f"task={each}", "task.num_dev=7", *(f"task.{one}".replace("=", ".path=") for one in folders[each]))
        for each in (others[task], task)
    )
    assert further_tests(run.task)[task] == own.task
    assert further_tests(make_config(f"task={others[task]}").task)[task] == make_config(f"task={task}").task


def test_digest_is_stable_across_key_order_and_processes():
    assert digest({"b": [1, "é"], "a": None}) == digest({"a": None, "b": [1, "é"]}) == "47acac9da933"


MISTAKES = [
    ("backbone=mistrall", ["backbone=mistrall: no such choice; choose from", "llama2", "mistral", "tiny"]),
    ("train.learning_rate=abc", ["train.learning_rate", "'abc'", "Float"]),
    ("train.lr=1", ["train.lr=1: no such key; choose from method, learning_rate"]),
    ("+train.lr=1", ["train.lr=1", "no such key", "learning_rate", "max_steps"]),
    ("++bogus=1", ["bogus=1", "no such key", "backbone", "limit"]),
    ("backbone=llama2 backbone.size=99b", ["backbone.size=99b", "llama2", "7b, 13b, 70b"]),
    ("until=foo", ["until=foo: no such stage; choose from data, base, sample", "evaluate, report"]),
    ("only=foo", ["only=foo: no such stage; choose from data, base, sample", "merge, evaluate"]),
    ("do=foo", ["do", "'foo'", "report", "compare", "export"]),
    ("sweeps=demo mix=cot,lema seed=1 until=foo", ["until=foo: no such stage; choose from data, base"]),
    ("sweeps=demo mix=cot,lema seed=1 only=foo", ["only=foo: no such stage; choose from data, base"]),
    (
        "sweeps=demo mix=cot,lema seed=1 only=mix,train",
        ["mix=cot only=mix and mix=cot only=train: are one run, "],
    ),
    ("only=export", ["only=export: write do=export instead"]),
    ("clean.delete=true", ["clean.delete=True: does nothing without do=clean"]),
    ("do=clean sweeps=demo", ["do=clean: takes no sweep; leave out -m, or sweeps="]),
    ("sweeps=demo mix=cot seed=1 only=report", ["only=report: write do=report instead"]),
    ("evaluation.split=train", ["evaluation.split=train", "'train'", "dev, test"]),
    ("sweeps=gridd", ["sweeps=gridd: no such choice; choose from", "demo", "main_table"]),
    ("sweeps=demo mix=cot,lema seed=1 +train.lr=1", ["train.lr=1", "no such key", "learning_rate"]),
    ("train.optimizer=adamw", ["train.optimizer=adamw", "adamw_torch", "paged_adamw_32bit"]),
    ("train.schedule=cosine", ["train.schedule=cosine", "constant, linear"]),
    ("tracker.name=wand", ["tracker.name=wand", "wandb, none"]),
    ("train.max_steps=nan", ["train.max_steps", "'nan'", "Integer"]),
    ("train.max_steps=1.5", ["train.max_steps", "'1.5'", "Integer"]),
    ("train.epochs=true", ["train.epochs", "'True'", "Float"]),
    ("train.epochs=[1]", ["train.epochs", "'[1]'", "Float"]),
    ("train.epochs=1" + 400 * "0", ["train.epochs=1000", "no number has 300 digits"]),
    ("train.epochs=1" + 5000 * "0", ["train.epochs=1000", "no number has 300 digits"]),
    ("train.max_steps=0", ["train.max_steps=0: must be at least 1, or null"]),
    ("train.epochs=0 train.max_steps=-3", ["train.epochs=0.0: must be above 0", "train.max_steps=-3: must be at"]),
    ("sweeps=demo mix=cot,lema seed=-1", ["seed=-1: must be at least 0"]),
]


@pytest.mark.parametrize(
    ("arguments", "words"),
    some(MISTAKES, 3),
)
def test_a_mistake_gets_a_message_with_key_value_and_choices(run_cli, tmp_path, arguments, words):
    result = run_cli(*arguments.split())
    assert result.returncode != 0
    assert "Traceback" not in result.stdout + result.stderr
    assert not list(tmp_path.glob("runs/*/*"))
    for word in words:
        assert word in result.stderr


def test_a_contrast_of_an_arm_that_is_no_file_is_refused_where_hydra_knows_the_files(make_config):
    stated = "report.contrasts=[lema/cot,lema/cot_mached]"
    assert make_config(stated).report.pairs == [("lema", "cot"), ("lema", "cot_mached")]  # it has ended here
    with (
        initialize_config_dir(str(ROOT / "conf"), version_base="1.3"),
        pytest.raises(UserError, match="lema/cot_mached: cot_mached is no arm; choose from corrections, cot,"),
    ):
        make_config(stated)


@pytest.mark.parametrize(
    ("overrides", "message"), some(table(__file__, "values that do not fit together are named"), 3)
)
def test_values_that_do_not_fit_together_are_named(make_config, overrides, message):
    with pytest.raises(UserError) as caught:
        make_config(*overrides.split())
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", [("--help",), ("--cfg", "job"), ("--cfg", "job", "sweeps=main_table")])
def test_help_and_configuration_import_nothing_heavy(run_cli, option):
    result = run_cli(*option, python=("-X", "importtime"))
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in result.stderr.splitlines() if "|" in line}
    assert result.returncode == 0
    assert "hydra" in imported
    assert not imported & HEAVY


def schema(hint: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path and the type of each plain field below a type. `*` is any key of a dict."""
    if getattr(hint, "__origin__", None) is dict:
        of_key, of_value = get_args(hint)
        yield (*path, "*"), of_key
        yield from schema(of_value, (*path, "*"))
        return
    sections = [each for each in (hint, *get_args(hint)) if isinstance(each, type) and dataclasses.is_dataclass(each)]
    for section in sections:
        for name, each in get_type_hints(section, include_extras=True).items():
            yield from schema(each, (*path, name))
    if not sections:
        yield path, hint


def plain_type(hint: Any) -> type:
    """`int` of `Optional[Annotated[int, ...]]`."""
    hint = next((each for each in get_args(hint) if type(None) in get_args(hint) and each is not type(None)), hint)
    return getattr(hint, "__origin__", hint)


FIELDS = dict(schema(Config))
NUMBERS = {path: hint for path, hint in FIELDS.items() if plain_type(hint) in (int, float)}
# Together they have every section of the schema.
WHOLE = [
    ["backbone=mistral", "task=svamp", "corrector=local", "sampler=self", "sampler/model@sampler.other=gpt4"],
    *(["backbone=mistral", "task=math"], ["sampler=server", "sampler.model=mine", "verifier=gpt4"], []),
    ["backbone=mistral", "task=math", "rationales=local", "verifier=local"],
]
# What a number outside a range may be, by kind; a whole number has those of the first four kinds.
OUTSIDE = {
    "below": lambda limits: -1 if limits.zero else limits.least - (not limits.above),
    "above": lambda limits: limits.most + (not limits.below),
    "negative": lambda limits: -1,
    "huge": lambda limits: 10**30,
    "not a number": lambda limits: math.nan,
    "infinite": lambda limits: math.inf,
    "minus infinite": lambda limits: -math.inf,
    "beyond floats": lambda limits: "1e400",
}
LINE = r"[^=]+=\S+: must be (0, or )?(at least|above|at most|below) [\d,.]+( and (at most|below) [\d,.]+)?(, or null)?"


def holder(node: Any, path: tuple[str, ...]) -> tuple[Any, list[str]] | None:
    """The dict that holds the value at a path of the schema, and the value's keys; None where there is none."""
    keys: list[str] = []
    for place, name in enumerate(path, 1):
        if not node or (name == "*" and not all(isinstance(each, dict) for each in node.values())):
            return None
        keys.append(next(iter(node)) if name == "*" else name)
        if place == len(path):
            return node, keys
        node = node[keys[-1]]
    return None


def with_values(make_config, values: dict[tuple[str, ...], Any]) -> Iterator[tuple[list[str], Any]]:
    """Plain trees in which these paths of the schema have these values, each in one of them: the keys, and the tree."""
    left = dict(values)
    for overrides in WHOLE:
        tree, keys = json.loads(json.dumps(dataclasses.asdict(make_config(*overrides)))), []
        for path in list(left):
            if found := holder(tree, path):
                found[0][found[1][-1]] = left.pop(path)
                keys.append(".".join(found[1]))
        if keys:
            yield keys, OmegaConf.create(tree)
    assert not left


def test_every_number_has_a_finite_range():
    assert len(NUMBERS) > 100
    for path, hint in NUMBERS.items():
        limits = rule(hint)
        assert isinstance(limits, Range), path
        assert -math.inf < limits.least < limits.most < math.inf, path


def test_every_field_is_of_a_kind_that_is_checked():
    for path, hint in FIELDS.items():
        kind = plain_type(hint)
        checked = path == ("engine",) or kind in (int, float, bool, str, list) or issubclass(kind, Enum)
        assert checked, path  # an engine's own settings are checked when one is chosen
        parts = next((each for each in (hint, *get_args(hint)) if get_origin(each) is list), None)
        assert kind is not list or plain_type(get_args(parts)[0]) in (int, str), path


@pytest.mark.parametrize("kind", some(OUTSIDE, 3))
def test_each_number_outside_its_range_is_refused_in_a_line_of_its_own(make_config, kind):
    paths = [path for path, hint in NUMBERS.items() if plain_type(hint) is float or kind in list(OUTSIDE)[:4]]
    values = {path: OUTSIDE[kind](rule(NUMBERS[path])) for path in paths}
    for keys, tree in with_values(make_config, values):
        with pytest.raises(UserError) as caught:
            to_config(tree)
        lines = str(caught.value).splitlines()
        assert sorted(line.partition("=")[0] for line in lines) == sorted(keys)
        assert all(re.fullmatch(LINE, line) for line in lines), lines


@pytest.mark.parametrize("end", ["least", "most"])
def test_each_end_of_a_range_is_in_it(make_config, end):
    values = {}
    for path, hint in NUMBERS.items():
        limits, towards = rule(hint), math.inf if end == "least" else -math.inf
        assert isinstance(limits, Range), path
        is_open = limits.above if end == "least" else limits.below
        value = getattr(limits, end)
        values[path] = math.nextafter(value, towards) if is_open else value
    for _, tree in with_values(make_config, values):
        typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), tree))
        assert not list(refused(typed, Config))


@pytest.mark.parametrize("value", [True, "much", "nan", [1], {"a": 1}, 1.5])
def test_a_value_that_is_no_whole_number_is_named_in_one_line(make_config, value):
    refusal = r"^train\.max_steps: Value '.*' of type '\w+' could not be converted to Integer$"
    for _, tree in with_values(make_config, {("train", "max_steps"): value}):
        with pytest.raises(UserError, match=refusal):
            to_config(tree)


@pytest.mark.parametrize(
    "value", some(["a/b", "../a", "/a", ".a", "-a", "", " ", "a b", "a\nb", "a\x1b[2J", "a:b", "ä", "x" * 41], 4)
)
def test_a_name_that_no_folder_may_have_is_refused(make_config, value):
    names = [path for path, hint in FIELDS.items() if rule(hint) == rule(Name) and path[-1] != "*"]
    assert len(names) > 8
    for keys, tree in with_values(make_config, dict.fromkeys(names, value)):
        with pytest.raises(UserError) as caught:
            to_config(tree)
        shown = value if value.isprintable() else repr(value)
        assert len(str(caught.value).splitlines()) == len(keys)
        for key in keys:
            assert f"{key}={shown}: must be 1 to 40 of the characters A-Z a-z 0-9 _ . -" in str(caught.value)


def test_the_names_that_files_give_are_allowed_and_keys_of_models_and_sizes_are_names(make_config):
    assert rule(FIELDS["sampler", "models", "*"]) == rule(FIELDS["backbone", "sizes", "*"]) == rule(Name)
    config = make_config("+sampler/model@sampler.models.mine=self")
    config.sampler.models["a/b"] = config.sampler.models.pop("mine")
    assert [line for _, line in refused(config, Config)] == [
        "sampler.models.a/b=a/b: must be 1 to 40 of the characters A-Z a-z 0-9 _ . -"
    ]


@pytest.mark.parametrize("value", ["a/b", "a\\b", "a#b", "a?b", "a%b", "a:b", "x" * 129])
def test_a_project_that_wandb_would_refuse_is_refused(make_config, monkeypatch, value):
    monkeypatch.setenv("WANDB_PROJECT", value)
    with pytest.raises(UserError) as caught:
        make_config()
    allowed = r"must be 1 to 128 characters, and none of / \ # ? % :, or null"
    assert str(caught.value) == f"tracker.project={value}: {allowed}"


def test_an_empty_text_is_not_null_and_an_empty_list_names_nothing(make_config):
    paths = [path for path, hint in FIELDS.items() if plain_type(hint) in (str, list)]
    values: dict[Any, Any] = {path: "" if plain_type(FIELDS[path]) is str else [] for path in paths if path[-1] != "*"}
    for keys, tree in with_values(make_config, values):
        tree.backbone.size = None
        tree.backbone.sizes = {}
        tree.sampler.name = "mine"  # whose models have no short paths
        keys = [key for key in keys if not key.startswith(("backbone.size", "sampler.name"))]
        with pytest.raises(UserError) as caught:
            to_config(tree)
        lines = {line.partition("=")[0] for line in str(caught.value).splitlines()}
        assert lines == set(keys)


def test_a_value_taken_from_another_key_is_named_by_that_key(make_config, monkeypatch):
    with pytest.raises(UserError, match=r"^backbone\.learning_rate=-1\.0: must be above 0$"):
        make_config("backbone.learning_rate=-1")
    with pytest.raises(UserError, match=r"^train\.learning_rate=nan: must be above 0 and at most 1$"):
        make_config("train.learning_rate=nan")
    monkeypatch.setenv("LEMA_BUDGET_USD", "-1")
    with pytest.raises(UserError, match=r"^budget_usd=-1\.0: must be at least 0, or null$"):
        make_config()


def test_optimizers_and_schedules_are_names_that_transformers_knows():
    from transformers import SchedulerType
    from transformers.training_args import OptimizerNames

    assert {each.value for each in Optimizer} <= {each.value for each in OptimizerNames}
    assert {each.value for each in Schedule} <= {each.value for each in SchedulerType}
