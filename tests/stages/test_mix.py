"""The arms: two of them differ in nothing but what they are named for."""

import json
import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from omegaconf import OmegaConf
from small import ROOT, all_steps
from tables import some

from lema import pipeline
from lema.artifacts import Artifact, Recipe, Shown, Store
from lema.cell import Cell
from lema.config import Config
from lema.engines import ServedModel
from lema.prompts import formats
from lema.stages import mix
from lema.types import Correction, Example, Problem, UserError

MIXES = {file.stem: OmegaConf.load(file) for file in sorted((ROOT / "conf/mix").glob("*.yaml"))}
# An untrained base, whose every answer is a wrong path.
SMALL = [
    *("backbone.tiny.steps=2", "backbone.tiny.corpus_size=200", "task.num_train=38", "task.num_test=4"),
    *("task.num_dev=8", "sampler.keep_unanswered=true", "sampler.max_new_tokens=12", "tracker=none", "until=mix"),
]
# Of 30 training questions: fewer corrections than CoT examples, as the paper has, and more than twice as many.
RECORDED = "own_right"  # needs right solutions too: tests/stages/test_mix_of_recorded.py
SIZES = {"few": ["task.max_cot=20", "task.max_extra=7"], "many": ["task.max_cot=8", "sampler.samples=2"]}


class Arm(NamedTuple):
    """What the mix stage left of one arm, and what is made from it."""

    examples: list[Example]
    summary: dict[str, Any]
    artifacts: dict[str, Artifact]
    train: Recipe
    setting: str | None

    def extra(self) -> list[Example]:
        return [example for example in self.examples if example.source != "cot"]

    def cot(self) -> list[Example]:
        return [example for example in self.examples if example.source == "cot"]


def arm(config: Config) -> Arm:
    """Run a cell up to its mix, and find what it made."""
    pipeline.run(config, [])
    cell = Cell(config, Store(Path(config.runs_dir)))
    steps = {step.name: step for step in all_steps(cell)}
    for name in ("data", "base", "sample_self", "correct", "other_base", "other_sample_self", "other_correct", "mix"):
        if name in steps:
            artifact = cell.store.find(steps[name].recipe(cell))
            assert artifact
            cell.artifacts[name] = artifact
    made, train = cell.artifacts["mix"], steps["train"].recipe(cell)
    return Arm(made.rows("examples.jsonl", Example), made.summary, cell.artifacts, train, cell.setting)


@pytest.fixture(scope="module", params=some(SIZES, 2))
def arms(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., Config]
) -> dict[str, Arm]:
    """Every arm of one cell."""
    runs, sizes = tmp_path_factory.mktemp("arms"), SIZES[request.param]
    names = [name for name in MIXES if name != RECORDED]
    return {name: arm(make_config(*SMALL, *sizes, f"mix={name}", f"runs_dir={runs}")) for name in names}


def test_arms_share_all_that_they_are_not_named_for(arms: dict[str, Arm]) -> None:
    for name, each in arms.items():
        shared = {step: made.path for step, made in each.artifacts.items() if step != "mix" and "other" not in step}
        assert shared.items() <= {step: artifact.path for step, artifact in arms["lema"].artifacts.items()}.items()
        assert each.setting == arms["lema"].setting
        assert each.train.settings == arms["lema"].train.settings
        assert each.train.inputs.base == arms["lema"].train.inputs.base, name
    assert len({each.train.inputs.mix.digest for each in arms.values()}) == len(arms)


def test_cot_examples_are_the_same_in_every_arm_that_has_all_of_them(arms: dict[str, Arm]) -> None:
    whole = arms["cot"].examples
    assert whole == arms["cot"].cot()
    for name, each in arms.items():
        if MIXES[name].cot == "all":
            assert each.examples[: len(whole)] == whole
            assert each.cot() == whole
    assert arms["corrections"].examples == arms["lema"].extra()


def test_as_many_corrections_of_another_models_mistakes(arms: dict[str, Arm]) -> None:
    own, others = arms["lema"], arms["lema_random"]
    assert others.artifacts["other_base"].path != others.artifacts["base"].path
    assert others.artifacts["other_sample_self"].path != others.artifacts["sample_self"].path
    assert {example.source for example in others.extra()} == {"correction"}
    assert len(others.extra()) == len(own.extra())
    assert {example.prompt for example in others.extra()} != {example.prompt for example in own.extra()}


@pytest.mark.parametrize("part", ["step", "explanation", "solution"])
def test_an_ablation_lacks_its_part_and_nothing_else(arms: dict[str, Arm], part: str) -> None:
    form = (
        r"(?s)(?P<step>Incorrect Step: Step \d+\.)\n(?P<explanation>Explanation: .+)\n(?P<solution>Correct Solution:.+)"
    )
    whole, ablated = arms["lema"].extra(), arms[f"lema_no_{part}"].extra()
    assert [example.problem_id for example in ablated] == [example.problem_id for example in whole]
    for before, after in zip(whole, ablated, strict=True):
        asked, first = before.prompt.rsplit("\n", 1)
        parts = re.fullmatch(form, first + before.completion)
        assert parts
        still_asked, still_first = after.prompt.rsplit("\n", 1)
        kept = [text for name, text in parts.groupdict().items() if name != part]
        assert still_first + after.completion == "\n".join(kept)
        assert still_asked.split("\n", 1)[1] == asked.split("\n", 1)[1]  # question and wrong path


def test_the_same_mistakes_in_each_form(arms: dict[str, Arm]) -> None:
    corrections = arms["lema"].artifacts["correct"].rows("corrections.jsonl", Correction)
    questions = {each.id: each.question for each in arms["lema"].artifacts["data"].rows("train.jsonl", Problem)}
    found = {formats.correction_prompt(questions[each.problem_id], each.wrong_steps): each for each in corrections}
    drawn = [found[example.prompt] for example in arms["lema"].extra()]
    forms = ("cot_matched", "mistakes", "mistakes_marked", "inline")
    for correction, *examples in zip(drawn, *(arms[name].extra() for name in forms), strict=True):
        matched, mistake, marked, inline = examples
        assert len({(example.problem_id, example.prompt) for example in examples}) == 1
        assert mistake.completion == formats.cot_completion(correction.wrong_steps)
        assert marked.completion == f"{mistake.completion} This solution is incorrect."
        assert mistake.weights == marked.weights == ()
        kept, told = correction.incorrect_step - 1, formats.cot_completion([f"Explanation: {correction.explanation}"])
        before, wrong = (
            formats.cot_completion(part) for part in (correction.wrong_steps[:kept], correction.wrong_steps[kept:][:1])
        )
        lesson = f"Incorrect Step. {told} "
        right = matched.completion.removeprefix(before).removeprefix(" ")
        assert inline.completion == " ".join(filter(None, [before, wrong, lesson + right]))
        masked = [inline.completion[start:][:size].strip() for start, size, weight in spans(inline) if not weight]
        assert masked == ([wrong] if wrong else [])  # where a step is missing, none is wrong
        assert sum(size for size, _ in inline.weights) == (len(inline.completion) if wrong else 0)
    assert arms["explanation"].examples == arms["lema_no_solution"].extra()


def spans(example: Example) -> list[tuple[int, int, float]]:
    """Where each part with a weight of its own begins, how long it is, and the weight."""
    starts = accumulate((size for size, _ in example.weights), initial=0)
    return [(start, size, weight) for start, (size, weight) in zip(starts, example.weights, strict=False)]


def test_weights_change_nothing_but_the_weights(
    arms: dict[str, Arm], request: pytest.FixtureRequest, make_config: Callable[..., Config]
) -> None:
    folder = arms["lema"].artifacts["mix"].path
    assert "weights" not in (folder / "examples.jsonl").read_text()
    assert "weights" not in json.loads((folder / "record.json").read_text())["recipe"]["config"]["mix"]
    sizes = SIZES[request.node.callspec.params["arms"]]
    weights = ["mix.weights.step=0", "mix.weights.explanation=0.5"]
    weighted = arm(make_config(*SMALL, *sizes, *weights, "mix=lema", f"runs_dir={folder.parents[1]}"))
    assert [replace(each, weights=()) for each in weighted.examples] == arms["lema"].examples
    for example in weighted.extra():
        assert [weight for _, _, weight in spans(example)] == [0, 0.5, 1]
        step, explanation, solution = (example.completion[start:][:size] for start, size, _ in spans(example))
        assert re.fullmatch(r" Step \d+\.\n", step)
        assert explanation.startswith("Explanation: ")
        assert solution.startswith("Correct Solution:")


def test_extra_examples_are_as_many_and_of_the_named_questions(arms: dict[str, Arm]) -> None:
    asked = {name: [example.problem_id for example in each.extra()] for name, each in arms.items()}
    cot = {example.problem_id for example in arms["cot"].examples}
    forms = ("lema", "corrections", "explanation", "mistakes", "mistakes_marked", "inline")
    assert all(asked[name] == asked["cot_matched"] for name in forms)
    assert len(asked["cot_random"]) == len(asked["cot_repeated"]) == len(asked["lema"])
    assert cot.isdisjoint(asked["cot_random"] + asked["lema"])
    assert set(asked["cot_repeated"]) <= cot
    texts = {(example.prompt, example.completion) for example in arms["cot"].examples}
    assert {(example.prompt, example.completion) for example in arms["cot_repeated"].extra()} <= texts
    for name in ("cot_random", "cot_repeated"):  # in rounds: each before any comes again
        times = Counter(asked[name])
        pool = len(cot) if name == "cot_repeated" else 30 - len(cot)
        assert sorted(times.values()) == sorted(Counter(number % pool for number in range(len(asked[name]))).values())


def test_lema_32k_is_as_large_as_cot_and_part_of_lema(arms: dict[str, Arm]) -> None:
    small, lema, total = arms["lema_32k"], arms["lema"], len(arms["cot"].examples)
    assert len(small.examples) == total
    assert len(small.extra()) == min(len(lema.extra()), total // 2)
    places = [lema.examples.index(example) for example in small.examples]
    assert places == sorted(set(places))
    assert places[: len(small.cot())] != list(range(len(small.cot()))), "cut at random, not at the end"


def test_cot_tokens_is_cot_matched_filled_to_the_tokens_of_lema(arms: dict[str, Arm]) -> None:
    from lema.models.encoding import encode_completion, encode_prompt
    from lema.models.huggingface import load_tokenizer
    from lema.models.weights import Weights

    tokenizer = load_tokenizer(Weights("tiny", str(arms["lema"].artifacts["base"].path), None, ""))

    def tokens(examples: list[Example]) -> int:
        texts = [
            (encode_prompt(tokenizer, each.prompt), encode_completion(tokenizer, each.completion)) for each in examples
        ]
        return sum(len(prompt) + len(completion) for prompt, completion in texts)

    filled, matched = arms["cot_tokens"].examples, arms["cot_matched"].examples
    aim, longest = tokens(arms["lema"].examples), max(tokens([each]) for each in arms["cot_random"].examples)
    assert filled[: len(matched)] == matched
    added = filled[len(matched) :]
    assert {example.source for example in added} == {"random_cot"}
    assert abs(tokens(filled) - aim) <= longest / 2
    assert abs(tokens(filled) - aim) <= abs(tokens(filled[:-1]) - aim)
    times = Counter(example.problem_id for example in added)
    assert max(times.values()) == -(-len(added) // (30 - len(arms["cot"].examples)))
    for each in arms.values():
        assert each.summary["total"]["tokens"] == tokens(each.examples)


@pytest.mark.parametrize(("tokens", "kept"), [(-3, 0), (0, 0), (4, 0), (5, 0), (6, 1), (14, 1), (16, 2), (68, 7)])
def test_filling_ends_where_it_is_nearest(tokens: int, kept: int) -> None:
    examples = [Example(name, "random_cot", "", name) for name in "abc"]
    chosen = mix.filling(examples, tokens, lambda example: (3, 7), seed=0)
    assert len(chosen) == kept
    for start in range(0, kept, 3):
        assert len(set(chosen[start : start + 3])) == min(3, kept - start)
    assert mix.filling([], 10, lambda example: (3, 7), seed=0) == []


def test_the_table_counts_each_source_and_is_printed(
    arms: dict[str, Arm], tmp_path: Path, make_config: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    for each in arms.values():
        sources = each.summary["sources"]
        assert {name: row["examples"] for name, row in sources.items()} == Counter(row.source for row in each.examples)
        for name, row in sources.items():
            assert row["questions"] == len({item.problem_id for item in each.examples if item.source == name})
        for field in ("examples", "tokens", "target_tokens"):
            assert each.summary["total"][field] == sum(row[field] for row in sources.values())
        assert each.summary["total"]["questions"] == len({row.problem_id for row in each.examples})
    with caplog.at_level(logging.INFO, "lema.stages.mix"):
        total = arm(make_config(*SMALL, "mix=cot", "task.max_cot=8", f"runs_dir={tmp_path}")).summary["total"]
    shown, *told = [record.getMessage() for record in caplog.records if record.name == "lema.stages.mix"]
    assert shown.count("---") == shown.count("The answer is") == 3
    lines = [line.split() for line in told]
    assert [line[0] for line in lines] == ["mix", "cot", "total"]
    assert lines[-1][1:] == [f"{number:,}" for number in total.values()]


def test_corrections_that_name_no_step_have_no_arm_without_it(
    tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    choices = [{"label": label, "text": text} for label, text in (("A", "bank"), ("B", "mall"), ("C", "zoo"))]
    rows = [
        {"question": {"stem": f"Where is {number}?", "choices": choices}, "answerKey": "A", "why": "A bank has one."}
        for number in range(38)
    ]
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows[: len(rows) if split == "train" else 1])
        )
    small = [override for override in SMALL if not override.startswith("task.num_t")]
    small += ["task=csqa", f"task.dataset.path={tmp_path}", "task.dataset.solution=why", "task.max_cot=8"]
    small += [f"runs_dir={tmp_path / 'runs'}"]
    for name, what in (("lema_no_step", "leave out"), ("inline", "correct in place")):
        line = f"^mix={name}: corrections of csqa name no step to {what}; run mix=lema$"
        with pytest.raises(UserError, match=line):
            arm(make_config(*small, f"mix={name}"))
    whole, told = (arm(make_config(*small, f"mix={name}")).extra() for name in ("lema", "lema_no_solution"))
    for before, after in zip(whole, told, strict=True):
        assert before.completion.split("\nCorrected Answer:")[0] == after.completion


def test_one_budget_pays_for_both_models_mistakes(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    config = make_config("corrector=gpt4", "budget_usd=5", "mix=lema_random")
    paid = {"correct": 3.0, "other_sample_x": 0.5, "other_correct": 1.0}
    made = {name: Artifact(tmp_path, "", {"usd": usd}, Shown("corrections")) for name, usd in paid.items()}
    cell = Cell(config, Store(tmp_path), made)
    engine: Any = cell.context.engine(ServedModel(config.corrector.api, "corrector"))
    assert (engine.account.budget_usd, engine.account.paid_usd) == (5.0, 4.5)
    assert cell.other.key != cell.key
