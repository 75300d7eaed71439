"""do=audit: correctors side by side on labelled solutions, each request paid for once, refusals in one line."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai_server import OpenAIServer
from small import ROOT
from tables import some

from lema import pipeline
from lema.config import Config
from lema.correctors.verifier import DENIED, NO_VERDICT
from lema.prompts.formats import correction_completion
from lema.types import UserError

NONE = "None. Every step follows from the one before."


def rows(number: int = 12) -> list[dict[str, Any]]:
    """Solutions of a sum each: one in three is right, the others go wrong in their second step."""
    found = []
    for k in range(number):
        steps = [f"Tom has {k} apples.", f"{k} + 3 = {k + 3 + (k % 3 > 0)}.", f"The answer is {k + 3 + (k % 3 > 0)}."]
        found.append({"problem": asked(k), "steps": steps, "label": 1 if k % 3 else -1, "generator": f"g{k % 2}"})
    return found


def asked(k: int) -> str:
    return f"Tom has {k} apples and gets 3. How many has he?"


def reply(prompt: str) -> str:
    """Finds each error, but of every fourth solution, in which it names the first step."""
    k = int(prompt.rpartition("Question: Tom has ")[2].partition(" ")[0])
    right = [f"Tom has {k} apples.", f"{k} + 3 = {k + 3}.", f"The answer is {k + 3}."]
    if k % 4 == 0:
        return correction_completion(1, "It is wrong.", right)
    return correction_completion(2, "The sum is wrong.", right[1:]) if k % 3 else NONE


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The arguments of an audit on twelve solutions."""
    for split, shift in (("train", 100), ("test", 0)):
        problems = [
            {
                "question": asked(k + shift),
                "answer": f"{k + shift} + 3 = <<{k + shift}+3={k + shift + 3}>>x\n#### {k + shift + 3}",
            }
            for k in range(12)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    file = tmp_path / "labelled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    place = [f"runs_dir={tmp_path / 'runs'}", f"task.dataset.path={tmp_path}", f"audit.data={file}"]
    return ["do=audit", "task=gsm8k", "tracker=none", *place]


@pytest.fixture
def audit(command: list[str], tmp_path: Path, make_config: Callable[..., Config]) -> Callable[..., dict[str, Any]]:
    def audited(*overrides: str) -> dict[str, Any]:
        pipeline.run(make_config(*command, *overrides), [*command, *overrides])
        [report] = (tmp_path / "runs/reports").glob("audit-labelled-*/audit.json")
        return json.loads(report.read_text())

    return audited


GPT = ["corrector=gpt4", "budget_usd=5"]
OR_NONE = "corrector.prompt=may_be_right"


def test_correctors_stand_side_by_side_and_are_paid_once(audit, tmp_path: Path, monkeypatch) -> None:
    first = audit()["measured"]["all"]["reference"]
    assert (first["exact"]["part"], first["exact"]["of"], first["kept"]["part"], first["f1"]) == (8, 8, 4, 1.0)
    with OpenAIServer(reply=reply, model="gpt-6.2-sol") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        with pytest.raises(UserError, match=r"corrections by gpt-6\.2-sol: 12 requests.*budget_usd=") as unpaid:
            audit("corrector=gpt4", OR_NONE)
        assert "corrector.prompt=may_be_right" in str(unpaid.value)
        assert not server.requests
        audit(*GPT, OR_NONE)
        found = audit(*GPT)
        audit(*GPT)  # says it all again
        assert set(server.billed.values()) == {1}
        assert len(server.billed) == 24
    measured, name = found["measured"]["all"], "gpt-6.2-sol, or none"
    assert set(measured) == {"reference", name, "gpt-6.2-sol", "pairs"}
    told = {
        key: (measured[name][key]["part"], measured[name][key]["of"]) for key in ("exact", "kept", "alarms", "lucky")
    }
    assert told == {"exact": (6, 8), "kept": (3, 4), "alarms": (1, 4), "lucky": (2, 8)}
    assert measured[name]["f1"] == pytest.approx(0.75)
    assert measured["gpt-6.2-sol"]["f1"] is None
    [pair] = [each for each in measured["pairs"] if {each["a"], each["b"]} == {"reference", name}]
    assert {pair["only_a"], pair["only_b"]} == {3, 0}
    cost = found["correctors"][name]
    assert cost["each_accepted"]["usd"] == pytest.approx(cost["usd"] / 8)
    [text] = (tmp_path / "runs/reports").glob("audit-*/audit.md")
    assert "| F1 (ProcessBench), % | cannot say none |" in text.read_text()
    assert not list((tmp_path / "runs").glob("cells/*")), "an audit is no run"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["audit.data=null"], "audit.data=null: name solutions with human labels"),
        (["audit.data=/no/such.jsonl"], "audit.data=/no/such.jsonl: No such file or directory; name a file"),
        (["do=run"], ": does nothing without do=audit"),
        (["task=csqa"], "do=audit: corrections of csqa name no step; choose another task"),
        (["task=svamp"], "no row can be used with task=svamp"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_one_line(audit, tmp_path: Path, overrides: list[str], words: str) -> None:
    if "task=svamp" in overrides:
        row = {"Body": "Ann has 1.", "Question": "How many?", "Answer": 1}
        (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=words.replace(".", r"\.")) as refused:
        audit(*overrides)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("fault", ["refusal", "content_filter"])
def test_a_corrector_that_refuses_everything_is_one_line(audit, monkeypatch, fault: str) -> None:
    with OpenAIServer(faults=lambda body: fault, model="gpt-6.2-sol") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        with pytest.raises(UserError, match=r"^corrector: said nothing of all 12 solutions \(.* 12\); choose another"):
            audit(*GPT)


def judged(prompt: str) -> str:
    """Corrects as `reply` does; as a verifier it confirms the second step, and says nothing clear of Tom's 8 apples."""
    if "Named Step:" not in prompt:
        return reply(prompt)
    return "Perhaps." if "Tom has 8 apples" in prompt else f"{'Yes' if 'Named Step: Step 2.' in prompt else 'No'}."


VERIFIED = ["verifier=gpt4", "corrector.filter.verifier.model=gpt-6.1-terra"]


def test_filters_stand_side_by_side_with_what_each_keeps_and_how_precisely(audit, tmp_path: Path, monkeypatch) -> None:
    audit("corrector.filter.structural=true")
    audit()
    with OpenAIServer(reply=judged) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        with pytest.raises(
            UserError, match=r"corrections by gpt-6\.2-sol: 12 req.*verdicts by gpt-6\.1-terra: 0 to 12 req"
        ):
            audit("corrector=gpt4", *VERIFIED)
        with pytest.raises(UserError, match=r"corrections by gpt-6\.2-sol: 24 to 36 requests"):
            audit("corrector=gpt4", "corrector.tries=3", "corrector.filter.agree=2")
        audit(*GPT)
        audit(*GPT, *VERIFIED)
        assert set(server.billed.values()) == {1}, "the corrections are in the journal"
        assert len(server.billed) == 12 + 8, "what is rejected is not verified"
        assert {body["model"] for body in server.requests} == {"gpt-6.2-sol", "gpt-6.1-terra"}
        agreed = audit(*GPT, "corrector.tries=3", "corrector.filter.agree=2")
        assert server.stats()["billed"] == 12 + 8 + 13, "a second try of each, a third where it can change the choice"
    measured = agreed["measured"]["all"]
    name = "gpt-6.2-sol, verified by gpt-6.1-terra"
    assert set(measured) == {
        *("reference", "reference, structural", "gpt-6.2-sol", name, "gpt-6.2-sol, 2 of 3 agree", "pairs")
    }
    kept = {of: (each["answered"]["part"], each["precise"]["part"]) for of, each in measured.items() if of != "pairs"}
    assert (kept["gpt-6.2-sol"], kept[name], kept["gpt-6.2-sol, 2 of 3 agree"]) == ((8, 6), (6, 6), (8, 6))
    assert agreed["correctors"][name]["usd"] > agreed["correctors"]["gpt-6.2-sol"]["usd"]
    counts = [json.loads(file.read_text())["summary"] for file in (tmp_path / "runs/audit").glob("*/record.json")]
    [rejected] = [each["rejected"] for each in counts if "verified" in each.get("filter", "")]
    assert rejected == {"unparsable": 3, "identical to the wrong path": 1, DENIED: 1, NO_VERDICT: 1}


@pytest.mark.parametrize(("choices", "requests"), some([(VERIFIED, 20), ([OR_NONE], 12)], 2, pytest.mark.slow))
def test_a_killed_audit_goes_on_and_pays_for_nothing_twice(
    command: list[str], tmp_path: Path, choices: list[str], requests: int
) -> None:
    with OpenAIServer(reply=judged, latency=0.5) as server:
        environment = os.environ | {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "test", "NO_PROXY": "127.0.0.1"}
        slowly = ("corrector.max_concurrent_requests=1", "corrector.filter.verifier.max_concurrent_requests=1")
        arguments = [sys.executable, "run.py", *command, *GPT, *choices, *slowly[: 1 + (choices == VERIFIED)]]
        began = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while server.stats()["billed"] < requests - 8 and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(began.pid, signal.SIGKILL)
        began.wait(30)
        assert requests - 8 <= server.stats()["billed"] < requests
        done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        told = server.stats()
        assert told["prompts"] == requests
        assert told["billed"] <= requests + 1, "the one that was on its way when it was killed may be asked again"
    assert f"gpt-6.2-sol, {'or none' if choices == [OR_NONE] else 'verified by gpt-6.1-terra'}" in done.stdout


@pytest.mark.slow
def test_the_reference_corrector_is_as_good_on_human_labels_as_the_readme_says(
    data_dir: Path, tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    found = {}
    for name in ("processbench", "mr_gsm8k"):
        place = f"task.dataset.path={data_dir / 'gsm8k'}"
        command = ["do=audit", "task=gsm8k", "tracker=none", f"runs_dir={tmp_path}", place, f"audit.data={name}"]
        pipeline.run(make_config(*command), command)
        [report] = tmp_path.glob(f"reports/audit-{name}*/audit.json")
        found[name] = {
            kind: own["reference"]
            for kind, own in json.loads(report.read_text())["measured"].items()
            if "reference" in own
        }
    exact = {kind: (own["exact"]["part"], own["exact"]["of"]) for kind, own in found["mr_gsm8k"].items()}
    assert exact == {"all": (271, 590), "original": (217, 340), "reversed": (37, 187), "POT": (17, 63)}
    bench = found["processbench"]["all"]
    measured = (bench["exact"]["part"], bench["exact"]["of"], bench["kept"]["part"], bench["kept"]["of"])
    assert measured == (112, 207, 74, 193)


@pytest.mark.full
def test_a_small_model_that_is_loaded_here_is_audited(audit) -> None:
    if not (model := os.environ.get("LEMA_TEST_MODEL")):
        pytest.skip("set LEMA_TEST_MODEL to the folder of a small pretrained model, as SmolLM2-135M")
    verified = ["verifier=local", f"corrector.filter.verifier.weights.path={model}"]
    own = ["weights.name=smollm2", "weights.parameters=null"]
    verified += [f"corrector.filter.verifier.{each}" for each in own]
    verified += [
        "corrector.filter.verifier.max_completion_tokens=8",
        "corrector.filter.verifier.weights.precision=fp32",
    ]
    checked = audit(*verified, "limit=3")
    assert "reference, verified by smollm2" in checked["measured"]["all"]
    loaded = ["corrector=local", f"corrector.weights.path={model}", "corrector.max_completion_tokens=40"]
    loaded += [f"corrector.{each}" for each in own]
    found = audit(*loaded, OR_NONE, "limit=3", "corrector.temperature=0")
    [name] = found["correctors"]
    assert name.endswith(", or none")
    assert found["measured"]["all"][name]["unread"]["of"] == 3
    assert found["correctors"][name]["seconds"] > 0
