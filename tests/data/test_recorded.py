"""Recorded solutions: what is of a training question is read, what is of a test question ends the run."""

import ast
import gzip
import json
import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from questions import FENCE, PREFIXES, SUFFIXES, WRAPS, all_tests, problems, questions
from tables import table

from lema.data import leakage, recorded
from lema.prompts.formats import cot_prompt
from lema.types import Problem, UserError

KEY = "sampler.models.old.recorded"
TRAIN = problems(
    ["Tom has 5 apples. How many?", "Compute $\\sin 60^\\circ$.", "Compute $\\sin(-60^\\circ)$.", "What do planes do?"],
    "some-train",
)
TESTS = problems([FENCE, "What do planes do as they arrive at the gate?", "Compute $\\sin {-60}^\\circ$."])
TOM = TRAIN[0].question


def write(file: Path, *rows: object) -> Path:
    """Rows as JSON lines; bytes as they are."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    file.write_bytes(b"\n".join(lines))
    return file


def read(file: Path, train: list[Problem] = TRAIN, tests: Iterable[Problem] = TESTS) -> list[Any]:
    return list(recorded.read(str(file), train, leakage.TestQuestions(tests), KEY, Counter()))


def read_rows(folder: Path, *rows: object) -> list[tuple[str, str, str | None]]:
    return [(problem.id, text, model) for problem, text, model in read(write(folder / "rows.jsonl", *rows))]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        *table(__file__, "rows in the field names that are in use"),
        ({"prompt": cot_prompt("lema", FENCE) + "80.\n\n" + cot_prompt("lema", TOM), "samples": ["5."]}, ["5.", None]),
    ],
)
def test_rows_in_the_field_names_that_are_in_use(tmp_path: Path, row: dict[str, Any], expected: list[Any]) -> None:
    *texts, model = expected
    assert read_rows(tmp_path, row) == [("some-train-0", text, model) for text in texts]


@pytest.mark.parametrize(
    "mark",
    ["</s>", "<|im_end|>\n", " <eos>", "<|eot_id|></s>", "<|endoftext|>", "<|end_of_turn|>", "<pad><pad>", "[EOS]"],
)
def test_marks_of_the_end_are_no_part_of_a_recorded_text(tmp_path: Path, mark: str) -> None:
    assert read_rows(tmp_path, {"question": TOM + mark, "text": f"5.{mark}"}, {"question": TOM, "text": mark}) == [
        ("some-train-0", "5.", None)
    ]
    [found] = read_rows(tmp_path, {"question": TOM, "text": f"5{mark} is {mark.strip()} here"})
    assert found[1] == f"5{mark} is {mark.strip()} here"


def test_choice_prompts_are_unwrapped(tmp_path: Path) -> None:
    asked = cot_prompt("lema", TRAIN[3].question, ["fly", "drive"])
    assert read_rows(tmp_path, {"prompt": asked, "text": "Fly."}) == [("some-train-3", "Fly.", None)]


def test_a_training_question_is_used_though_it_resembles_a_test_question(tmp_path: Path) -> None:
    [found] = read_rows(tmp_path, {"question": TRAIN[3].question.lower(), "text": "Fly."})
    assert found[0] == "some-train-3"
    assert leakage.TestQuestions(TESTS).match(TRAIN[3].question)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": TRAIN[1].question}, ["some-train-1"]),
        ({"question": TRAIN[2].question}, ["some-train-2"]),
        ({"question": "compute sin 60 circ", "id": "some-train-2"}, ["some-train-2"]),
        ({"question": "compute sin 60 circ"}, []),  # either
        ({"problem_id": "some-train-0", "id": "some-train-1"}, []),
        ({"problem_id": "some-train-0", "id": "some-train-0"}, ["some-train-0"]),
    ],
)
def test_training_questions_that_differ_in_signs_alone_are_told_apart(
    tmp_path: Path, row: dict[str, str], expected: list[str]
) -> None:
    other = {"question": TOM, "text": "5."}
    file, counts = write(tmp_path / "rows.jsonl", {**row, "text": "x"}, other), Counter()
    found = [problem.id for problem, _, _ in recorded.read(str(file), TRAIN, leakage.TestQuestions(TESTS), KEY, counts)]
    assert found == [*expected, "some-train-0"]
    assert counts == ({} if expected else {recorded.SEVERAL: 1})


@pytest.mark.parametrize(("row", "said"), table(__file__, "a row of a test set ends the run"))
def test_a_row_of_a_test_set_ends_the_run(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    good = {"question": TOM, "text": "5."}
    with pytest.raises(UserError, match=said) as caught:
        read_rows(tmp_path, good, {**row, "text": "5."}, good)
    message = str(caught.value)
    assert message.endswith(f"remove such rows from {KEY}={tmp_path / 'rows.jsonl'}")
    assert "nothing of a test set is sampled or corrected" in message
    assert "\n" not in message


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    file, counts = tmp_path / "rows.jsonl", Counter()
    write(
        file,
        {"question": "Who eats 7 pears?", "text": "I."},
        {"question": TOM, "samples": ["5.", "", " \n"]},
        {"question": TOM, "samples": []},
        {"question": TOM, "text": None},
        {"question": TOM, "text": float("nan")},
    )
    found = list(recorded.read(str(file), TRAIN, leakage.TestQuestions(TESTS), KEY, counts))
    assert [text for _, text, _ in found] == ["5."]
    assert counts == {recorded.OTHER: 1, recorded.EMPTY: 5}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "it has no row"),
        ([b"", b"  "], "it has no row"),
        ([{"question": "Who eats 7 pears?", "text": "I."}] * 2, "question of no problem: 2"),
        ([{"question": TOM, "text": ""}], "empty solution: 1"),
    ],
)
def test_a_file_with_nothing_to_use_is_a_user_error(tmp_path: Path, rows: list[Any], said: str) -> None:
    with pytest.raises(UserError, match=rf"{KEY}=.*rows\.jsonl: no solution of the 4 training questions \({said}\)"):
        read_rows(tmp_path, *rows)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"question": "x"', "not valid JSON"),
        (b"question: x", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"question": "caf\xe9"}', "not UTF-8"),
        (b"\xff\xfe{", "not UTF-8"),
        (b"[1, 2]", "a row must be a JSON object with named fields, not list"),
        (b"null", "a row must be a JSON object with named fields, not NoneType"),
        (b'{"question": 7, "text": "x"}', "field 'question': must be text, not int"),
        (b'{"question": {"x": "x"}, "text": "x"}', "no question among its fields 'question, text' and no id"),
        (b'{"id": "some-train-0", "text": ["x", 3]}', "field 'text': must be text, not int"),
        (b'{"id": "some-train-0", "completion": [{"x": "x"}]}', "field 'completion': must be text, not dict"),
        (
            b'{"id": "some-train-0", "answer": "5"}',
            "none of its fields 'id, answer' is certainly a model's text; rename",
        ),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_rows(tmp_path, {"question": TOM, "text": "5."}, line, {"question": TOM, "text": "5."})
    assert str(caught.value).startswith(f"{tmp_path / 'rows.jsonl'} line 2")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_of_any_length_blank_lines_crlf_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    row = b'{"id": %s, "time": 1e999, "x": NaN, "question": "%s", "text": "5."}' % (b"1" * 10_000, TOM.encode())
    found = read_rows(tmp_path, b"\xef\xbb\xbf" + row + b"\r", row + b"\r", b"\r", b"")
    assert found == [("some-train-0", "5.", None)] * 2


def test_any_row_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    fields = "question problem query prompt input instruction messages model generator source problem_id id idx".split()
    fields += (
        "generation completion response output text model_output code samples solution steps choices resps".split()
    )
    values: list[Any] = [
        *(None, 1, 1.5, True, "", "x", ["x"], [], [""], [None], {}, {"a": 1}, "\ud800", "\x00\x1b\n", "½"),
    ]
    values += [[{"role": "user", "content": TOM}, {"role": "assistant", "content": "5."}], [[TOM]], [{"text": "5."}]]
    values += [TOM, FENCE, "some-train-0", "some-test-0"] + [TOM, "5."] * 9
    rng, ends, tests = random.Random(0), Counter(), leakage.TestQuestions(TESTS)
    for _ in range(2000):
        row = {field: rng.choice(values) for field in rng.sample(fields, rng.randint(0, 8))}
        file = write(tmp_path / "rows.jsonl", row)
        try:
            for problem, text, model in recorded.read(str(file), TRAIN, tests, KEY, Counter()):
                assert (problem.id, text.strip() != "") == ("some-train-0", True)
                assert f"{text}{model}".encode()
                ends["used"] += 1
        except UserError as error:
            ends["refused" if str(error).isprintable() else "refused in more"] += 1
    assert ends.keys() == {"used", "refused"}
    assert min(ends["used"], ends["refused"]) > 100


def test_gzip_is_read_and_a_truncated_one_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl.gz"
    noise = random.Random(0)
    rows = [{"question": TOM, "text": f"{noise.random()}"} for _ in range(5000)]
    content = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    file.write_bytes(content)
    assert [text for _, text, _ in read(file)] == [row["text"] for row in rows]
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"rows\.jsonl\.gz line \d+: cannot be read \(Compressed file ended"):
        read(file)
    file.write_bytes(content[:5000] + bytes(5000) + content[10000:])
    with pytest.raises(UserError, match=r"rows\.jsonl\.gz line \d+: "):
        read(file)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.GZ", "rows.jsonl.gz", "rows"])
@pytest.mark.parametrize("packed", [True, False])
def test_gzip_is_told_by_its_content(tmp_path: Path, name: str, packed: bool) -> None:
    content = json.dumps({"question": TOM, "text": "5."}).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    assert [text for _, text, _ in read(tmp_path / name)] == ["5."]


@pytest.mark.parametrize("name", ["none.jsonl", "none.jsonl.gz", "."])
def test_a_missing_file_is_a_user_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"{KEY}=.*; name a file of JSON lines, plain or \.gz$"):
        read(tmp_path / name)


def written(file: Path, number: int) -> Path:
    """A file of so many rows, half of them of other questions, every one another."""
    with file.open("w") as out:
        for row in range(number):
            question = TOM if row % 2 else f"Who eats {row} pears?"
            out.write(json.dumps({"question": question, "text": f"{row} is right. " * 30}) + "\n")
    return file


def test_rows_stream(tmp_path: Path) -> None:
    file, tests = written(tmp_path / "rows.jsonl", 10_000), leakage.TestQuestions(TESTS)
    tracemalloc.start()
    count = sum(1 for _ in recorded.read(str(file), TRAIN, tests, KEY, Counter()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5000
    assert peak < 1e6 < file.stat().st_size


@pytest.mark.full
def test_a_million_rows_take_ten_times_as_long_as_a_tenth_of_them(tmp_path: Path) -> None:
    tests, best = leakage.TestQuestions(TESTS), []
    for number in (100_000, 1_000_000):
        file, seconds = written(tmp_path / "rows.jsonl", number), []
        for _ in range(3):
            start = time.process_time()
            assert sum(1 for _ in recorded.read(str(file), TRAIN, tests, KEY, Counter())) == number // 2
            seconds.append(time.process_time() - start)
        best.append(min(seconds))
    assert best[1] < 11 * best[0]
    assert best[1] < 1e6 / 30_000


@pytest.mark.parametrize("task", ["gsm8k", "math", "csqa"])
def test_solutions_of_every_official_training_question_are_used(data_dir: Path, tmp_path: Path, task: str) -> None:
    train = questions(data_dir, task, "train")
    rows = [{"prompt": cot_prompt("alpaca", problem.question), "completion": "x"} for problem in train]
    found = read(write(tmp_path / "rows.jsonl", *rows), train, all_tests(data_dir))
    assert [problem for problem, _, _ in found] == train


@pytest.mark.full
def test_every_published_solution_of_a_test_question_is_refused(data_dir: Path, tmp_path: Path) -> None:
    train = [problem for task in ("gsm8k", "math") for problem in questions(data_dir, task, "train")[:20]]
    tests, count = leakage.TestQuestions(all_tests(data_dir)), 0
    file = data_dir / "grading" / "model_outputs.jsonl.gz"
    with gzip.open(file) as lines:
        for line in lines:
            one = write(tmp_path / "one.jsonl", line)
            with pytest.raises(UserError, match=r"has the id of the test question|cannot be traced to a training"):
                next(recorded.read(str(one), train, tests, KEY, Counter()))
            count += 1
    assert count == 10_816
    with pytest.raises(UserError, match=r"gz line 1: it has the id of the test question gsm8k-test-0 'Janet"):
        next(recorded.read(str(file), train, tests, KEY, Counter()))


def test_every_test_question_in_any_prompt_is_refused(data_dir: Path, tmp_path: Path) -> None:
    tests = leakage.TestQuestions(all_tests(data_dir))
    for problem in random.Random(0).sample(tests.problems, 300):
        row = {"prompt": cot_prompt("lema", problem.question.upper()), "samples": ["x"]}
        one = write(tmp_path / "one.jsonl", row)
        with pytest.raises(UserError, match=r"is the test question .* \(equal\)"):
            next(recorded.read(str(one), [], tests, KEY, Counter()))


IN_PROMPTS = [*WRAPS, *(f"{{q}} {suffix}" for suffix in SUFFIXES), *(f"{prefix}\n\n{{q}}" for prefix in PREFIXES)]


@pytest.mark.parametrize("task", ["gsm8k", "math", "csqa"])
def test_real_questions_are_found_in_every_prompt(data_dir: Path, tmp_path: Path, task: str) -> None:
    train, rng, counts = questions(data_dir, task, "train"), random.Random(0), Counter[str]()
    asked = [(wrap, problem) for wrap in IN_PROMPTS for problem in rng.sample(train, 50)]
    rows = [{"prompt": wrap.replace("{q}", problem.question), "text": problem.id} for wrap, problem in asked]
    file = write(tmp_path / "rows.jsonl", *rows)
    found = list(recorded.read(str(file), train, leakage.TestQuestions([]), KEY, counts))
    assert all(problem.id == text for problem, text, _ in found)
    assert len(found) + counts[recorded.SEVERAL] >= 0.995 * len(rows)


def test_real_test_questions_are_refused_in_every_prompt(data_dir: Path, tmp_path: Path) -> None:
    tests, rng = leakage.TestQuestions(all_tests(data_dir)), random.Random(0)
    for wrap in IN_PROMPTS:
        for problem in rng.sample(tests.problems, 10):
            file = write(tmp_path / "rows.jsonl", {"prompt": wrap.replace("{q}", problem.question), "text": "x"})
            with pytest.raises(UserError, match="is the test question"):
                list(recorded.read(str(file), [], tests, KEY, Counter()))


PENS = "Ann has 3 pens and buys 4 more. How many pens does she have now?"
PENS_ROW = json.dumps({"question": PENS, "generation": "3 + 4 = 8. The answer is 8."}).encode()


def content(name: str, text: str) -> bytes:
    """What a case's file holds. Two rows are cut short in the cases, and the bytes of one packed file are lost."""
    if name.lower().endswith(".gz"):
        return gzip.compress(PENS_ROW)
    if '"completions"' in text or '"generations"' in text:
        text = text if text.endswith("}") else text[: text.rindex(', "')] + "}"
    return text.encode()


def test_all_cases_are_read_as_labelled(data_dir: Path, tmp_path: Path) -> None:
    train, wrong = [Problem("gsm8k-train-0", PENS, "Ann has 3+4=<<3+4=7>>7 pens.", "7")], []
    for line in (data_dir / "cases" / "recorded.jsonl").open(encoding="utf-8"):
        case = json.loads(line)
        name, _, text = case["input"][1:].partition("] ")
        (tmp_path / name).write_bytes(content(name, text))
        try:
            found = read(tmp_path / name, train)
        except UserError:
            found = []
        texts = [(problem.id.removeprefix("gsm8k-train-"), text, model) for problem, text, model in found]
        expected = ast.literal_eval(case["expected"])
        if texts != (expected if isinstance(expected, list) else []):
            wrong.append((case["id"], expected, texts))
    assert not wrong
