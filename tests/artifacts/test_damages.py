"""Damages below the runs folder, and disks that refuse: one line that names the file, then the undisturbed bytes."""

import fnmatch
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disks import unprivileged
from small import SMALL, contents
from tables import some

from lema import artifacts, pipeline
from lema.artifacts.lines import Lines
from lema.config import Config
from lema.types import UserError

CELL = [*SMALL, "engine.batch_tokens=600"]
Run = Callable[..., str]


@pytest.fixture(scope="module")
def run(make_config: Callable[..., Config]) -> Run:
    """`run(runs, "until=mix")`: run the small cell; its line when it fails, else "". Any other error ends the test."""

    def run_cell(runs: Path, *overrides: str) -> str:
        arguments = [*CELL, f"runs_dir={runs}", *overrides]
        config = make_config(*arguments)
        with unprivileged():
            try:
                pipeline.run(config, arguments)
            except UserError as error:
                return str(error)
        return ""

    return run_cell


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of a cell that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "runs"
    assert run(folder) == ""
    return folder


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _newer(file: Path) -> None:
    """What a later version might add: a field in each row, or a line at the end."""
    text = file.read_bytes()
    file.write_bytes(text.replace(b"{", b'{"later": 1, ', 1) if text[:1] in b"{[" else text + b"\nlater")


def _moved(file: Path, target: str = "") -> None:
    away = Path(tempfile.mkdtemp()) / file.name
    shutil.move(file, away)
    file.symlink_to(target or away)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()
    (file / "content").write_text("something")


# What happens to a file; each is given its path.
DAMAGES: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "emptied": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "flipped": _flip,
    "edited": lambda file: file.write_bytes(file.read_bytes().replace(b"1", b"2").replace(b"a", b"b")),
    "newer": _newer,
    "unreadable": lambda file: file.chmod(0),
    "linked": _moved,
    "linked to nothing": lambda file: _moved(file, "nowhere"),
    "a folder": _folder,
    "not UTF-8": lambda file: file.write_bytes(b"\xff\xfe\x00\xd8" + file.read_bytes()),
    "null": lambda file: file.write_bytes(b"null\n"),
    "a list": lambda file: file.write_bytes(b"[1, 2]\n"),
    "braces": lambda file: file.write_bytes(b"{}\n"),
    "other values": lambda file: file.write_bytes(
        b'{"files": [1], "kept": 2, "wandb": [3], "setting": 4, "begun": []}\n'
    ),
    "deep": lambda file: file.write_bytes(b"[" * 100_000),
}
FINISHED = [
    *("data/*/train.jsonl", "base/*/model.safetensors", "base/*/tokenizer.json", "mix/*/examples.jsonl"),
    *("mix/*/record.json", "train/*/checkpoints/step-2/model.safetensors", "evaluate/*lema*/score.json"),
    "select/*/step-2.jsonl",
]
SHOWN = [
    *("cells/*/run.json", "cells/*/metrics.jsonl", "cells/*/train", "cells/*/hub/model/README.md"),
    *("cells/*/hub/model/model.safetensors", "reports/all/report.json", "reports/all/.drawn.json"),
    *("reports/all/report.md", "reports/all/report.csv", "reports/all/accuracy-arithmetic.png"),
]


def found(runs: Path, pattern: str) -> Path:
    [file] = runs.glob(pattern)
    return file


def copied(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "runs", symlinks=True)


def settled(run: Run, runs: Path, whole: Path, file: Path, undo: Callable[[], object], names: str = "") -> None:
    """Run the cell: it ends as undisturbed; or in one line, and as undisturbed once the cause is gone."""
    if line := run(runs):
        assert "\n" not in line
        assert str(file) in line or (names and names in line)
        undo()
        assert run(runs) == ""
    print(f"\n  {file.relative_to(runs)}: {line or 'goes on'}")
    assert contents(runs) == contents(whole)


def restored(whole: Path, runs: Path, file: Path) -> None:
    """The file as it was."""
    original = whole / file.relative_to(runs)
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    elif file.is_symlink() or file.exists():
        file.unlink()
    shutil.copy2(original, file, follow_symlinks=False)


# Each file with one or two kinds of damage, and each kind with every eighth file; by hand all.
PAIRS = [(m + n, file, damage) for m, file in enumerate([*FINISHED, *SHOWN]) for n, damage in enumerate(DAMAGES)]


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [pytest.param(*pair, marks=pytest.mark.full if number % 16 else pytest.mark.slow) for number, *pair in PAIRS],
)
def test_a_damaged_file_is_named_or_made_again(
    run: Run, whole: Path, tmp_path: Path, pattern: str, damage: str
) -> None:
    runs = copied(whole, tmp_path)
    file = found(runs, pattern)
    if file.is_symlink() and damage not in ("removed", "linked to nothing", "a folder"):
        pytest.skip("it is a link to an artifact's file, which is damaged by itself")
    DAMAGES[damage](file)
    settled(run, runs, whole, file, lambda: restored(whole, runs, file))


# A moment of a stage at which it is interrupted, and the files that a later attempt goes on from.
RESUMED = {
    "sample/*.partial/resume/sample.jsonl": ["sample.jsonl", "attempt.json"],
    "train/*.partial/resume/checkpoint-4/contents.json": [
        *(f"checkpoint-4/{name}" for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")),
        *(f"checkpoint-{step}/{name}" for step in (2, 4) for name in ("model.safetensors", "contents.json")),
        "checkpoint-4/config.json",
    ],
    "select/*.partial/resume/step-4.json": ["step-2.json", "select step-2.jsonl"],
    "evaluate/*lema*.partial/resume/evaluate.jsonl": ["evaluate.jsonl"],
}


@pytest.fixture(scope="module")
def interrupted(run: Run, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`interrupted(moment)`: the runs folder of a cell that was interrupted when it had written that file."""
    folders: dict[str, Path] = {}

    def at(moment: str) -> Path:
        if moment not in folders:
            runs = folders[moment] = tmp_path_factory.mktemp("interrupted") / "runs"
            shutil.copytree(whole, runs, symlinks=True)
            for later in [path for path in (runs / moment.partition("/")[0]).iterdir() if "untuned" not in path.name]:
                shutil.rmtree(later)
            replace, write = os.replace, Lines.write

            def stop_at(target: Path) -> None:
                if fnmatch.fnmatch(str(target), str(runs / moment)):
                    raise KeyboardInterrupt

            def replaced(source: Path, target: Path) -> None:
                replace(source, target)
                stop_at(target)

            def written(lines: Lines) -> None:
                write(lines)
                stop_at(lines.path)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(artifacts.os, "replace", replaced)
                patch.setattr(Lines, "write", written)
                with pytest.raises(KeyboardInterrupt):
                    run(runs)
        return folders[moment]

    return at


@pytest.mark.full
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("moment", "name"), [(moment, name) for moment in RESUMED for name in RESUMED[moment]])
def test_a_damaged_file_to_resume_from_is_made_again(
    run: Run, whole: Path, interrupted: Callable[[str], Path], tmp_path: Path, moment: str, name: str, damage: str
) -> None:
    runs, pattern = copied(interrupted(moment), tmp_path), f"{moment.partition('resume/')[0]}resume/{name}"
    file = found(runs, pattern)
    DAMAGES[damage](file)
    # The next attempt takes the file over into its own folder, where a lack of rights is said and mended.
    settled(run, runs, whole, file, lambda: found(runs, pattern).chmod(0o644), names=f"/resume/{name}: ")


STAGES = ("data", "base", "sample", "correct", "mix", "train", "select", "evaluate", "cells", "reports")


def _until(whole: Path, runs: Path, stage: str) -> None:
    """What a cell has when it begins with a stage."""
    shutil.copytree(whole, runs, symlinks=True)
    for later in STAGES[STAGES.index(stage) :]:
        shutil.rmtree(runs / later)


def _grown(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


@pytest.mark.full
@pytest.mark.parametrize("room", [0, 4, 12, 24, 64, 200, 1600, 3200, 6000, 9000], ids=lambda kib: f"{kib}KiB")
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_named_and_nothing_is_lost(
    run: Run, whole: Path, disk: Callable[[int], Path], caplog: pytest.LogCaptureFixture, stage: str, room: int
) -> None:
    caplog.set_level("INFO")
    folder = disk(64 << 20)
    runs = folder / "runs"
    _until(whole, runs, stage)
    used = shutil.disk_usage(folder).used
    _grown(folder, used + (room << 10))
    line = run(runs)
    if line:
        assert re.search(rf"^{runs}/.*: no space is left on its disk; free some", line), line
        assert "\n" not in line
        written = sorted(path.parent.name for path in runs.rglob("checkpoint-*/contents.json"))
        _grown(folder, 64 << 20)
        assert run(runs) == ""
        assert not written or written[-1] in caplog.text, "training goes on from the last whole checkpoint"
    print(f"\n  {stage} {room} KiB: {line or 'fits'}")
    assert contents(runs) == contents(whole)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_disk_that_is_read_only_is_named(
    run: Run, disk: Callable[[int], Path], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = disk(64 << 20)
    runs = folder / "runs"
    replacing = artifacts.replacing

    def turning(path: Path) -> Any:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        return replacing(path)

    if when == "before":
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    else:
        monkeypatch.setattr(artifacts, "replacing", turning)
    line = run(runs, "until=data")
    print(f"\n  {line}")
    named = {
        "before": f"^runs_dir={runs}: cannot be written .Read-only file system.; choose a folder with runs_dir=",
        "meanwhile": rf"^{runs}/cells/.*/run\.json: its disk is read-only; mount it writable, or choose another",
    }
    assert re.search(named[when], line)
    monkeypatch.undo()
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    assert run(runs, "until=data") == ""


@pytest.mark.full
@pytest.mark.parametrize("stage", STAGES)
def test_a_folder_that_may_not_be_written_any_more_is_named(
    run: Run, whole: Path, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It turns so when the stage is to write its first file, or its first whole checkpoint."""
    runs = tmp_path / "runs"
    _until(whole, runs, stage)
    replacing, turned = artifacts.replacing, []

    def turning(path: Path) -> Any:
        if f"/{stage}/" in str(path) and path.name != "attempt.json" and not turned:
            path.parent.chmod(0o555)
            turned.append(path)
        return replacing(path)

    monkeypatch.setattr(artifacts, "replacing", turning)
    line = run(runs)
    print(f"\n  {stage}: {line}")
    assert line.startswith(f"{turned[0]}: permission denied; give this user the right")
    turned[0].parent.chmod(0o755)
    assert run(runs) == ""
    assert contents(runs) == contents(whole)


@pytest.mark.parametrize("stage", some(STAGES, 6, pytest.mark.slow))
def test_a_folder_that_may_not_be_written_is_named(run: Run, whole: Path, tmp_path: Path, stage: str) -> None:
    runs = tmp_path / "runs"
    _until(whole, runs, stage)
    (runs / stage).mkdir()
    (runs / stage).chmod(0o555)
    line = run(runs)
    print(f"\n  {stage}: {line}")
    assert re.search(rf"{runs}/{stage}\S*: permission denied; give this user the right", line), line
    (runs / stage).chmod(0o755)
    assert run(runs) == ""
    assert contents(runs) == contents(whole)
