"""Files of JSON lines: rows are read however they are packed, and another kind of file is named with what helps."""

import bz2
import gzip
import io
import json
import lzma
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from lema.data import json_lines
from lema.types import UserError

ROWS = [{"question": "1 + 1?", "answer": "é 2"}, {"question": "2 + 2?", "answer": "4"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
HALF = '{"a": "x \\ud83d y", "b": ["\\uDE00"], "c": "\\ud83d\\ude00", "\\ud800": "\\\\ud83d"}'


def rows(file: Path) -> list[dict[str, object]]:
    return [row for _, row in json_lines.read(file, "key")]


def refused(file: Path) -> str:
    with pytest.raises(UserError) as caught:
        rows(file)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        *(LINES, LINES.rstrip(), LINES.replace("\n", "\r\n"), "\n \n" + LINES.replace("\n", "\n\n")),
        *(LINES.encode("utf-8-sig"), b"\xef\xbb\xbf\r\n" + LINES.encode(), gzip.compress(LINES.encode(), mtime=0)),
        gzip.compress(LINES[:10].encode(), mtime=0) + gzip.compress(LINES.encode()[10:], mtime=0),
        LINES.replace('"1 + 1?"', '  "1 + 1?"'),
    ],
)
def test_rows_are_read_however_they_are_packed(tmp_path: Path, content: str | bytes) -> None:
    file = tmp_path / "rows"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert rows(file) == ROWS


def test_half_of_a_surrogate_pair_is_a_question_mark_and_a_whole_one_stays(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text(HALF)
    assert rows(tmp_path / "rows") == [{"a": "x ? y", "b": ["?"], "c": "😀", "?": "\\ud83d"}]


def test_numbers_are_exact_and_of_any_length(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text('{"a": 12345678901234567890, "b": 1%s, "c": NaN, "d": 2.50}' % ("0" * 9999))
    [row] = rows(tmp_path / "rows")
    assert (row["a"], row["b"], row["d"]) == (12345678901234567890, float("inf"), 2.5)


def tables() -> dict[str, bytes]:
    import pandas

    packed = {"parquet": io.BytesIO(), "csv": io.BytesIO()}
    pandas.DataFrame(ROWS).to_parquet(packed["parquet"])
    pandas.DataFrame(ROWS).to_csv(packed["csv"], index=False)
    return {name: file.getvalue() for name, file in packed.items()}


def archives() -> dict[str, bytes]:
    packed, tar = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("rows.jsonl", LINES)
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry = tarfile.TarInfo("rows.jsonl")
        entry.size = len(LINES.encode())
        archive.addfile(entry, io.BytesIO(LINES.encode()))
    return {"zip": packed.getvalue(), "tar": tar.getvalue(), "tar.gz": gzip.compress(tar.getvalue(), mtime=0)}


MENDED = {
    "array": json.dumps(ROWS).encode(),
    "array, indented": json.dumps(ROWS, indent=2).encode(),
    "array, packed": b"\xef\xbb\xbf\n [" + json.dumps(ROWS).encode()[1:],
    "UTF-16": LINES.encode("utf-16"),
    "UTF-16LE": LINES.encode("utf-16-le"),
    "UTF-16BE": LINES.encode("utf-16-be"),
    "UTF-16, big-endian": b"\xfe\xff" + LINES.encode("utf-16-be"),
    "UTF-32": LINES.encode("utf-32"),
    "bzip2": bz2.compress(LINES.encode()),
    "xz": lzma.compress(LINES.encode()),
    "parquet": b"",
    "csv": b"",
}


@pytest.mark.parametrize("kind", MENDED)
def test_what_is_to_be_done_with_another_file_makes_json_lines_of_it(tmp_path: Path, kind: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(MENDED[kind] or tables()[kind])
    message = refused(tmp_path / "rows.jsonl")
    command = message.partition("not JSON lines: ")[2].partition(", and use ")[0]
    program = command.split()[0]
    if program != "python" and not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    subprocess.run(command.replace("python ", f"{sys.executable} ", 1), shell=True, check=True)
    assert message.endswith(f"use {tmp_path}/rows.jsonl.new instead")
    assert rows(tmp_path / "rows.jsonl.new") == ROWS or kind == "csv"
    assert [row["question"] for row in rows(tmp_path / "rows.jsonl.new")] == ["1 + 1?", "2 + 2?"]


OTHERS = {
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "a web page": b"<!DOCTYPE html>\n<html><body>404</body></html>",
    "XML": b'<?xml version="1.0"?>\n<a/>',
    "compressed by zstd": b"\x28\xb5\x2f\xfd\x04\x00",
    "YAML": b"question: 1 + 1?\nanswer: 2\n",
    "a table like CSV": b"question\tanswer\n1 + 1?\t2\n",
    "a binary file": b"SQLite format 3\x00",
    "an Arrow file": b"ARROW1\x00\x00\xff\xff\xff\xff",
    "which is no JSON object": b'"just a text"\n',
    "begins with b'null'": b"null",
    "begins with b'\\x01": b"\x01\x02\x03" * 9,
}


@pytest.mark.parametrize("said", [*OTHERS, "zip", "tar", "tar.gz"])
def test_another_kind_of_file_is_named(tmp_path: Path, said: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(OTHERS.get(said) or archives()[said])
    message = refused(tmp_path / "rows.jsonl")
    assert said.removesuffix(".gz") in message
    assert "not valid JSON" not in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{\n  "question": "1 + 1?"\n}', "line 1: the JSON goes on in the next line; make it one line: jq -c . FILE"),
        (b'{"a": 1}\n{"b"', "line 2: not valid JSON (Expecting ':' delimiter); mend the line or copy the file again"),
        (
            b'{"a": 1}\n{"a": {"b": 1, "c": 2, "b": 1}}',
            "line 2: not valid JSON (the field 'b' stands there twice); mend",
        ),
        (b'{"\\ud83d": 1, "\\udc00": 2}', "line 1: not valid JSON (the field '?' stands there twice); mend"),
        (b'{"a": 1}{"b": 2}', "line 1: not valid JSON (Extra data)"),
        (b'{"a": 1}\n[1]', "line 2: a row must be a JSON object with named fields, not list"),
        (b'{"a": "caf\xe9"}', "line 1: not UTF-8 (invalid continuation byte); save the file as UTF-8"),
        (gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:40], "cannot be read (Compressed file ended"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    assert said in refused(tmp_path / "rows.jsonl")


def test_a_folder_or_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(LINES)
    assert refused(tmp_path).startswith(f"key={tmp_path} is a folder (it holds rows.jsonl); name a file of JSON lines")
    assert refused(tmp_path / "x").startswith(
        f"key={tmp_path / 'x'}: No such file or directory; name a file of JSON lines"
    )


def test_an_empty_file_has_no_row(tmp_path: Path) -> None:
    for content in (b"", b"\n \n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)):
        (tmp_path / "rows.jsonl").write_bytes(content)
        assert rows(tmp_path / "rows.jsonl") == []
