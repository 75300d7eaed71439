"""JSON lines in a file, plain or gzipped: each row with its place, and an error that names any other kind of file."""

import gzip
import hashlib
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shlex import quote
from typing import Any, cast

from lema.config.files import regular
from lema.types import UserError

# How other files begin, what they are, and how to make JSON lines of them.
FROM_TABLE = (
    "python -c \"import sys, pandas; pandas.read_{0}(sys.argv[1]).to_json(sys.argv[2], orient='records', lines=True,"
    ' double_precision=15)"'
    " {file} {new}"
)
_OTHERS = [
    (rb"PAR1", "a Parquet file", FROM_TABLE.format("parquet", file="{file}", new="{new}")),
    (rb"ARROW1|\xff\xff\xff\xff.{4}\x10\0", "an Arrow file", "load it with `datasets`, and save it with to_json"),
    (rb"version https://git-lfs", "a git-lfs pointer in the place of the data", "run git lfs pull in its repository"),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd", "unzstd -o {new} {file}"),
    (rb"BZh", "compressed by bzip2", "bzip2 -dc {file} > {new}"),
    (rb"\xfd7zXZ", "compressed by xz", "xz -dc {file} > {new}"),
    (rb"PK\x03\x04", "a zip archive or a spreadsheet", "unpack it, or export it as JSON lines"),
    (rb"7z\xbc\xaf|Rar!", "an archive", "unpack it and name the file of JSON lines in it"),
    (rb".{257}ustar", "a tar archive", "unpack it with tar -xf {file} and name the file of JSON lines in it"),
    (rb"SQLite format 3|\x89HDF|\x93NUMPY|Obj\x01|\x80[\x02-\x05]", "a binary file", "export it as JSON lines"),
    (rb"\xff\xfe\0\0|.\0\0\0|\0\0\0", "in UTF-32", "iconv -f UTF-32 -t UTF-8 {file} > {new}"),
    (rb"\xff\xfe|\xfe\xff", "in UTF-16", "iconv -f UTF-16 -t UTF-8 {file} > {new}"),
    (rb".\0.\0", "in UTF-16", "iconv -f UTF-16LE -t UTF-8 {file} > {new}"),
    (rb"\0.\0", "in UTF-16", "iconv -f UTF-16BE -t UTF-8 {file} > {new}"),
    (rb"\s*\[", "one JSON array", "jq -c '.[]' {file} > {new}"),
    (rb"\s*(?:<!doctype|<html|<head|<!--|<\?xml)", "a web page or XML", "download the file itself (its raw address)"),
    (rb"\s*(?:---|[\w-]+:\s)", "text like YAML", "save it as JSON lines"),
    (rb"[\w\"'][^\n{}\0-\x08]*[,\t;|]", "a table like CSV", FROM_TABLE.format("csv", file="{file}", new="{new}")),
]
_OBJECT = re.compile(rb"\s*\{[^\0]")
_MARK = b"\xef\xbb\xbf"  # of UTF-8, which editors write at the beginning
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # of a surrogate pair: both halves are escaped


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of a name that stands there twice, nobody knows which value is meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the field '{twice:.40}' stands there twice")
    return found


# Python reads no integer of more than 4300 digits.
_JSON = json.JSONDecoder(
    object_pairs_hook=_once, parse_int=lambda digits: int(digits) if len(digits) <= 4300 else float(digits)
)


@contextmanager
def opened(file: Path, key: str) -> Iterator[io.FileIO]:
    """A file that is open for reading; a `UserError` says why it cannot be read, and what to name instead."""
    try:
        with open(file, "rb", buffering=0, opener=regular) as content:
            yield content
    except IsADirectoryError as error:
        inside = ", ".join(sorted(path.name for path in file.iterdir())[:3]) or "nothing"
        instead = f"is a folder (it holds {inside}); name a file of JSON lines, plain or .gz"
        raise UserError(f"{key}={file} {instead}") from error
    except OSError as error:
        raise UserError(f"{key}={file}: {error.strerror}; name a file of JSON lines, plain or .gz") from error


def read(file: Path, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a file with its place, `train.jsonl line 3`; `key` is the setting that names the file.

    Blank lines are skipped. Half of a surrogate pair, which JSON can carry and no file, becomes a question mark.
    Raises `UserError` where the file cannot be read, is of another kind, or has a damaged line.
    """
    with opened(file, key) as content:
        yield from rows(content, str(file))


def sha256(file: str, key: str) -> str:
    """The hash of a file's content."""
    with opened(Path(file), key) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def rows(content: io.RawIOBase | io.BytesIO, file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Like `read`, from an open file or bytes; gzip is recognised by its content, not by the name."""
    number = 0
    with ExitStack() as stack:
        try:
            lines = stack.enter_context(io.BufferedReader(cast(Any, content)))
            if lines.peek(2)[:2] == b"\x1f\x8b":
                lines = io.BufferedReader(cast(Any, stack.enter_context(gzip.open(lines))))
            _check(lines.peek(512)[:512], file)
            for number, line in enumerate(lines, 1):
                if line.removeprefix(_MARK).strip():
                    where = f"{file} line {number}"
                    yield where, _row(line, where, number == 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{file} line {number + 1}: cannot be read ({error}); copy the file again") from error


def _check(head: bytes, file: str) -> None:
    """Raise `UserError` for a file that does not begin like JSON lines."""
    head = head.removeprefix(_MARK)
    if _OBJECT.match(head) or not head.strip():
        return
    new = f"{file}.new"
    for begins, what, remedy in _OTHERS:
        if re.match(begins, head, re.DOTALL | re.IGNORECASE):
            instead = f", and use {new} instead" if "{new}" in remedy else ""
            command = remedy.format(file=quote(str(file)), new=quote(new))
            raise UserError(f"{file} is {what}, not JSON lines: {command}{instead}")
    raise UserError(f"{file} begins with {head[:20]!r}, which is no JSON object; name a file of JSON lines")


def _row(line: bytes, where: str, first: bool) -> dict[str, Any]:
    try:
        row = _JSON.decode(line.decode("utf-8-sig").strip())
        if _HALF.search(line):
            row = _JSON.decode(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace").decode())
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        what = f"not valid JSON ({str(error).partition(': line 1')[0]}); mend the line or copy the file again"
        if first and line.rstrip().endswith((b"{", b"[", b",")):
            what = "the JSON goes on in the next line; make it one line: jq -c . FILE > NEW"
        raise UserError(f"{where}: {what}") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: a row must be a JSON object with named fields, not {type(row).__name__}")
    return row
