"""Artifacts: current ones are found, half-written ones never, and two processes make one."""

import itertools
import json
import multiprocessing
import os
import re
import shutil
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from small import texts

from lema import artifacts
from lema.artifacts import RESUME, Artifact, Recipe, Shown, Store, locks, write_jsonl
from lema.artifacts.locks import lock
from lema.types import Problem, Solution, UserError


def recipe(**config: object) -> Recipe:
    return Recipe("sample", "label", 1, dict(config), {"data": "abc"}, Shown("solutions"))


def write(folder: Path, text: str = "content") -> dict[str, object]:
    (folder / "file.txt").write_text(text)
    return {"lines": 1}


def test_current_artifact_is_not_made_again(tmp_path: Path) -> None:
    first, made = Store(tmp_path).make(recipe(a=1), write)
    second, again = Store(tmp_path).make(recipe(a=1), write)
    assert (made, again) == (True, False)
    assert first == second
    assert second.summary == {"lines": 1}


@pytest.mark.parametrize(
    "other",
    [
        Recipe("sample", "label", 2, {"a": 1}, {"data": "abc"}, Shown("solutions")),
        Recipe("sample", "label", 1, {"a": 2}, {"data": "abc"}, Shown("solutions")),
        Recipe("sample", "label", 1, {"a": 1}, {"data": "abd"}, Shown("solutions")),
    ],
    ids=["version", "config", "input"],
)
def test_another_recipe_is_another_artifact(tmp_path: Path, other: Recipe) -> None:
    store = Store(tmp_path)
    first, _ = store.make(recipe(a=1), write)
    second, made = store.make(other, write)
    assert made
    assert first.path != second.path


def test_digest_depends_on_content_and_not_on_time(tmp_path: Path) -> None:
    digests = []
    for name, text in {"a": "same", "b": "same", "c": "other"}.items():
        artifact, _ = Store(tmp_path / name).make(recipe(), lambda folder, text=text: write(folder, text))
        digests.append(artifact.digest)
    assert digests[0] == digests[1] != digests[2]


def test_failed_build_leaves_no_artifact_and_no_lock(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(folder: Path) -> dict[str, object]:
        write(folder, "half")
        raise UserError("no")

    with pytest.raises(UserError):
        store.make(recipe(), fail)
    assert store.find(recipe()) is None
    assert not list(tmp_path.rglob("*.lock"))
    assert store.make(recipe(), write)[1]


def test_resume_folder_survives_and_other_leftovers_do_not(tmp_path: Path) -> None:
    seen = []

    def build(folder: Path) -> dict[str, object]:
        seen.append(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()))
        ((folder / RESUME) / "state").write_text("1")
        write(folder)
        if len(seen) == 1:
            raise KeyboardInterrupt
        return {}

    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.make(recipe(), build)
    artifact, _ = store.make(recipe(), build)
    assert seen == [["resume/attempt.json"], ["resume/attempt.json", "resume/state"]]
    assert sorted(path.name for path in artifact.path.iterdir()) == ["file.txt", "record.json"]


def test_what_several_attempts_left_is_taken_over_and_nothing_is_left_of_them(tmp_path: Path) -> None:
    """A kill while one takes over from another leaves two; one that woke up may have written a third."""
    store = Store(tmp_path)
    folder = store._folder(recipe())
    left = {
        ".partial": {"resume/attempt.json": "{}", "resume/checkpoint-4/weights": "of the older lema"},
        ".1a2b3c4d.partial": {"resume/attempt.json": "{}", "resume/checkpoint-8/weights": "8", "file.txt": "half"},
        ".5e6f7a8b.partial": {"resume/checkpoint-8/weights": "of who woke up", "resume/.sample 0.json.1f": "half"},
    }
    for suffix, files in left.items():
        for name, text in files.items():
            file = Path(f"{folder}{suffix}") / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def build(own: Path) -> dict[str, object]:
        found.update({name: text for name, text in texts(own).items() if not name.endswith("attempt.json")})
        assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [own.name]
        return write(own)

    found: dict[str, str] = {}
    store.make(recipe(), build)
    assert found == {"resume/checkpoint-4/weights": "of the older lema", "resume/checkpoint-8/weights": "8"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_paused_owner_that_goes_on_writing_changes_nothing_for_who_took_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through files it has open, by paths, and in folders that it holds open, as `shutil.rmtree` does."""
    monkeypatch.setattr(locks, "LOOK_SECONDS", 0.0)
    store, left = Store(tmp_path), []

    def paused(own: Path) -> dict[str, object]:
        (own / RESUME / "checkpoint-4").mkdir()
        (own / RESUME / "checkpoint-4" / "weights").write_text("4")
        opened = os.open(own / RESUME / "checkpoint-4", os.O_RDONLY)
        half = (own / RESUME / ".answers.1f").open("w")
        [path] = (tmp_path / "sample").glob("*.lock")
        mine = path.read_text()
        path.unlink()
        with monkeypatch.context() as another:  # process has taken over, and is done
            another.setattr(locks, "_held", [])
            artifact, made = store.make(recipe(), ours)
        path.write_text(mine)
        half.write("late")
        half.close()
        with pytest.raises(FileNotFoundError):
            os.unlink("weights", dir_fd=opened)
        os.close(opened)
        with pytest.raises(FileNotFoundError):
            write(own)
        (own / RESUME / "checkpoint-8").mkdir(parents=True)
        path.write_text(mine.replace("token=", "token=another"))
        left.append((own, artifact, made))
        artifacts.write_jsonl(own / "rows.jsonl", [{}])
        return {}

    def ours(own: Path) -> dict[str, object]:
        assert (own / RESUME / "checkpoint-4" / "weights").read_text() == "4"
        return write(own)

    with pytest.raises(locks.TakenOver, match="another process has taken over"):
        store.make(recipe(), paused)
    [(own, artifact, made)] = left
    assert made
    assert store.find(recipe()) == artifact
    assert not own.exists()


@pytest.fixture(scope="module")
def stop_before() -> Callable[[int | None], None]:
    """`stop_before(3)`: a signal comes before the third change to files from now on, those of locks not counted."""
    left: int | None = None

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        changes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
        if left is not None and changes and not str(arguments[0]).endswith(".lock"):
            left -= 1
            if not left:
                left = None
                raise KeyboardInterrupt

    def stop(number: int | None) -> None:
        nonlocal left
        left = number

    sys.addaudithook(heard)
    return stop


@pytest.mark.parametrize("anew", [False, True])
def test_a_stop_at_any_moment_of_the_end_loses_nothing(
    tmp_path: Path, stop_before: Callable[[int | None], None], anew: bool
) -> None:
    names = {"resume/checkpoint-4/state", "resume/checkpoint-4/weights", "resume/checkpoint-8/weights"}
    found: list[set[str]] = []

    def build(folder: Path) -> dict[str, object]:
        found.append({name for name in texts(folder) if not name.endswith("attempt.json")})
        for name in names - found[-1]:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(name)
        stop_before(number if len(found) == 1 else None)
        return write(folder)

    made, number = set[bool](), 0
    for number in itertools.count(1):
        store = Store(tmp_path / f"{number}")
        if anew:
            store.make(recipe(), lambda folder: write(folder, "old"))
        found.clear()
        try:
            store.make(recipe(), build, lambda _: anew)
            break
        except KeyboardInterrupt:
            made.add(store.make(recipe(), build)[1])
        assert found in ([set()], [set(), names])
    stop_before(None)
    assert number > 6
    assert made == ({False} if anew else {True, False})


def test_seconds_are_those_of_all_attempts_and_the_device_and_versions_are_told(tmp_path: Path) -> None:
    def build(folder: Path) -> dict[str, object]:
        time.sleep(0.3)
        ((folder / RESUME) / "state").write_text("1")
        if "again" not in done:
            done.append("again")
            raise KeyboardInterrupt
        return {}

    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).make(recipe(), build)
    artifact, _ = Store(tmp_path).make(recipe(), build)
    made = json.loads((artifact.path / "record.json").read_text())["made"]
    assert 0.5 < made["seconds"] < 5
    assert made["device"].startswith("CPU")
    assert {"python", "torch", "transformers"} <= made["versions"].keys()


@pytest.mark.parametrize("damage", ["edit", "remove"])
def test_damaged_artifact_is_named_and_not_used(tmp_path: Path, damage: str) -> None:
    artifact, _ = Store(tmp_path).make(recipe(), write)
    file = artifact.path / "file.txt"
    file.write_text("edited!") if damage == "edit" else file.unlink()
    with pytest.raises(UserError, match=r"file\.txt: changed or removed"):
        Store(tmp_path).find(recipe())


def rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


@pytest.mark.parametrize(
    "change",
    [
        *(lambda record: record["summary"].update(lines=2), lambda record: record["summary"].update(usd=0.0)),
        *(lambda record: record["summary"].clear(), lambda record: record["files"].clear()),
        lambda record: record["recipe"]["inputs"].update(data="another"),
        *(lambda record: record["made"].update(seconds=1e6), lambda record: record.update(more=1)),
        lambda record: record.update(hash="0" * 12),
    ],
)
def test_a_changed_record_is_named_and_not_used(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    artifact, _ = Store(tmp_path).make(recipe(), write)
    rewrite(artifact.path / "record.json", change)
    with pytest.raises(UserError, match=rf"record\.json: changed after it was made; delete {artifact.path} to make"):
        Store(tmp_path).find(recipe())
    with pytest.raises(UserError, match=r"record\.json: changed after it was made"):
        Store(tmp_path).make(recipe(), write)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b"{}", b'"text"', b"\xff\xfe", b'{"recipe": 1, "files": 2}']
)
def test_a_damaged_record_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    artifact, _ = Store(tmp_path).make(recipe(), write)
    (artifact.path / "record.json").write_bytes(content)
    with pytest.raises(UserError, match=r"record\.json: damaged after it was made; delete .* to make it again"):
        Store(tmp_path).find(recipe())


@pytest.mark.parametrize(
    ("damage", "said"),
    {
        "removed": (lambda file: file.unlink(), "removed after it was made; put it back, or delete"),
        "folder": (lambda file: (file.unlink(), file.mkdir()), "cannot be read (Is a directory); mend that, or delete"),
        "loop": (lambda file: (file.unlink(), file.symlink_to(file)), "cannot be read (Too many levels of symbolic"),
        "broken link": (lambda file: (file.unlink(), file.symlink_to("no")), "a symbolic link, which is not followed"),
        "deep": (lambda file: file.write_text("[" * 100_000), "damaged after it was made; delete"),
        "cut": (lambda file: file.write_bytes(file.read_bytes()[:-20]), "damaged after it was made; delete"),
        "flipped": (lambda file: file.write_bytes(file.read_bytes().replace(b"stage", b"st\xe1ge")), "damaged after"),
        "newer": (
            lambda file: rewrite(file, lambda record: record.update(format=3)),
            "written by a newer lema; update",
        ),
        "format": (lambda file: rewrite(file, lambda record: record.update(format="x")), "damaged after it was made"),
        "list": (lambda file: rewrite(file, lambda record: record.update(files=[1])), "damaged after it was made"),
        "text": (lambda file: rewrite(file, lambda record: record.update(summary="ab")), "damaged after it was made"),
    }.values(),
)
def test_a_damaged_record_is_found_before_anything_is_made(
    tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    artifact, _ = Store(tmp_path).make(recipe(), write)
    file, built = artifact.path / "record.json", []
    before = file.read_bytes()
    damage(file)
    for call in (Store(tmp_path).find, lambda it: Store(tmp_path).make(it, lambda folder: built.append(folder) or {})):
        with pytest.raises(UserError, match=f"^{re.escape(str(file))}: {re.escape(said)}") as raised:
            call(recipe())
        assert "\n" not in str(raised.value)
    assert not built
    file.rmdir() if file.is_dir() else file.unlink(missing_ok=True)
    file.write_bytes(before)
    assert Store(tmp_path).find(recipe()) == artifact


def test_a_record_that_lies_elsewhere_is_read_through_a_link(tmp_path: Path) -> None:
    artifact, _ = Store(tmp_path).make(recipe(), write)
    (artifact.path / "record.json").rename(tmp_path / "moved.json")
    (artifact.path / "record.json").symlink_to(tmp_path / "moved.json")
    assert Store(tmp_path).find(recipe()) == artifact


def test_an_empty_folder_in_the_place_of_an_artifact_is_no_artifact_and_a_file_is_named(tmp_path: Path) -> None:
    folder = Store(tmp_path)._folder(recipe())
    folder.mkdir(parents=True)
    assert Store(tmp_path).make(recipe(), write)[1]
    shutil.rmtree(folder)
    folder.touch()
    with pytest.raises(UserError, match=f"^{folder}/record.json: removed after it was made; put it back, or delete"):
        Store(tmp_path).make(recipe(), write)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path).make(recipe(), write)

    def refuse(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(artifacts, "_sha256", refuse)
    with pytest.raises(UserError, match=r"file\.txt: cannot be read \(Permission denied\); mend that, or delete"):
        Store(tmp_path).find(recipe())


def test_a_record_from_before_it_had_a_hash_still_stands_with_the_same_digest(tmp_path: Path) -> None:
    made, _ = Store(tmp_path).make(recipe(), write)
    rewrite(made.path / "record.json", lambda record: record.pop("hash"))
    assert Store(tmp_path).find(recipe()) == made


def test_what_is_shown_of_an_artifact_is_in_its_record_and_no_part_of_its_identity(tmp_path: Path) -> None:
    shown = Shown("solutions", ("file.txt",), {"lines": "lines that were cut"})
    made, _ = Store(tmp_path).make(replace(recipe(), shown=shown), write)
    assert made.shown == shown
    assert Store(tmp_path).find(recipe()) == made
    rewrite(made.path / "record.json", lambda record: (record.pop("hash"), record.pop("shown")))  # an earlier version's
    assert Store(tmp_path).find(recipe()) == replace(made, shown=Shown("sample"))


def test_a_summary_of_any_plain_values_is_found_as_it_was_written(tmp_path: Path) -> None:
    summary = {"by_level": {10: 0.1, 9: 1 / 3}, "empty": None, "text": "é ⟦", "list": (1, 2), "nan": float("nan")}
    Store(tmp_path).make(recipe(), lambda folder: write(folder) and summary)
    found = Store(tmp_path).find(recipe())
    assert found is not None
    assert found.summary["by_level"] == {"10": 0.1, "9": 1 / 3}


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of the user's outside the runs folder."""
    folder = tmp_path / "theirs"
    (folder / "resume" / "deep").mkdir(parents=True)
    for name in ("file.txt", "record.json", "resume/state", "resume/attempt.json", "resume/deep/file"):
        (folder / name).write_text("precious")
    return folder


@pytest.mark.parametrize("target", ["theirs", "theirs/file.txt", "nowhere"])
@pytest.mark.parametrize(
    "place",
    [".partial", ".partial/resume", ".partial/resume/deep", ".partial/resume/attempt.json", ".lock", "", ".old"],
)
def test_a_link_in_the_place_of_an_artifact_is_named_and_not_followed(
    tmp_path: Path, theirs: Path, place: str, target: str
) -> None:
    store, before = Store(tmp_path / "runs"), texts(theirs)
    link = Path(f"{store._folder(recipe())}{place}")
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / target)
    if place == "" and target == "theirs":
        (theirs / "record.json").unlink()
        before = texts(theirs)
    with pytest.raises(UserError, match=rf"^{link}: a symbolic link, which is not followed; .*remove the link$"):
        store.make(recipe(), write)
    assert texts(theirs) == before
    assert link.is_symlink()
    link.unlink()
    assert store.make(recipe(), write)[1]
    assert texts(theirs) == before


def test_a_link_among_the_leftovers_is_removed_alone(tmp_path: Path, theirs: Path) -> None:
    store, before = Store(tmp_path / "runs"), texts(theirs)
    partial = Path(f"{store._folder(recipe())}.partial")
    (partial / "checkpoints").mkdir(parents=True)
    for place, target in {"file.txt": "file.txt", "adapter": "", "checkpoints/1": "resume", "gone": "nowhere"}.items():
        (partial / place).symlink_to(theirs / target)
    artifact, _ = store.make(recipe(), write)
    assert sorted(path.name for path in artifact.path.iterdir()) == ["file.txt", "record.json"]
    assert not (artifact.path / "file.txt").is_symlink()
    assert texts(theirs) == before


def test_an_artifact_made_anew_never_empties_what_a_link_points_to(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    made, _ = store.make(recipe(), write)
    moved = made.path.rename(tmp_path / "moved")
    made.path.symlink_to(moved)
    found, again = store.make(recipe(), write)
    assert (found, again) == (made, False), "to read through it is no harm"
    with pytest.raises(UserError, match="a symbolic link, which is not followed"):
        store.make(recipe(), write, lambda _: True)
    assert sorted(texts(moved)) == ["file.txt", "record.json"]


def test_a_runs_folder_and_a_stages_folder_may_be_links_to_a_larger_disk(tmp_path: Path) -> None:
    (tmp_path / "disk" / "stage").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "sample").symlink_to(tmp_path / "disk" / "stage")
    artifact, made = Store(tmp_path / "runs").make(recipe(), write)
    assert made
    assert (tmp_path / "disk" / "stage" / artifact.path.name / "record.json").is_file()


def _make_slowly(root: Path, log: Path) -> None:
    def build(folder: Path) -> dict[str, object]:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        return write(folder)

    Store(root).make(recipe(), build)


def test_second_process_waits_then_reads(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_make_slowly, args=(tmp_path, tmp_path / "log")) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len((tmp_path / "log").read_text().split()) == 1


def test_result_of_a_lost_lock_is_not_shown(tmp_path: Path) -> None:
    def build(folder: Path) -> dict[str, object]:
        [path] = (tmp_path / "sample").glob("*.lock")
        path.write_text(re.sub("token=.*", "token=another", path.read_text()))
        return write(folder)

    with pytest.raises(UserError, match=r"another process has taken over .*; what it makes is .*/sample/label-"):
        Store(tmp_path).make(recipe(), build)
    assert Store(tmp_path).find(recipe()) is None


def test_silent_owner_on_another_host_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.2)
    path = tmp_path / "x.lock"
    with lock(tmp_path / "x"):
        elsewhere = re.sub("host=.*", "host=elsewhere", path.read_text())
    path.write_text(elsewhere)
    start = time.monotonic()
    with lock(tmp_path / "x") as held:
        assert not held.lost()
    assert 1 <= time.monotonic() - start < 5


SOLUTION = Solution("some-train-0", "ä😀", 0, 'a\nb\u2028c "5"', None, True, False, False)
PROBLEM = Problem("some-train-0", "1+1?", "", "2", candidates=["2", "3"])


def test_json_lines_come_back_one_by_one_as_they_were_written(tmp_path: Path) -> None:
    for records in ([SOLUTION, replace(SOLUTION, sample=1)], [PROBLEM, PROBLEM], []):
        write_jsonl(tmp_path / "rows.jsonl", iter(records))
        text = "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records)
        assert (tmp_path / "rows.jsonl").read_bytes() == text.encode()
        artifact, kind = Artifact(tmp_path, "", {}, Shown("solutions")), type(records[0]) if records else Solution
        stream = artifact.stream("rows.jsonl", kind)
        assert [next(stream) for _ in records] == records == artifact.rows("rows.jsonl", kind)
        assert next(stream, None) is None


def test_json_lines_never_stand_in_memory_together(tmp_path: Path) -> None:
    tracemalloc.start()
    write_jsonl(tmp_path / "rows.jsonl", (replace(SOLUTION, text=f"{n} " * 500) for n in range(5000)))
    read = sum(1 for _ in Artifact(tmp_path, "", {}, Shown("solutions")).stream("rows.jsonl", Solution))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == 5000
    assert peak < 1e6 < (tmp_path / "rows.jsonl").stat().st_size


@pytest.mark.parametrize("old", [None, "old"])
def test_a_failure_among_the_rows_leaves_the_folder_as_it_was(tmp_path: Path, old: str | None) -> None:
    def rows() -> Iterator[Solution]:
        yield SOLUTION
        raise KeyboardInterrupt

    file = tmp_path / "rows.jsonl"
    if old:
        file.write_text(old)
    with pytest.raises(KeyboardInterrupt):
        write_jsonl(file, rows())
    assert [path.read_text() for path in tmp_path.iterdir()] == ([old] if old else [])
