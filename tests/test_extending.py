"""A new engine is one file and its choice in conf/; a new stage is one file and one line of the pipeline."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small import ROOT, SMALL

ENGINE = '''
"""parrot: a model that says one thing, whatever it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema.config.allowed import Count
from lema.engines import LocalModel
from lema.models.weights import Weights
from lema.types import Completion, Prompt


@dataclass(kw_only=True)
class Settings:
    """What the parrot says."""

    name: str
    says: str
    times: Count


class Engine:
    """A parrot."""

    def __init__(self, settings: Settings, model: LocalModel, weights: Weights, adapter: Path | None) -> None:
        self.settings, self.weights, self.costs = settings, weights, dict[str, Any]()
        self.about = {"engine": "parrot"}

    def complete(self, prompts: Sequence[Prompt], resume: Path) -> list[Completion]:
        """The same for each."""
        text = " ".join([self.settings.says] * self.settings.times)
        return [Completion(text, "stop", self.weights.name, len(text.split())) for _ in prompts]
'''
CHOICE = "name: parrot\nsays: The answer is 7.\ntimes: 1\n"
STAGE = '''
"""tally: how many corrections name each step."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema.artifacts import Artifact, Recipe, Shown, write_json
from lema.cell import Cell, Context
from lema.types import Correction

SHOWN = Shown("tally", ("steps.json",), {"unread": "corrections that were not read"})


@dataclass(frozen=True)
class Settings:
    """Which corrections count."""

    accepted: bool


@dataclass(frozen=True)
class Inputs:
    """The corrections."""

    correct: Artifact


def recipe(cell: Cell) -> Recipe:
    inputs = Inputs(cell.artifacts["correct"])
    return Recipe("tally", cell.arm, version=1, settings=Settings(accepted=True), inputs=inputs, shown=SHOWN)


def build(settings: Settings, inputs: Inputs, context: Context, folder: Path) -> dict[str, Any]:
    rows = [row for row in inputs.correct.rows("corrections.jsonl", Correction) if row.accepted == settings.accepted]
    write_json(folder / "steps.json", Counter(row.incorrect_step for row in rows))
    return {"corrections": len(rows), "unread": 3}
'''
LINE = '        "tally": [Step("tally", "tally")],\n'


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the project."""
    for folder in ("lema", "conf", "sweeps"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run.py", tmp_path)
    return tmp_path


def run(house: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(house)}
    command = [sys.executable, "run.py", *SMALL, *overrides]
    return subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True, timeout=300)


def summary(house: Path, step: str) -> dict:
    [record] = house.glob(f"runs/cells/*/{step}/record.json")
    return json.loads(record.read_text())["summary"]


@pytest.mark.slow
def test_an_engine_is_one_file_and_its_choice(house: Path) -> None:
    assert len(ENGINE.strip().splitlines()) < 40
    (house / "lema/engines/parrot.py").write_text(ENGINE.lstrip())
    (house / "conf/engine/parrot.yaml").write_text(CHOICE)
    for mistyped, words in {
        "+engine.say=8": "engine.say=8: no such key; choose from name, says, times",
        "engine.times=0": "engine.times=0: must be at least 1",
        "engine.name=parot": "engine.name=parot: no such engine; choose engine=parrot or server or transformers",
    }.items():
        refused = run(house, "engine=parrot", mistyped)
        assert refused.returncode != 0
        assert words in refused.stderr
        assert "Traceback" not in refused.stderr
    made = run(house, "engine=parrot", "engine.times=2")
    assert made.returncode == 0, made.stderr
    assert summary(house, "sample_self")["models"] == ["tiny"]
    [predictions] = house.glob("runs/cells/*/evaluate/predictions.jsonl")
    assert {json.loads(line)["text"] for line in predictions.open()} == {"The answer is 7. The answer is 7."}
    [record] = house.glob("runs/cells/*/evaluate/record.json")
    told = json.loads(record.read_text())["recipe"]["config"]["model"]["engine"]
    assert told == {"name": "parrot", "says": "The answer is 7.", "times": 2}


@pytest.mark.slow
def test_a_stage_is_one_file_and_one_line_of_the_pipeline(house: Path) -> None:
    (house / "lema/stages/tally.py").write_text(STAGE.lstrip())
    pipeline = house / "lema/pipeline.py"
    code = pipeline.read_text()
    assert code.count('        "rationales": ') == 1
    pipeline.write_text(code.replace('        "rationales": ', LINE + '        "rationales": '))
    early = run(house, "only=tally")
    assert early.returncode != 0
    assert "only=tally: data, base, sample_self, correct must be made first; run it without only=" in early.stderr
    unknown = run(house, "until=taly")
    assert unknown.returncode != 0
    assert "until=taly: no such stage; choose from data, base, sample, correct, tally, rationales" in unknown.stderr
    stopped = run(house, "until=tally")
    assert stopped.returncode == 0, stopped.stderr
    assert summary(house, "tally")["corrections"] == summary(house, "correct")["accepted"]
    assert not list(house.glob("runs/cells/*/mix"))
    whole = run(house)
    assert whole.returncode == 0, whole.stderr
    assert "corrections that were not read 3" in whole.stdout, "counted in the report"


@pytest.mark.parametrize("file", sorted((ROOT / "lema/stages").glob("[a-z]*.py")), ids=lambda file: file.stem)
def test_a_stage_builds_from_its_settings_and_inputs_alone(file: Path) -> None:
    """What `build` reaches in its module may not name a cell, a config or the environment."""
    functions = {node.name: node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert [argument.arg for argument in functions["build"].args.args] == ["settings", "inputs", "context", "folder"]
    reached, waiting = set[str](), ["build"]
    while waiting:
        reached.add(name := waiting.pop())
        nodes = list(ast.walk(functions[name]))
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        assert not names & {"Cell", "cell", "Config", "os", "known_tasks"}, f"{name} reads more"
        calls = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        waiting += [each for each in calls & functions.keys() if each not in reached]
