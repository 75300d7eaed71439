"""Errors that are a file's become one line with the file, its cause and the remedy; others keep their traceback."""

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small import SMALL
from tables import table

from lema import pipeline
from lema.artifacts import Artifact, Shown, keep, kept, write_json, write_jsonl
from lema.artifacts.faults import explained, explaining
from lema.models.reading import reading
from lema.models.weights import Weights
from lema.stopping import Stopped
from lema.types import Problem, UserError


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file can be larger than `size` bytes here: `ulimit -f`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("name", "words"), table(__file__, "the number of an error and its line"))
def test_each_of_the_systems_numbers_has_its_cause_and_remedy(tmp_path: Path, name: str, words: str) -> None:
    number = getattr(errno, name)
    file = tmp_path / "mix" / "examples.jsonl"
    for error in (
        OSError(number, os.strerror(number), str(file)),
        OSError(number, os.strerror(number), file),
        OSError(number, os.strerror(number), f"{file.parent}/.{file.name}.{'0a' * 16}"),
        OSError(number, os.strerror(number), str(file), None, str(file)),
    ):
        with (
            pytest.raises(UserError, match=rf"^{file}: {words}.*, and the same command goes on from here$"),
            explaining(tmp_path),
        ):
            raise error


def not_a_files(kind: str, root: Path) -> Exception:
    known = FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere/x")
    errors: dict[str, Exception] = {
        "a bug": KeyError("summary"),
        "a file elsewhere": known,
        "refused": ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        "timed out": TimeoutError(errno.ETIMEDOUT, "timed out"),
        "denied": PermissionError(errno.EPERM, "Operation not permitted"),
        "no number": OSError("Can't load the model"),
        "a bug behind one": KeyError("x"),
        "torch's own": RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        "out of memory": MemoryError(),
    }
    errors["a bug behind one"].__context__ = OSError(errno.ENOSPC, "No space left", str(root / "file"))
    return errors[kind]


@pytest.mark.parametrize(
    "kind",
    [
        *(
            *("a bug", "a file elsewhere", "refused", "timed out", "denied", "no number", "a bug behind one"),
            "torch's own",
        ),
        "out of memory",
    ],
)
def test_what_is_no_files_error_is_left_as_it_is(tmp_path: Path, kind: str) -> None:
    error = not_a_files(kind, tmp_path)
    with pytest.raises(type(error)) as raised, explaining(tmp_path, in_sweep=True):
        raise error
    assert raised.value is error


def _torch(file: Path) -> None:
    import torch

    torch.save({"weight": torch.zeros(100_000)}, file)


def _safetensors(file: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(100_000)}, file)


def _tokenizers(file: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({f"word{number}": number for number in range(9999)}, unk_token="word0")).save(str(file))


def _pyarrow(file: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"x": list(range(100_000))}), file, compression="none")


WRITERS: list[Callable[[Path], Any]] = [
    *(_torch, _safetensors, _tokenizers, _pyarrow, lambda file: file.write_text("text" * 100_000)),
    lambda file: write_json(file, ["text"] * 100_000),
    lambda file: write_jsonl(file, ({"row": number} for number in range(100_000))),
]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__.replace("<lambda>", "ours"))
def test_whoever_writes_a_file_that_does_not_fit_the_line_names_it(
    tmp_path: Path, write: Callable[[Path], Any]
) -> None:
    file = tmp_path / "train" / "a.file"
    file.parent.mkdir()
    expected = r"(it would be larger than a file may be here|it could not be written whole); .*ulimit -f"
    with largest_file(20_000), pytest.raises(UserError, match=rf"^{file}: {expected}"), explaining(tmp_path):
        write(file)
    write(file)


def test_a_disk_that_is_full_is_named_whatever_library_writes(disk: Callable[[int], Path]) -> None:
    folder = disk(64 << 10)
    for number, write in enumerate(WRITERS):
        file = folder / f"{number}.file"
        full = rf"^{file}: no space is left on its disk; free some"
        with pytest.raises(UserError, match=full), explaining(folder):
            write(file)
        file.unlink(missing_ok=True)


def test_a_sweep_ends_where_every_cell_would_meet_the_same_and_goes_on_elsewhere(tmp_path: Path) -> None:
    full, denied = ((OSError(number, "", str(tmp_path / "x"))) for number in (errno.ENOSPC, errno.EACCES))
    with (
        pytest.raises(Stopped, match=r"/x: no space is left on its disk; free some, or .* runs_dir=$"),
        explaining(tmp_path, in_sweep=True),
    ):
        raise full
    with pytest.raises(UserError, match="permission denied"), explaining(tmp_path, in_sweep=True):
        raise denied


def test_an_error_that_a_library_wraps_is_found(tmp_path: Path) -> None:
    outer = RuntimeError("An error occurred while generating the dataset")
    outer.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/cache/huggingface/x.arrow")
    assert str(explained(outer, tmp_path)).startswith("/cache/huggingface/x.arrow: no space is left on its disk")


@pytest.mark.parametrize(
    "line", [b"", b"{", b"null", b"[]", b"3", b'{"id": 1}', b'{"later": 1, "id": 2}', b"\xff\xfe", b"{} {}"]
)
def test_a_damaged_row_is_named_by_its_file_and_line(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "data" / "train.jsonl"
    file.parent.mkdir()
    write_jsonl(file, [Problem(f"p{number}", "1+1?", "", "2") for number in range(3)])
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([*lines[:2], line, lines[2], b""]))
    message = rf"^{file} line 3: damaged after it was made; delete {file.parent} to make it again$"
    with pytest.raises(UserError, match=message):
        Artifact(file.parent, "", {}, Shown("dataset")).rows("train.jsonl", Problem)


def test_what_is_kept_for_a_later_attempt_is_whole_or_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, value = tmp_path / "sample 0.json", [["text ä😀\u2028", True], ["", False]]
    assert kept(file) is None
    keep(file, value)
    whole = file.read_bytes()
    assert kept(file) == value
    assert not caplog.text
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        assert kept(file) in (None, value)
        file.write_bytes(whole[:position])
        assert kept(file) is None or not whole[position:].strip()
    caplog.clear()
    shutil.copy(tmp_path / "sample 0.json", tmp_path / "sample 16.json")
    (tmp_path / "sample 16.json").write_bytes(whole)
    assert kept(tmp_path / "sample 16.json") is None
    assert caplog.text.count("sample 16.json is damaged, and made again") == 1


def test_a_model_that_may_not_be_read_is_not_to_be_copied_again(tmp_path: Path) -> None:
    source = Weights("model", str(tmp_path), None, "")
    with (
        pytest.raises(UserError, match=r"config\.json: permission denied; give this user the right"),
        reading(source, "model"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "config.json"))


def test_a_damaged_model_that_a_step_made_is_to_be_made_again(tmp_path: Path) -> None:
    model = tmp_path / "train" / "label-key" / "checkpoints" / "step-2"
    model.mkdir(parents=True)
    (model.parents[1] / "record.json").write_text("{}")
    with (
        pytest.raises(UserError, match=f": delete {model.parents[1]} to make it again$"),
        reading(Weights("model", str(model), None, ""), "model"),
    ):
        raise ValueError("header too large")


def test_a_command_ends_in_one_line_and_a_mistake_of_ours_in_a_traceback(
    run_cli: Any, tmp_path: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    (runs / "data").mkdir(parents=True)
    (runs / "data").rmdir()
    (runs / "data").write_text("a file")
    done = run_cli(*SMALL, "until=data")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"{runs}/data: something else is in its place; move that away, and the same command goes" in done.stderr
    monkeypatch.setattr(pipeline, "_run_cell", lambda *_: {}["ours"])
    with pytest.raises(KeyError, match="ours"):
        pipeline.run(make_config(*SMALL, f"runs_dir={tmp_path / 'other'}"), [])
