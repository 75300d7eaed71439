"""do=clean: names and deletes what no run needs, and nothing else, whatever happens meanwhile."""

import itertools
import json
import logging
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from disks import unprivileged

from lema import run_folder
from lema.artifacts import CLEANED, Artifact, Recipe, Shown, Store, cleaning, links, locks
from lema.artifacts.faults import explaining
from lema.artifacts.records import contents
from lema.cell import Cell
from lema.config import Config
from lema.types import UserError

COMMAND = "python run.py do=clean clean.delete=true"
STAGES = ["data", "base", "sample", "mix", "train", "select", "merge", "evaluate"]
LONG_AGO = time.time() - 86_400 * 3
HEX = "0123456789abcdef" * 2
ENDED = f"filelock/2\npid={2**30}\nhost={socket.gethostname()}\nmode=lease\ntoken=abc\nduration=60.0\n"
Lines = list[tuple[str, str, str]]
Clean = Callable[..., Lines]


def made(
    root: Path,
    stage: str,
    label: str,
    inputs: dict[str, Any] | None = None,
    step: int | None = None,
    there: bool = False,
) -> Artifact:
    """An artifact of 1,000 bytes, a training of so many in each of three checkpoints; `there`: it must be there."""

    def build(folder: Path) -> dict[str, Any]:
        assert not there, f"{folder} is made again"
        names = [f"checkpoints/step-{each}/model" for each in (2, 4, 6)] if stage == "train" else ["rows.jsonl"]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x" * 1000)
        return {} if step is None else {"step": step}

    return Store(root).make(Recipe(stage, label, 1, {"label": label}, inputs or {}, Shown(stage)), build)[0]


def chain(root: Path, name: str, step: int = 4, there: bool = False) -> dict[str, Artifact]:
    """The artifacts of a run, each made from the ones before. All have their data in common."""
    data = made(root, "data", "shared", there=there)
    mix = made(root, "mix", name, {"data": data}, there=there)
    train = made(root, "train", name, {"mix": mix}, there=there)
    select = made(root, "select", name, {"train": train}, step, there=there)
    evaluate = made(root, "evaluate", name, {"train": train, "select": select}, step, there=there)
    return {"data": data, "mix": mix, "train": train, "select": select, "evaluate": evaluate}


def cell(
    root: Path, name: str, artifacts: dict[str, Artifact], state: str = "finished", making: str | None = ""
) -> Path:
    folder = root / "cells" / name
    folder.mkdir(parents=True, exist_ok=True)
    for step, artifact in artifacts.items():
        links.point(folder / step, artifact.path)
    facts = {"name": name, "state": state} | ({} if making is None else {"making": [making] if making else []})
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


def old(path: Path, text: str = "half") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def partial(place: Path, resume: bool = True, attempt: str = "1a2b3c4d") -> Path:
    folder = place.with_name(f"{place.name}.{attempt}.partial")
    old(folder / "resume/attempt.json", "{}")
    if resume:
        old(folder / "resume/checkpoint-4", "x" * 500)
    os.utime(folder, (LONG_AGO, LONG_AGO))
    return folder


def rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def everything(root: Path) -> dict[str, list[str]]:
    """Two runs, and something of each kind that neither needs; returns the paths of each kind."""
    first, second = chain(root, "one"), chain(root, "two", step=6)
    cell(root, "one", first)
    cell(root, "two", second, state="UserError: no")
    third = chain(root, "three")
    shutil.rmtree(third["mix"].path)
    older, broken, emptied = (made(root, "base", name) for name in ("older", "broken", "emptied"))
    rewrite(older.path / "record.json", format=1)
    (broken.path / "record.json").write_text("{")
    (emptied.path / "record.json").unlink()
    lone = made(root, "mix", "lone"), made(root, "sample", "lone")
    sample = root / "sample"
    replaced = old(sample / "again-0123456789ab.old/rows.jsonl").parent
    orphan = old(sample / "gone-0123456789ab.lock", ENDED)
    temporary = [
        root / f"cells/one/.run.json.{HEX}",
        root / f"mix/.x.lock.{HEX}",
        root / f"reports/all/.report.md.{HEX}",
    ]
    stale = older, broken, emptied, *(third[step] for step in ("train",))
    kinds = {
        "unreferenced": [*(each.path for each in lone), *(third[step].path for step in ("select", "evaluate"))],
        "stale": [each.path for each in stale],
        "checkpoint": [
            each.path / f"checkpoints/step-{step}"
            for each, steps in ((first["train"], (2, 6)), (second["train"], (2, 4)))
            for step in steps
        ],
        "partial": [
            partial(sample / "given-up-0123456789ab"),
            partial(sample / "begun-0123456789ab", resume=False),
            partial(first["train"].path),
        ],
        "temporary": [replaced, orphan, *map(old, temporary)],
    }
    return {kind: sorted(below(root, path) for path in paths) for kind, paths in kinds.items()}


def bytes_in(root: Path) -> int:
    return sum(file.lstat().st_size for file in root.rglob("*") if file.is_file() and file.name != CLEANED)


def state(root: Path) -> dict[str, bytes]:
    return {below(root, path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def settled(root: Path) -> dict[str, bytes]:
    """Without what a killed process has only just begun to write."""
    new = {path for path in root.rglob(".*") if path.lstat().st_mtime > LONG_AGO + 60}
    return {name: content for name, content in state(root).items() if root / name not in new}


@pytest.fixture
def clean(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Clean:
    """`clean(True)`: delete; the kind, the path below the runs folder and the reason, of each line."""
    caplog.set_level(logging.INFO)

    def run(delete: bool = False) -> Lines:
        caplog.clear()
        with explaining(tmp_path):
            cleaning.clean(tmp_path, STAGES, delete, COMMAND)
        lines = [record.getMessage() for record in caplog.records]
        found = [re.fullmatch(r"(\S+) +(?:[\d.]+ k?B)?  (\S+)  (.+)", line) for line in lines[:-1]]
        assert all(found), lines
        return [(each[1], each[2].removeprefix(f"{tmp_path}/"), each[3]) for each in found if each]

    return run


def named(found: Lines, kind: str) -> list[str]:
    return sorted(path for each, path, _ in found if each == kind)


def test_each_kind_is_named_with_its_size_and_deleted_and_nothing_else_is(
    tmp_path: Path, clean: Clean, caplog: pytest.LogCaptureFixture
) -> None:
    expected, before = everything(tmp_path), state(tmp_path)
    found, size = clean(), bytes_in(tmp_path)
    assert {kind: named(found, kind) for kind in expected} == expected
    assert not named(found, "left")
    assert state(tmp_path) == before
    count, told = len(found), caplog.messages[-1]
    line = re.fullmatch(rf"clean +{count} files and folders, ([\d.]+) kB; nothing was deleted: {COMMAND}", told)
    assert line

    clean(True)
    assert float(line[1]) == pytest.approx((size - bytes_in(tmp_path)) / 1000, rel=0.01)
    assert caplog.messages[-1].endswith(f"; {line[1]} kB were freed")
    gone = {path for paths in expected.values() for path in paths}
    kept = {name: content for name, content in before.items() if not gone & {name, *map(str, Path(name).parents)}}
    assert {name: content for name, content in state(tmp_path).items() if Path(name).name != CLEANED} == kept
    assert clean() == []
    assert f"nothing below {tmp_path} that no run needs" in caplog.messages[-1]


def test_what_a_run_needs_stays_current_with_the_same_digest(tmp_path: Path, clean: Clean) -> None:
    everything(tmp_path)
    before = {name: each.digest for name, each in chain(tmp_path, "one").items()}
    clean(True)
    after = chain(tmp_path, "one", there=True)
    assert {name: each.digest for name, each in after.items()} == before
    assert after["train"].cleaned == {f"checkpoints/step-{step}/model" for step in (2, 6)}
    (after["train"].path / "checkpoints/step-4/model").unlink()
    with pytest.raises(UserError, match=r"step-4/model: changed or removed after it was made"):
        chain(tmp_path, "one", there=True)


@pytest.mark.parametrize("how", ["links", "texts", "making", "another's input"])
def test_whatever_a_run_points_to_is_needed(
    tmp_path: Path, clean: Clean, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = chain(tmp_path, "one")
    if how == "texts":
        monkeypatch.delattr(os, "symlink")
        monkeypatch.setattr(Path, "symlink_to", lambda *_: (_ for _ in ()).throw(OSError()))
    if how == "making":  # it was made, and the run was killed before its next step
        making = artifacts.pop("evaluate")
        cell(tmp_path, "one", artifacts, state="running", making=below(tmp_path, making.path))
    else:
        cell(tmp_path, "one", {"evaluate": artifacts["evaluate"]} if how == "another's input" else artifacts)
    assert [kind for kind, _, _ in clean(True) if kind != "checkpoint"] == []
    chain(tmp_path, "one", there=True)


def test_the_folder_of_a_run_that_is_deleted_by_hand_frees_what_it_alone_needs(tmp_path: Path, clean: Clean) -> None:
    for name in ("one", "two"):
        cell(tmp_path, name, chain(tmp_path, name))
    shutil.rmtree(tmp_path / "cells/two")
    assert {path.split("-")[0] for path in named(clean(True), "unreferenced")} == {
        f"{stage}/two" for stage in ("mix", "train", "select", "evaluate")
    }
    chain(tmp_path, "one", there=True)


def test_checkpoints_go_only_when_all_runs_of_a_training_have_selected(tmp_path: Path, clean: Clean) -> None:
    artifacts = chain(tmp_path, "one")
    cell(tmp_path, "one", artifacts)
    trained = {name: artifacts[name] for name in ("data", "mix", "train")}
    cell(tmp_path, "other", trained, state="running", making="select/one-other-0123456789ab")
    assert clean() == []
    other = made(tmp_path, "select", "other", {"train": artifacts["train"]}, 2)
    cell(tmp_path, "other", trained | {"select": other})
    assert [path.rpartition("/")[2] for path in named(clean(), "checkpoint")] == ["step-6"]
    earlier = made(tmp_path, "select", "earlier", {"train": made(tmp_path, "train", "earlier")}, 6)
    cell(tmp_path, "other", trained | {"select": earlier})  # of another training than it has now
    assert named(clean(), "checkpoint") == []


def test_what_is_to_be_uploaded_stays(tmp_path: Path, clean: Clean) -> None:
    artifacts = chain(tmp_path, "one")
    hub = cell(tmp_path, "one", artifacts) / "hub/model"
    hub.mkdir(parents=True)
    links.point(hub / "model", artifacts["train"].path / "checkpoints/step-6/model")
    assert [path.rpartition("/")[2] for path in named(clean(True), "checkpoint")] == ["step-2"]
    assert (hub / "model").is_file()


def test_a_second_selection_that_goes_frees_its_checkpoint_at_once(tmp_path: Path, clean: Clean) -> None:
    artifacts = chain(tmp_path, "one")
    cell(tmp_path, "one", artifacts)
    other = made(tmp_path, "select", "other", {"train": artifacts["train"]}, 2)
    found = clean(True)
    assert named(found, "unreferenced") == [below(tmp_path, other.path)]
    assert sorted(path.name for path in (artifacts["train"].path / "checkpoints").iterdir()) == ["step-4"]


def test_a_training_is_resumed_after_a_command_that_made_something_else(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    one = Cell(make_config("tracker=none"), Store(tmp_path))
    with suppress(RuntimeError), run_folder.recorded(one, [], "report", False) as begin:
        begin("train/one-0123456789ab")
        raise RuntimeError
    with run_folder.recorded(one, [], "mix", False) as begin:
        begin("mix/one-0123456789ab")
    noted = json.loads((one.folder / "run.json").read_text())["making"]
    assert noted == ["mix/one-0123456789ab", "train/one-0123456789ab"]
    with run_folder.recorded(one, [], "report", False) as begin:
        begin("")
    assert json.loads((one.folder / "run.json").read_text())["making"] == []


@pytest.mark.parametrize("making", ["known", "by an older lema"])
def test_an_unfinished_artifact_is_left_to_the_run_that_goes_on_from_it(
    tmp_path: Path, clean: Clean, making: str
) -> None:
    place = tmp_path / "train/one-0123456789ab"
    kept = partial(place)
    folder = cell(tmp_path, "one", {}, "running", below(tmp_path, place) if making == "known" else None)
    path = below(tmp_path, kept)
    with locks.lock(place):
        assert clean(True) == [("left", path, f"in use by process {os.getpid()} on {os.uname().nodename}")]
    assert clean(True) == [("left", path, "3 days old; without it, one would start this step over")]
    shutil.rmtree(folder)
    assert clean(True) == [("partial", path, "3 days old; no run goes on from it")]
    assert not kept.exists()


def test_what_an_unfinished_run_of_an_earlier_lema_may_have_made_is_left(tmp_path: Path, clean: Clean) -> None:
    lone = made(tmp_path, "mix", "lone")
    folder = cell(tmp_path, "one", {}, state="running", making=None)
    why = "one, unfinished, may need it; run its command again, or delete its folder"
    assert clean(True) == [("left", below(tmp_path, lone.path), why)]
    (folder / "run.json").write_text("damaged")
    assert clean(True) == [("left", below(tmp_path, lone.path), why)]
    cell(tmp_path, "one", {}, state="stopped after mix", making=None)
    assert [kind for kind, _, _ in clean(True)] == ["unreferenced"]


def test_what_a_killed_run_was_about_to_replace_is_left_until_it_is_put_back(tmp_path: Path, clean: Clean) -> None:
    artifacts = chain(tmp_path, "one")
    cell(tmp_path, "one", artifacts)
    aside = Path(f"{artifacts['evaluate'].path}.old")
    artifacts["evaluate"].path.rename(aside)
    assert named(clean(True), "left") == [below(tmp_path, aside)]
    chain(tmp_path, "one", there=True)
    assert not aside.exists()


def test_what_is_in_use_is_left(tmp_path: Path, clean: Clean) -> None:
    everything(tmp_path)
    used = sorted((*tmp_path.glob("mix/lone-*"), *tmp_path.glob("train/one-*[0-9a-f]"), *tmp_path.glob("base/older-*")))
    with locks.lock(used[0]), locks.lock(used[1]), locks.lock(used[2]):
        before = {name: content for name, content in state(tmp_path).items() if name.startswith(tuple(map(str, used)))}
        found = clean(True)
        left = {path: why for kind, path, why in found if kind == "left"}
        assert {"/".join(path.split("/")[:2]).split(".")[0] for path in left} == {
            below(tmp_path, path) for path in used
        }
        assert set(left.values()) == {f"in use by process {os.getpid()} on {os.uname().nodename}"}
        assert all(path.exists() for path in used)
        assert {name: state(tmp_path)[name] for name in before} == before
    assert named(clean(True), "left") == []
    assert not used[0].exists()


def test_a_link_is_never_followed(tmp_path: Path, clean: Clean, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = old(tmp_path_factory.mktemp("elsewhere") / "file").parent
    artifacts = chain(tmp_path, "one")
    cell(tmp_path, "one", artifacts)
    linked = tmp_path / "mix/linked-0123456789ab"
    linked.symlink_to(outside)
    for path in (artifacts["train"].path / "checkpoints/step-8", made(tmp_path, "mix", "lone").path / "inside"):
        path.symlink_to(outside)
    (tmp_path / "reports").symlink_to(outside)
    old(outside / f".x.{HEX}")
    before = state(outside)
    found = clean(True)
    assert ("left", below(tmp_path, linked), "a symbolic link, which is not followed") in found
    assert not named(found, "temporary")
    assert state(outside) == before
    assert not list(tmp_path.glob("mix/lone-*"))
    for place in ("cells", "cells/one", "mix"):
        moved = outside / place.replace("/", " ")
        (tmp_path / place).rename(moved)
        (tmp_path / place).symlink_to(moved)
        with pytest.raises(UserError, match=f"{place}: a symbolic link, which is not followed"):
            clean(True)
        (tmp_path / place).unlink()
        moved.rename(tmp_path / place)
    chain(tmp_path, "one", there=True)


def test_what_is_not_ours_is_not_looked_at(tmp_path: Path, clean: Clean) -> None:
    for name in (
        "train/backup",
        "train/notes.txt",
        "mine/x-0123456789ab/record.json",
        "reports/multirun-0123456789ab/r.md",
    ):
        old(tmp_path / name)
    for name in (
        "journal.sqlite",
        "journal.sqlite-wal",
        "export/requests.jsonl",
        "hydra/multirun.yaml",
        "train/.notes",
    ):
        old(tmp_path / name)
    old(tmp_path / "wandb/offline-run-20261127_203000-0123456789ab/run.wandb")
    before = state(tmp_path)
    assert [(kind, path) for kind, path, _ in clean(True)] == [("left", "wandb")]
    assert state(tmp_path) == before


def test_a_run_of_an_older_lema_is_named_with_what_it_alone_needs(tmp_path: Path, clean: Clean) -> None:
    artifacts = chain(tmp_path, "old")
    cell(tmp_path, "old", artifacts)
    cell(tmp_path, "new", chain(tmp_path, "new"))
    clean(True)
    rewrite(artifacts["mix"].path / "record.json", format=1)
    [(kind, path, why)] = clean(True)
    assert (kind, path) == ("left", "cells/old")
    assert re.fullmatch(r"of an older lema: without this folder, [\d.]+ kB more could be deleted", why)
    assert all(each.path.exists() for each in artifacts.values())


def died(action: Callable[[], object], event: int) -> bool:
    """Whether a process that does this is killed before its `event`-th change of the disk; False when it has fewer."""
    if child := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 9)
        return status == 9
    count = 0

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if name in ("os.rename", "os.remove", "os.rmdir") or (name == "open" and set(str(arguments[1])) & set("wax")):
            count += 1
            if count == event:
                os._exit(9)

    try:
        sys.addaudithook(hook)
        action()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_a_clean_that_is_killed_anywhere_leaves_whole_artifacts_and_the_next_one_goes_on(
    tmp_path: Path, every: int
) -> None:
    everything(whole := tmp_path / "whole")
    shutil.copytree(whole, undisturbed := tmp_path / "undisturbed", symlinks=True)
    cleaning.clean(undisturbed, STAGES, True, COMMAND)
    event = 0
    for event in itertools.count(1, every):
        shutil.copytree(whole, root := tmp_path / "runs", symlinks=True)
        killed = died(lambda root=root: cleaning.clean(root, STAGES, True, COMMAND), event)
        for name, step in (("one", 4), ("two", 6)):
            artifacts = chain(root, name, step, there=True)
            assert (artifacts["train"].path / f"checkpoints/step-{step}/model").is_file()
        for stage in ("mix", "sample", "base"):  # what is in its place is whole, or was not before
            for path in root.glob(f"{stage}/*-[0-9a-f]*[0-9a-f]"):
                assert not path.is_dir() or path.suffix or state(path) == state(whole / stage / path.name)
        cleaning.clean(root, STAGES, True, COMMAND)
        assert settled(root) == settled(undisturbed), event
        shutil.rmtree(root)
        if not killed:
            break
    assert event > 50


def test_two_cleaners_at_once_do_it_together(tmp_path: Path, clean: Clean) -> None:
    everything(tmp_path)
    children = []
    for _ in range(2):
        if not (child := os.fork()):
            try:
                cleaning.clean(tmp_path, STAGES, True, COMMAND)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert clean() == []
    chain(tmp_path, "one", there=True)
    chain(tmp_path, "two", step=6, there=True)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_a_run_begins_to_need_is_put_back(
    tmp_path: Path, clean: Clean, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run points to all that it has found: before the cleaner holds the lock, or while it moves that away."""
    lone, artifacts = made(tmp_path, "mix", "lone"), chain(tmp_path, "one")
    cell(tmp_path, "one", artifacts)
    resumed = partial(tmp_path / "sample/begun-0123456789ab")
    files = {name: content for name, content in state(tmp_path).items() if not name.startswith("cells")}

    def begin() -> None:
        cell(tmp_path, "other", {"mix": lone, "train": artifacts["train"]}, "running", "sample/begun-0123456789ab")

    if when == "before":
        lock = locks.lock
        monkeypatch.setattr(locks, "lock", lambda *arguments, **more: (begin(), lock(*arguments, **more))[1])
    else:
        rename, keep = os.rename, cleaning.keep
        monkeypatch.setattr(os, "rename", lambda *paths: (rename(*paths), begin())[0])
        monkeypatch.setattr(cleaning, "keep", lambda *arguments: (keep(*arguments), begin())[0])
    found = clean(True)
    assert {path for kind, path, why in found if why == "a run needs it by now"} == {
        *(f"{below(tmp_path, artifacts['train'].path)}/checkpoints/step-{step}" for step in (2, 6)),
        *(below(tmp_path, path) for path in (lone.path, resumed)),
    }
    after = {name: content for name, content in state(tmp_path).items() if not name.startswith("cells")}
    assert {name: content for name, content in after.items() if not name.endswith(CLEANED)} == files
    assert not chain(tmp_path, "one", there=True)["train"].cleaned


def test_a_disk_or_a_right_that_is_lost_is_named_in_one_line(tmp_path: Path, clean: Clean) -> None:
    cell(tmp_path, "one", chain(tmp_path, "one"))
    lone = made(tmp_path, "mix", "lone")
    (tmp_path / "mix").chmod(0o555)
    with unprivileged(), pytest.raises(UserError, match=r"permission denied; give this user the right") as refused:
        clean(True)
    (tmp_path / "mix").chmod(0o755)
    assert str(lone.path) in str(refused.value)
    assert "\n" not in str(refused.value)
    (tmp_path / "mix").chmod(0)
    with unprivileged(), pytest.raises(UserError, match=r"/mix: permission denied; give this user the right"):
        clean(True)
    (tmp_path / "mix").chmod(0o755)
    assert named(clean(True), "unreferenced") == [below(tmp_path, lone.path)]


def test_two_thousand_artifacts_are_looked_through_in_two_seconds(tmp_path: Path, clean: Clean) -> None:
    first = {step: json.loads((each.path / "record.json").read_text()) for step, each in chain(tmp_path, "one").items()}
    for number in range(400):
        folder, digests = tmp_path / f"cells/{number}", dict[str, str]()
        folder.mkdir(parents=True)
        for step, record in first.items():
            inputs = {name: digests[name] for name in record["recipe"]["inputs"]}
            facts = record | {"recipe": {"stage": step, "version": 1, "config": {"number": number}, "inputs": inputs}}
            digests[step], path = contents(facts), tmp_path / step / f"many-{number:012x}"
            for step_of in (2, 4, 6) if step == "train" else ():
                (path / f"checkpoints/step-{step_of}").mkdir(parents=True)
            path.mkdir(exist_ok=True)
            (path / "record.json").write_text(json.dumps(facts))
            (folder / step).symlink_to(f"../../{step}/{path.name}")
        if number % 2:
            shutil.rmtree(folder)
        else:
            (folder / "run.json").write_text('{"state": "finished", "making": []}')
    start = time.process_time()
    found = clean()
    seconds = time.process_time() - start
    print(f"\n  {len(found)} lines in {seconds:.2f} s")
    assert (len(named(found, "unreferenced")), len(named(found, "checkpoint"))) == (5 * 201, 2 * 200)
    assert seconds < 2
