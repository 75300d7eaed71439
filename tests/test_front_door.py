"""The front door as a stranger uses it: one line for a mistake, and whatever can be used is used."""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra._internal.hydra import Hydra
from hydra.types import RunMode
from small import ROOT, SMALL
from tables import some

from lema import sweeps
from lema.artifacts import Store
from lema.compose import register
from lema.config.allowed import Place
from lema.config.command_line import arranged, refusal, refusing
from lema.config.files import read
from lema.data import json_lines
from lema.identity import identity, without_paths
from lema.preflight import hub
from lema.prompts.demonstrations import demonstrations
from lema.reporting.statistics import standard_error
from lema.tracking.runs import Tracker
from lema.types import UserError

CLI = Callable[..., subprocess.CompletedProcess[str]]
# A command that Hydra cannot compose, and the one line about it.
REFUSED = {
    "backbone=mistrall": r"backbone=mistrall: no such choice; choose from codellama, .*",
    "hydra/launcher=ray": r"hydra/launcher=ray: no such choice; choose from basic, .*slurm",
    "train=../x": r"train=\.\./x: no such choice; choose from full, lora, qlora",
    "train.lr=1": r"train\.lr=1: no such key; choose from method, learning_rate, .*",
    "foo=1": r"foo=1: no such key; choose from seed, .*",
    "hydra.nope=1": r"hydra\.nope=1: no such key; choose from run, .*",
    "engine={a:1}": r"engine=\{a:1\}: no such key; choose from name, batch_tokens",
    **{
        each: rf"{re.escape(each)}: must be the name of a choice, .*" for each in ("task=null", "train=1", "engine=[1]")
    },
    "experiment=null": r"experiment=null: must be .*; leave it out for the default",
    "backbone=llama2 backbone.tiny.steps=1": r"backbone\.tiny\.steps=1: a part of this key is null .*",
    "task.dataset.path=x": r"task\.dataset\.path=x: a part of this key is null .*",
    "task.dataset=x": r"task\.dataset=x: is a section; set its keys, task\.dataset\.KEY=VALUE",
    "seed=x": r"seed=x: Value 'x' of type 'str' could not be converted to Integer",
    "seed=": r"seed=: Value '' .*",
    "seed=[1]": r"seed=\[1\]: Value '\[1\]' .*",
    "runs_dir=null": r"runs_dir=null: must not be null",
    "seed=1,2": r"seed=1,2: several values are a sweep, which needs -m; .*: \"seed='1,2'\"",
    "seed=[1": r"seed=\[1: cannot be read \(.*\); in quotes it is one text: \"seed='\[1'\"",
    "seed=${train": r"seed=\$\{train: cannot be read .*",
    "task.name=a=b": r"task\.name=a=b: cannot be read .*; in quotes it is one text: \"task\.name='a=b'\"",
    "seed": r"seed: cannot be read \(.*\); write KEY=VALUE",
    "mix=a'b": r"mix=a'b: cannot be read; its quotes do not end",
    "+task=gsm8k": r"task has a choice already; leave out the \+",
    "++task=gsm8k": r"\+\+task=gsm8k: a group has one choice; leave out the \+\+",
    "+seed=2": r"\+seed=2: is set already; leave out the \+",
    "~train.lr": r"~train\.lr: Could not delete from config\. .*",
    "~train.learning_rate": r"~train\.learning_rate: TrainConfig \(DictConfig\) does not support deletion",
    "hydra.mode=nope": r"hydra\.mode=nope: Invalid value 'nope', expected one of \[RUN, MULTIRUN\]",
}
# What only the whole program refuses.
BEYOND = {
    "--foo": r"unrecognized arguments: --foo; python run\.py --help .*",
    "--cfg nope": r"argument --cfg/-c: invalid choice: 'nope' .*",
    "--resolve": r"The --resolve flag can only .*",
    "--run --multirun": r"Only one of --run, .*",
    "--config-dir nope": r"Additional config directory '.*nope' not found",
    "--config-path nope": r"Primary config directory not found\. Check that the config directory '.*nope' exists .*",
    "--config-name nope": r"--config-name=nope: no such file .*",
    "hydra.searchpath=[file:///nope]": r".*path=/nope is not available\.",
    "hydra.run.dir=a_file": r"a_file: File exists",
    "runs_dir=a_file": r"runs_dir=a_file: cannot be written \(File exists\); choose a folder with runs_dir=",
    "runs_dir=": r"runs_dir=: must not be empty",
    "runs_dir=$HOME/runs": r"runs_dir=\$HOME/runs: must be a path: \$HOME was in single quotes, .*",
    "runs_dir=~nobody-here/runs": r"runs_dir=~nobody-here/runs: no home is known for ~nobody-here; .*",
    "sweeps=mine/none.yaml": r"sweeps=mine/none\.yaml: no such file; name a file like those of sweeps/",
    "limit=-1": r"limit=-1: must be at least 1, or null",
    "+foo.bar=1": r"foo=\{'bar': 1\}: no such key; choose from .*",
    "do=compare compare.a=/no compare.b=x": r"compare\.a=/no: no such run in .*",
    "-m task=null": r"task=null: must be the name of a choice, .*",
    "-m mix=glob(nope*)": r"mix=glob\(nope\*\): stands for no value; name some",
    "-m seed=1,2 limit=-1": r"seed=1: limit=-1: must be at least 1, or null",
    "only=wandb_sweep -m seed=1,2": r"seed=1: only=wandb_sweep: write do=wandb_sweep instead",
}


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The only line that a refused command prints."""
    assert done.returncode != 0
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.rstrip("\n")


@pytest.mark.parametrize("command", REFUSED)
def test_each_error_of_hydra_is_one_line_that_begins_with_the_argument(hydra: Hydra, command: str) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 # of many kinds, which is the point
        hydra.compose_config("config", command.split(), RunMode.RUN)
    assert re.fullmatch(REFUSED[command], refusal(raised.value)), refusal(raised.value)


WIDE = [pytest.param(each, marks=pytest.mark.slow) for each in [*BEYOND, *list(REFUSED)[::16]]]


@pytest.mark.parametrize("command", ["backbone=mistrall seed=2", "--foo", "limit=-1", *WIDE])
def test_a_refused_command_prints_one_line_and_leaves_nothing(run_cli: CLI, tmp_path: Path, command: str) -> None:
    (tmp_path / "a_file").touch()
    said = one_line(run_cli(*command.split()))
    assert re.fullmatch((REFUSED | BEYOND).get(command, f"{command.split()[0]}: .*"), said) or command == "--foo", said
    assert not list(tmp_path.glob("runs/*/*"))


def test_flags_stand_anywhere_and_homes_are_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me, too")
    assert arranged(["task=gsm8k", "-m", "seed=1,2", "--config-dir", "x", "limit=3"]) == [
        *("-m", "--config-dir", "x", "--", "task=gsm8k", "seed=1,2", "limit=3")
    ]
    assert arranged(["backbone=mistral", "--info"]) == ["--info", "--", "backbone=mistral"]
    home = "/home/me\\, too"
    assert arranged(["a=~/x", "b=~", "c=[~/x,~/y]", "d=~/x,~/y", "~e", "f=a~/b", "g='a,~/x'"]) == [
        *(
            "--",
            f"a={home}/x",
            f"b={home}",
            f"c=[{home}/x,{home}/y]",
            f"d={home}/x,{home}/y",
            "~e",
            "f=a~/b",
            "g='a,~/x'",
        )
    ]
    with pytest.raises(UserError, match=r"^a=~nobody-here/x: no home is known for ~nobody-here"):
        arranged(["a=~nobody-here/x"])


def test_a_mistake_of_ours_keeps_its_traceback_and_one_of_the_command_is_a_line() -> None:
    with pytest.raises(ZeroDivisionError), refusing(full=False):
        standard_error(0, 0)
    with pytest.raises(SystemExit, match=r"^no$"), refusing(full=False):
        raise ValueError("no")


PLACES = {
    "runs_dir": [],
    "backbone.path": [],
    "corrector.weights.path": ["corrector=local"],
    "corrector.prompt": ["corrector=gpt4"],
    "rationales.weights.path": ["backbone=llama2", "rationales=local"],
    "rationales.demonstrations": ["backbone=llama2"],
    "task.dataset.path": ["task=gsm8k"],
    "task.train_dataset.path": ["task=svamp"],
    "sampler.file": ["sampler=recorded"],
    "sampler.demonstrations": ["backbone=llama2", "task=gsm8k", "sampler=paper"],
    "compare.a": ["do=compare"],
    "compare.b": ["do=compare"],
    "audit.data": ["do=audit"],
}


@pytest.mark.parametrize("key", some(PLACES, 6))
def test_a_path_at_home_is_the_whole_path(make_config, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    quoted, whole = (make_config(*PLACES[key], f"{key}={value}") for value in ("'~/x'", "/home/me/x"))
    assert quoted == whole
    assert identity(quoted) == identity(whole)
    with pytest.raises(UserError, match=rf"{re.escape(key)}=~nobody-here/x: must be a whole path: no home is known"):
        make_config(*PLACES[key], f"{key}='~nobody-here/x'")
    with pytest.raises(UserError, match=rf"{re.escape(key)}=\$HOME/x: must be a path: \$HOME was in single quotes"):
        make_config(*PLACES[key], f"{key}='$HOME/x'")


def test_a_folder_whose_name_is_like_a_variable_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "$HOME").mkdir()
    assert Place().refuses(str(tmp_path / "$HOME")) is None
    assert Place().refuses("c=d $1") is None
    assert Place().refuses("/mnt/my $no_such_variable/new") is None


def test_open_files_are_as_many_as_the_system_allows() -> None:
    code = "import resource as r; n = r.RLIMIT_NOFILE; _, hard = r.getrlimit(n); r.setrlimit(n, (256, hard))\n"
    code += "from lema.config.environment import raise_file_limit; raise_file_limit(); print(*r.getrlimit(n))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    soft, hard = map(int, done.stdout.split())
    assert soft == (65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536))


@pytest.mark.parametrize("place", ["/no/such", "./no", "../no", "a/b/c", "no/", "HERE"])
def test_what_can_only_be_a_folder_is_never_a_model_on_the_hub(tmp_path: Path, place: str) -> None:
    file = tmp_path / "file"
    file.touch()
    why = "a file, not a folder" if place == "HERE" else "no such folder"
    location = place.replace("HERE", str(file))
    [said] = hub.unloadable("backbone", location, "org/name", None)
    assert said.startswith(f"model: backbone.path={location}: {why}; name a folder")
    assert "hub_id" not in said
    [said] = hub.unloadable("backbone", "org/name-7B", "org/name", None)
    assert said.endswith(
        "; one of the Hub is backbone.hub_id=org/name-7B, with backbone.revision=COMMIT or null for its newest"
    )


@pytest.mark.slow
@pytest.mark.parametrize("key", ["backbone", "corrector.weights"])
@pytest.mark.parametrize("place", ["/no/such", "."])
def test_of_a_model_that_is_not_there_no_size_is_told(run_cli: CLI, key: str, place: str) -> None:
    chosen = (
        ["backbone=llama2", "experiment=no_api", "engine=transformers"] if key == "backbone" else ["corrector=local"]
    )
    done = run_cli(*chosen, f"{key}.path={place}", "tracker=none", "limit=3", "task.num_dev=3")
    assert f"model: {key}.path={place}" in done.stderr
    assert "billion" not in done.stderr
    assert done.stderr.count("\n") == 2, done.stderr


def outside(folder: Path, head: str = "") -> Path:
    """A sweep's file of a user's own."""
    file = folder / "sweeps" / "mine.yaml"
    file.parent.mkdir(parents=True)
    text = "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 1,2\ntracker:\n  group: mine\n"
    file.write_text(head + text)
    return file


def test_the_sweep_of_a_folder_of_ones_own_is_kept_in_the_file_for_wandb(run_cli: CLI, tmp_path: Path) -> None:
    outside(tmp_path / "own", "# @package _global_\n")
    runs = tmp_path / "runs"
    done = run_cli("--config-dir", str(tmp_path / "own"), "sweeps=mine", "do=wandb_sweep", f"runs_dir={runs}")
    assert done.returncode == 0, done.stderr
    grid = yaml.safe_load((runs / "sweeps/mine.yaml").read_text())
    assert grid["command"][3:6] == [f"--config-dir={tmp_path / 'own'}", "sweeps=mine", "hydra.mode=RUN"]
    assert grid["parameters"] == {"seed": {"values": [1, 2]}}


def test_a_command_keeps_the_flags_that_decide_what_its_overrides_mean(compose_tree, tmp_path: Path) -> None:
    assert sweeps.kept(compose_tree("seed=2", "hydra.job.chdir=true").hydra) == []
    searched = f"hydra.searchpath=[file://{tmp_path}]"
    assert sweeps.kept(compose_tree("seed=2", searched).hydra) == [searched]


@pytest.mark.slow
def test_a_sweeps_file_may_lie_anywhere_and_says_what_it_lacks(run_cli: CLI, tmp_path: Path) -> None:
    file, runs = outside(tmp_path / "own"), tmp_path / "runs"
    for name in (str(file), "own/sweeps/mine.yaml"):
        done = run_cli(f"sweeps={name}", "do=wandb_sweep", f"runs_dir={runs}")
        assert done.stdout == f"written to {runs}/sweeps/mine.yaml\n", done.stderr
        grid = yaml.safe_load((runs / "sweeps/mine.yaml").read_text())
        assert grid["command"][3:5] == [f"sweeps={file}", "hydra.mode=RUN"]
    said = one_line(run_cli("--config-dir", "own", "sweeps=mine"))
    assert said == "In 'sweeps/mine': the file of a sweep begins with the line # @package _global_"


def test_a_file_that_is_no_sweep_is_named(tmp_path: Path) -> None:
    for content in ("a: [1", "- 1", "\x00"):
        (tmp_path / "mine.yaml").write_text(content)
        with pytest.raises(UserError, match=rf"^sweeps={tmp_path}/mine\.yaml: .*name a file like those of sweeps/$"):
            register(ROOT / "sweeps", [f"sweeps={tmp_path}/mine.yaml"])


@pytest.mark.parametrize(
    "more",
    [
        ["hydra.job.chdir=true", "hydra.run.dir=elsewhere"],
        pytest.param(["-m", "hydra.job.chdir=true", "seed=1,2"], marks=pytest.mark.slow),
        pytest.param(["hydra.run.dir=elsewhere", "hydra.output_subdir=.hydra"], marks=pytest.mark.slow),
    ],
)
def test_results_land_where_the_user_stands(run_cli: CLI, tmp_path: Path, more: list[str]) -> None:
    done = run_cli(*more, *SMALL, "until=data", "runs_dir=mine")
    assert done.returncode == 0, done.stderr
    assert [path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("record.json")] == [("mine", "data")]


def test_the_program_may_be_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.py").symlink_to(ROOT / "run.py")
    command = [sys.executable, str(tmp_path / "link.py"), "--cfg", "job"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith("seed: 1\n"), done.stderr


def test_a_mistake_of_ours_shows_its_own_traceback_alone(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; from lema import pipeline\n"
        "def run(*_): raise RuntimeError('a mistake of ours')\n"
        f"pipeline.run = run; sys.argv = ['run.py', 'runs_dir={tmp_path}']\n"
        f"runpy.run_path('{ROOT / 'run.py'}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.endswith("RuntimeError: a mistake of ours\n")
    assert "Error executing job" not in done.stderr
    assert "HYDRA_FULL_ERROR" not in done.stderr


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(each, marks=pytest.mark.slow) for each in ("latin-1", "cp1252", "utf-16"))]
)
def test_any_text_can_be_shown_in_any_encoding(encoding: str) -> None:
    code = "from lema.privacy import guard; import sys; guard(); print('5 − 3 é ⟦日本⟧'); print('−', file=sys.stderr)"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert "5 " in done.stdout.decode(encoding)


def test_a_command_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    command = [os.fsencode(sys.executable), os.fsencode(ROOT / "run.py"), b"runs_dir=caf\xe9"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert one_line(done).startswith("'runs_dir=caf\\udce9': holds bytes that are not UTF-8")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_user_without_a_home_or_a_name_runs_a_cell(tmp_path: Path) -> None:
    alone = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
    if sys.platform != "linux" or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("a uid that the system does not know needs Linux's user namespaces")
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME")}
    command = [*alone, sys.executable, str(ROOT / "run.py"), *SMALL, "tracker=wandb", "until=base"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "uid 12345 has no home" in done.stderr
    assert list(tmp_path.glob("runs/base/*/record.json"))
    assert not (tmp_path / "~").exists()


def test_paths_are_cut_whatever_the_home_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for home in ("/home/me", "/", ""):
        monkeypatch.setenv("HOME", home)
        assert without_paths("in /data/sets/gsm8k, org/model") == "in …/gsm8k, org/model"


def test_nobody_waits_for_a_pipe_in_the_place_of_a_file(tmp_path: Path, make_config) -> None:
    from lema.stages import data

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        read(pipe)
    with pytest.raises(UserError, match=r"sampler\.file=.*: not a regular file; name a file of JSON lines"):
        list(json_lines.read(pipe, "sampler.file"))
    with pytest.raises(UserError, match=r"corrector\.prompt=.*: not a regular file; name a readable UTF-8 text file"):
        demonstrations("correct", "gsm8k", str(pipe), "corrector.prompt")
    from lema.cell import Cell

    store = Store(tmp_path)
    recipe = data.recipe(Cell(make_config(*SMALL), store))
    folder = store._folder(recipe)
    folder.mkdir(parents=True)
    os.mkfifo(folder / "record.json")
    with pytest.raises(UserError, match=r"record\.json: cannot be read \(not a regular file\)"):
        store.find(recipe)


def test_wandb_can_be_sent_elsewhere_or_off_by_its_own_variables(
    make_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    for name, value, on in (
        *(("WANDB_DISABLED", "true", False), ("WANDB_DISABLED", "1", False), ("WANDB_DISABLED", "false", True)),
        *(("WANDB_MODE", "disabled", False), ("WANDB_MODE", "offline", True)),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert Tracker(config, tmp_path).on is on, name
    assert config.tracker.project == "lema"


@pytest.mark.slow
def test_the_files_of_wandb_go_where_its_variable_says(
    run_cli: CLI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "there"))
    done = run_cli(*SMALL, "tracker=wandb", "until=data")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("there/wandb/offline-run-*"))
    assert "wandb sync -n 1 there/wandb/offline-run-*" in done.stdout
    assert not list(tmp_path.glob("runs/wandb/offline-run-*"))
