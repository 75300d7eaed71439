"""Where a file system has no links (exFAT, network drives, Colab's Drive), a run ends in the same bytes and report."""

import errno
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import METHODS, ROOT, TRAINING

from lema.artifacts.links import duplicate, follow, point
from lema.models import checkpoints

REASONS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES)
NO_LINKS = """
import errno, os
def refuse(*_, **__):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))
os.link = os.symlink = refuse
"""


@pytest.fixture(params=REASONS, ids=lambda number: errno.errorcode[number])
def no_links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "symlink", refuse)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one", "other"):
        (tmp_path / "made" / name).mkdir(parents=True)
        (tmp_path / "made" / name / "record.json").write_text(name)
    (tmp_path / "cell").mkdir()
    return tmp_path


@pytest.mark.usefixtures("no_links")
def test_a_folder_and_a_file_are_pointed_to_without_links(folder: Path) -> None:
    for name in ("one", "other", "other"):
        point(folder / "cell" / "step", folder / "made" / name)
        assert (follow(folder / "cell" / "step") / "record.json").read_text() == name
        point(folder / "cell" / "file", folder / "made" / name / "record.json")
        assert (folder / "cell" / "file").read_text() == name
    assert sorted(path.name for path in (folder / "cell").iterdir()) == ["file", "step"]


@pytest.mark.usefixtures("no_links")
def test_weights_are_collected_and_the_checkpoints_stay_whole(tmp_path: Path) -> None:
    for step in (4, 8, 10):
        checkpoint = tmp_path / "resume" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        for name in ("model.safetensors", "README.md", *checkpoints.STATE):
            (checkpoint / name).write_text(f"{name} {step}")
    assert checkpoints.collect(tmp_path / "resume", tmp_path / "checkpoints", 4) == [4, 8, 10]
    found = {path.relative_to(tmp_path / "checkpoints").as_posix() for path in tmp_path.glob("checkpoints/*/*")}
    assert found == {f"step-{step}/model.safetensors" for step in (4, 8, 10)}
    assert len(list(tmp_path.glob("resume/*/*"))) == 3 * (2 + len(checkpoints.STATE))


def test_what_is_a_link_already_is_followed_as_ever(folder: Path) -> None:
    point(folder / "cell" / "step", folder / "made" / "one")
    assert (folder / "cell" / "step").is_symlink()
    assert (follow(folder / "cell" / "step") / "record.json").read_text() == "one"
    duplicate(folder / "made" / "one" / "record.json", folder / "same")
    assert (folder / "same").samefile(folder / "made" / "one" / "record.json")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe\x00", b"-> nowhere\n", b"->", b"-> " + b"x" * 200])
def test_a_file_that_points_nowhere_leads_to_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "step").write_bytes(content)
    assert not (follow(tmp_path / "step") / "record.json").exists()


def places(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A runs folder with links, one in a process that has none, and one on exFAT where that is mounted."""
    yield tmp_path / "with", {}
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(NO_LINKS)
    yield tmp_path / "without", {"PYTHONPATH": f"{tmp_path / 'patch'}{os.pathsep}{ROOT}"}
    if mounted := os.environ.get("LEMA_TEST_EXFAT"):
        yield Path(mounted) / uuid.uuid4().hex, {}


def results(runs: Path) -> dict[str, bytes]:
    """What does not depend on the time and the place: all artifacts, the report, the models to upload."""
    stages = ("data", "base", "mix", "train", "select", "merge", "evaluate", "reports")
    files = [path for stage in stages for path in (runs / stage).rglob("*") if path.name != "record.json"]
    files += runs.glob("cells/*/hub/*/*")
    return {path.relative_to(runs).as_posix(): path.read_bytes() for path in files if path.is_file()}


@pytest.mark.slow
def test_a_whole_run_without_links_gives_the_same(tmp_path: Path) -> None:
    overrides = [*TRAINING, *METHODS["lora"], "train.merge=original", "until=report", "tracker=wandb"]
    found = []
    for runs, variables in places(tmp_path):
        runs.mkdir()
        for _ in range(2 if variables else 1):  # the second time all is current
            # The path of its base is in an adapter, so it must be the same in each.
            command = [sys.executable, str(ROOT / "run.py"), *overrides, "runs_dir=runs"]
            environment = os.environ | {"WANDB_MODE": "offline"} | variables
            done = subprocess.run(command, cwd=runs, capture_output=True, text=True, timeout=600, env=environment)
            assert done.returncode == 0, done.stderr
            assert "Traceback" not in done.stderr
        found.append(results(runs / "runs"))
        links = [path for path in runs.rglob("*") if path.is_symlink() and "wandb" not in path.parts]
        assert bool(links) == (runs == tmp_path / "with")
    for each in found[1:]:
        assert each.keys() == found[0].keys()
        # The report has hours.
        assert [name for name in each if each[name] != found[0][name] and not name.startswith("reports/")] == []
