"""No secret of the environment, and nothing else of it, gets into what a run writes: by no key, file or command."""

import copy
import gzip
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf, open_dict
from small import SMALL
from tables import some, table

from lema import privacy
from lema.compose import to_config
from lema.config import environment
from lema.config.task import CONF
from lema.types import UserError

SECRET = "hf_AbCdEf0123456789"
SERVER = ("+sampler/model@sampler.models.server=server", "sampler.models.server.api.model=m")
CLI = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def _secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HF_HOME", "XDG_CACHE_HOME", "HF_TOKEN_PATH", "NETRC"):
        monkeypatch.delenv(name, raising=False)


SECRETS = """OPENAI_API_KEY HF_TOKEN WANDB_API_KEY AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID PGPASSWORD MYSQL_PWD DB_PASS
    SSHPASS GITHUB_PAT my_key authToken API_KEY_2 AZURE_CREDENTIALS DOCKER_AUTH_CONFIG SECRET_OF_MINE
    HTTP_AUTHORIZATION SIGNING_SECRETS GH_TOKENS""".split()
OTHERS = """TOKENIZERS_PARALLELISM GIT_AUTHOR_NAME PATH PWD OLDPWD KEYBOARD MODEL HF_HUB_OFFLINE WANDB_PROJECT
    XAUTHORITY OPENAI_BASE_URL COMPATIBLE""".split()


@pytest.mark.parametrize(("name", "secret"), [*((name, True) for name in SECRETS), *((name, False) for name in OTHERS)])
def test_a_secret_is_known_by_the_name_of_its_variable(name: str, secret: bool) -> None:
    assert privacy.is_secret(name) is secret


@pytest.mark.usefixtures("_secret")
def test_short_words_and_paths_are_no_secrets_and_passwords_in_addresses_and_logins_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SOME_AUTH", "true")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path))
    monkeypatch.setenv("BASE_MODEL", "mistralai/Mistral-7B-v0.1")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3cret-word@proxy:3128")
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / ".cache" / "huggingface" / "token").write_text("hf_of_the_login\n")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password 0123456789abcdef\n")
    found = privacy.secrets()
    assert found[SECRET] == "the environment variable HF_TOKEN"
    assert {"s3cret-word", "hf_of_the_login", "0123456789abcdef"} <= found.keys()
    assert not {"true", str(tmp_path), "mistralai/Mistral-7B-v0.1"} & found.keys()


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, (*path, name))
    else:
        yield path


@pytest.mark.usefixtures("_secret")
@pytest.mark.parametrize(
    "value",
    [
        *(SECRET, f"http://user:{SECRET}@host/v1", "${oc.env:HF_TOKEN}", "${oc.env:HF_TOKEN,default}"),
        *("${oc.decode:${oc.env:HF_TOKEN}}", "a-${oc.env:HOME}", "${oc.env:WANDB_PROJECT}"),
    ],
)
def test_no_value_of_a_config_holds_a_secret_or_reads_the_environment(compose_tree, value: str) -> None:
    for overrides in ((), ("task=gsm8k", "backbone=llama2", "sampler=open", "corrector=gpt4")):
        tree: Any = OmegaConf.to_container(compose_tree(*overrides), resolve=False)
        paths = list(leaves(tree))
        assert len(paths) > 250
        for path in paths:
            changed = parent = copy.copy(tree)
            for name in path[:-1]:
                parent[name] = copy.copy(parent[name])
                parent = parent[name]
            parent[path[-1]] = value
            with pytest.raises(UserError) as refused:
                environment.check(changed)
            assert str(refused.value).startswith(f"{'.'.join(map(str, path))}: ")
            assert SECRET not in str(refused.value)
            assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("_secret")
@pytest.mark.parametrize(
    "values",
    [
        {"mix.name": "env", "task.name": "${oc.${mix.name}:HF_TOKEN}"},  # the text has no name of a resolver
        {"mix.name": "env", "backbone.size": "${oc.${mix.name}:HF_TOKEN}"},
        {"mix.name": "env", "task.name": "${oc.select:nothing,${oc.${mix.name}:HOME}}"},
        {"mix.name": SECRET[9:], "task.name": f"{SECRET[:9]}${{mix.name}}"},
    ],
)
def test_what_only_shows_when_it_is_resolved_is_refused_too(compose_tree, values: dict[str, str]) -> None:
    tree = copy.deepcopy(compose_tree())
    with open_dict(tree):
        del tree["hydra"]
    for key, value in values.items():
        OmegaConf.update(tree, key, value)
    with pytest.raises(UserError, match="written into its results") as refused:
        to_config(tree)
    assert SECRET not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("_secret")
@pytest.mark.parametrize("override", [f"+task.dataset.splits.{SECRET}=train", f"+task.{SECRET}=1"])
def test_a_name_is_refused_as_a_value_is(make_config, override: str) -> None:
    with pytest.raises(UserError, match=r"task.*\*\*\*: holds the secret"):
        make_config("task=gsm8k", override)


@pytest.mark.usefixtures("_secret")
def test_our_own_three_settings_read_the_environment(make_config, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [line for file in CONF.rglob("*.yaml") for line in file.read_text().splitlines() if "oc.env" in line]
    values = [yaml.safe_load(line) for line in texts]
    assert {name: value for each in values for name, value in each.items()} == environment._OURS
    config = make_config(*SERVER)
    server = config.sampler.models["server"]
    assert (config.tracker.project, config.budget_usd) == ("lema", None)
    assert server.api.base_url == "http://localhost:8000/v1"
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("LEMA_BUDGET_USD", "2.5")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://here/v1")
    config = make_config(*SERVER)
    server = config.sampler.models["server"]
    assert (config.tracker.project, config.budget_usd, server.api.base_url) == ("mine", 2.5, "http://here/v1")
    monkeypatch.setenv("WANDB_PROJECT", SECRET)
    with pytest.raises(UserError, match=r"tracker\.project: holds the secret of the environment variable HF_TOKEN"):
        make_config(*SERVER)


def everything(folder: Path) -> bytes:
    """All names and contents below a folder, compressed ones opened."""
    found = [str(path.relative_to(folder)).encode() for path in folder.rglob("*")]
    for file in (path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        found.append(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    return b"\n".join(found)


@pytest.mark.usefixtures("_secret")
@pytest.mark.parametrize(("arguments", "key"), some(table(__file__, "commands with a secret", SECRET=SECRET), 4))
def test_a_command_with_a_secret_ends_in_one_line_and_leaves_nothing(
    run_cli: CLI, tmp_path: Path, arguments: list[str], key: str
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "one.yaml").write_text(f"# @package _global_\ntask:\n  name: {SECRET}\n")
    (mine / "two.yaml").write_text("# @package _global_\nhydra:\n  run:\n    dir: x/${oc.env:HF_TOKEN}\n")
    (mine / "three.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      mix.name: a,${oc.env:HF_TOKEN}\n"
    )
    done = run_cli(*arguments, *SMALL, "until=data", f"runs_dir={tmp_path / 'runs'}")
    assert done.returncode != 0
    assert SECRET not in done.stdout + done.stderr
    assert "a-new-secret" not in done.stdout + done.stderr
    assert re.fullmatch(rf"{re.escape(key)}: [^\n]*, and a config is written into its results: [^\n]*\n", done.stderr)
    for file in mine.iterdir():
        file.unlink()
    assert SECRET.encode() not in everything(tmp_path)
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("_secret")
def test_what_hydra_says_of_a_file_shows_no_secret(run_cli: CLI, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "one.yaml").write_text(f"# @package _global_\nnosuch: {SECRET}\n")
    (tmp_path / "mine" / "two.yaml").write_text("defaults:\n  - /task: ${oc.env:HF_TOKEN}\n")
    for name in ("one", "two"):
        done = run_cli("--config-dir", ".", f"+mine={name}", *SMALL, f"runs_dir={tmp_path / 'runs'}")
        assert done.returncode != 0
        assert SECRET not in done.stdout + done.stderr


def test_a_user_who_writes_no_secret_is_left_alone(compose_tree) -> None:
    tree: DictConfig = copy.deepcopy(compose_tree())
    environment.check(tree)
    with open_dict(tree):
        tree.hydra.job.env_set = {"OMP_NUM_THREADS": "1"}
    environment.check(tree)
    environment.check_arguments(["mix=lema", "task.dataset.path=/data/tokens", "--multirun"])


@pytest.mark.slow
@pytest.mark.usefixtures("_secret")
def test_a_whole_run_and_a_sweep_write_no_secret_that_they_were_started_with(
    run_cli: CLI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {"OPENAI_API_KEY": "sk-of-the-openai", "WANDB_API_KEY": "f" * 40, "DB_PASSWORD": "pass-of-the-database"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    for arguments in ([], ["-m", "seed=1,2", "hydra.output_subdir=.hydra"]):
        done = run_cli(*arguments, *SMALL, "tracker=wandb", f"runs_dir={tmp_path / 'runs'}")
        assert done.returncode == 0, done.stderr
    found = everything(tmp_path)
    assert not [name for name, value in (secrets | {"HF_TOKEN": SECRET}).items() if value.encode() in found]


def test_the_module_of_the_callback_is_light(root: Path) -> None:
    code = "import lema.config.environment, sys; print('torch' in sys.modules or 'wandb' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True) == "False\n"
