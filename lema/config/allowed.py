"""What a field of the config allows: the range of its number, or the form of its text; and which values it refuses."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

# Marks a field that changes no result, and so is no part of what a run or an artifact is known by (`lema.identity`).
NO_EFFECT: dict[str, Any] = {"identity": False}


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`: `Range(0, 1, below=True)` is [0, 1). "Not a number" is in no range."""

    least: float
    most: float
    above: bool = False  # without `least` itself
    below: bool = False  # without `most` itself
    zero: bool = False  # and 0 besides

    def refuses(self, value: float) -> str | None:
        """What the value must be; None for a value in the range."""
        low = value > self.least if self.above else value >= self.least
        high = value < self.most if self.below else value <= self.most
        if (low and high) or (self.zero and value == 0):
            return None
        ends = [] if low else [f"{'above' if self.above else 'at least'} {self.least:,}"]
        ends += [] if high else [f"{'below' if self.below else 'at most'} {self.most:,}"]
        return f"must be {'0, or ' if self.zero else ''}{' and '.join(ends)}"


@dataclass(frozen=True)
class Form:
    """The texts that match a pattern as a whole, and the pattern in words."""

    pattern: str
    words: str

    def refuses(self, value: str) -> str | None:
        """What the value must be; None for a text of this form."""
        return None if re.fullmatch(self.pattern, value) else f"must be {self.words}"


# Where sense sets no upper end, the range ends at a number that nobody needs to pass and every library takes.
Count = Annotated[int, Range(1, 2**31 - 1)]
CountOr0 = Annotated[int, Range(0, 2**31 - 1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # NumPy takes no other, and Python's generator takes -1 for 1
Made = Annotated[int, Range(1, 1_000_000)]  # texts or problems, no two alike
Share = Annotated[float, Range(0, 1)]
ShareBelow1 = Annotated[float, Range(0, 1, below=True)]  # of what is dropped or kept of before: never all
Rate = Annotated[float, Range(0, 1, above=True)]  # of learning

# It is a part of folders' names, of which several fit into one of 255 bytes, and of W&B's, which take no other letters.
Name = Annotated[str, Form(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,39}", "1 to 40 of the characters A-Z a-z 0-9 _ . -")]
# W&B's own limits.
Project = Annotated[str, Form(r"[^/\\#?%:]{1,128}", r"1 to 128 characters, and none of / \ # ? % :")]
Group = Annotated[str, Form(r".{1,128}", "1 to 128 characters")]


def rule(hint: Any) -> Range | Form | None:
    """The rule in a field's type: of `Annotated[int, Range(1, 9)]`, or of an `Optional` of it."""
    rules = (each for part in (hint, *get_args(hint)) for each in getattr(part, "__metadata__", ()))
    return next(rules, None)


def refused(value: Any, hint: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The path and one line of each value in a tree of dataclasses that its field (of type `hint`) refuses."""
    if is_dataclass(value):
        for name, each in get_type_hints(type(value), include_extras=True).items():
            yield from refused(getattr(value, name), each, (*path, name))
    elif isinstance(value, dict):
        of_key, of_value = get_args(hint)
        for name, each in value.items():
            yield from refused(name, of_key, (*path, name))
            yield from refused(each, of_value, (*path, name))
    elif value is not None:
        found = rule(hint)
        must = found.refuses(value) if found else "must not be empty" if value in ("", []) else None
        if must:
            shown = value if str(value).isprintable() else repr(value)  # in one line, and without terminal escapes
            yield path, f"{'.'.join(path)}={shown}: {must}{', or null' if type(None) in get_args(hint) else ''}"
