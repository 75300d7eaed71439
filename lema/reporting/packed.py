"""Plain values as lines of text that are small and can be compared by git: what repeats is written once.

The first line says what the file is, then come the repeated values by their keys, then a line for each of the others,
then a checksum of all before. The same values give the same bytes.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

_KIND, _FORMAT = "lema results", 1
_AGAIN = "$"  # the only key of what stands for a repeated value
_WORTH = 64  # characters; what is shorter is written again
_MOST = 50_000_000  # parts that the values of a file may have, with what repeats counted each time


def packed(values: Sequence[Any]) -> str:
    """The text of plain values, which no file of ours may hold otherwise."""
    values = json.loads(json.dumps(values))  # JSON has no keys but texts
    counts, table = Counter[str](), dict[str, Any]()
    for value in values:
        _count(value, counts)
    rest = [_once(value, counts, table, whole=True) for value in values]
    lines = [{"kind": _KIND, "format": _FORMAT, "values": len(values)}]
    lines += [{_AGAIN: key, "is": table[key]} for key in sorted(table)]
    text = "".join(f"{_line(each)}\n" for each in [*lines, *rest])
    return text + _line({"sha256": _checksum(text)}) + "\n"


def unpacked(content: bytes) -> list[Any]:
    """The values of a file's content. `ValueError` says why there are none."""
    foreign = ValueError("no results of lema; name a file of do=export_results")
    try:
        text = content.decode("ascii")
        head, rest = text.partition("\n")[0], text.rstrip("\n").rpartition("\n")
        first = json.loads(head)
        known, version = first["kind"] == _KIND, int(first["format"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        raise foreign from None
    if not known:
        raise foreign
    if version > _FORMAT:
        raise ValueError(f"its format is {version}, of a newer lema; update lema, which reads {_FORMAT}")
    if rest[2] != _line({"sha256": _checksum(rest[0] + "\n")}):
        raise ValueError("cut off or changed since it was exported; fetch it again")
    try:
        return _values([json.loads(line) for line in rest[0].splitlines()[1:]])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise foreign from None


def _values(lines: list[Any]) -> list[Any]:
    table = {line[_AGAIN]: line["is"] for line in lines if _AGAIN in line}

    def is_again(value: Any) -> bool:
        return isinstance(value, dict) and value.keys() == {_AGAIN}

    def size(value: Any) -> int:
        if is_again(value):
            return size_of(value[_AGAIN])
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return 1 + sum(map(size, parts))

    def filled(value: Any) -> Any:
        if is_again(value):
            return filled_of(value[_AGAIN])
        if isinstance(value, dict):
            return {name: filled(part) for name, part in value.items()}
        return [filled(part) for part in value] if isinstance(value, list) else value

    @cache
    def size_of(key: str) -> int:
        return size(table[key])

    @cache
    def filled_of(key: str) -> Any:
        return filled(table[key])

    if sum(map(size, lines)) > _MOST:  # a few lines may stand for more than any memory holds
        raise ValueError
    return [filled(line) for line in lines if _AGAIN not in line]


def _count(value: Any, counts: Counter[str]) -> None:
    """How often each part stands in values; the parts of a part count once."""
    if not isinstance(value, dict | list):
        return
    counts[key := _key(value)] += 1
    if counts[key] == 1:
        for part in value.values() if isinstance(value, dict) else value:
            _count(part, counts)


def _once(value: Any, counts: Counter[str], table: dict[str, Any], whole: bool = False) -> Any:
    """A value with each repeated part replaced by its key in the table."""
    if not isinstance(value, dict | list):
        return value
    key = _key(value)
    if not whole and counts[key] > 1 and len(_line(value)) >= _WORTH:
        if key not in table:
            table[key] = _once(value, counts, table, whole=True)
        return {_AGAIN: key}
    if isinstance(value, list):
        return [_once(part, counts, table) for part in value]
    return {name: _once(part, counts, table) for name, part in value.items()}


def _key(value: Any) -> str:
    return _checksum(_line(value))[:12]


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _line(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
