"""Which values a field of the config allows: the range of a number or the form of a text, and the check of a config."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

# Marks a field that changes no result, and so is no part of what a run or an artifact is known by (`lema.identity`).
NO_EFFECT: dict[str, Any] = {"identity": False}
IF_SET: dict[str, Any] = {"identity": "if set"}  # null, 0 and what is empty are as if the field did not exist


def unless(value: Any) -> dict[str, Any]:
    """Marks a field that is as if it did not exist at this value, as one with `IF_SET` is at null."""
    return IF_SET | {"unless": value}


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`: `Range(0, 1, below=True)` is [0, 1). No range contains "not a number"."""

    least: float
    most: float
    above: bool = False  # excludes `least` itself
    below: bool = False  # excludes `most` itself
    zero: bool = False  # also allows 0

    def refuses(self, value: float) -> str | None:
        """What the value must be, in words; None if it is in the range."""
        low = value > self.least if self.above else value >= self.least
        high = value < self.most if self.below else value <= self.most
        if (low and high) or (self.zero and value == 0):
            return None
        ends = [] if low else [f"{'above' if self.above else 'at least'} {self.least:,}"]
        ends += [] if high else [f"{'below' if self.below else 'at most'} {self.most:,}"]
        return f"must be {'0, or ' if self.zero else ''}{' and '.join(ends)}"


@dataclass(frozen=True)
class Form:
    """The texts that a pattern matches as a whole; `words` describes the pattern."""

    pattern: str
    words: str

    def refuses(self, value: str) -> str | None:
        """What the value must be, in words; None if it has this form."""
        return None if re.fullmatch(self.pattern, value) else f"must be {self.words}"


@dataclass(frozen=True)
class Place:
    """The texts that name a file or a folder, once `at_home` has written out the homes in them."""

    def refuses(self, value: str) -> str | None:
        """What the value must be, in words; None if it can be a path."""
        if value.startswith("~"):
            return f"must be a whole path: no home is known for {value.partition('/')[0]}"
        variable = re.search(r"\$\{?([A-Za-z_]\w*)\}?", value)
        if variable and variable[1] in os.environ and not os.path.exists(value):
            return f"must be a path: {variable[0]} was in single quotes, where a shell does not replace it"
        return None if value else "must not be empty"


# A range without a natural upper end ends at a number that every library takes and that nobody needs to exceed.
Count = Annotated[int, Range(1, 2**31 - 1)]
CountOr0 = Annotated[int, Range(0, 2**31 - 1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # NumPy takes no other seed, and Python's generator takes -1 as 1
Made = Annotated[int, Range(1, 1_000_000)]  # texts or problems, no two alike
Repeats = Annotated[int, Range(1, 10_000)]  # of one question
Temperature = Annotated[float, Range(0.01, 2, zero=True)]  # 0 is greedy; OpenAI takes 2 at most, vLLM 0.01 at least
Share = Annotated[float, Range(0, 1)]
ShareBelow1 = Annotated[float, Range(0, 1, below=True)]  # dropout, or a decay rate: never 1
Factor = Annotated[float, Range(0, 1000)]
Rate = Annotated[float, Range(0, 1, above=True)]  # a learning rate

# A name becomes part of folder names, where several must fit into 255 bytes, and of W&B's names, which take no other
# characters.
Name = Annotated[str, Form(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,39}", "1 to 40 of the characters A-Z a-z 0-9 _ . -")]
# W&B's own limits.
Project = Annotated[str, Form(r"[^/\\#?%:]{1,128}", r"1 to 128 characters, and none of / \ # ? % :")]
Path = Annotated[str, Place()]
Group = Annotated[str, Form(r".{1,128}", "1 to 128 characters")]


def rule(hint: Any) -> Range | Form | Place | None:
    """The rule in a field's type, `Annotated[int, Range(1, 9)]` or an `Optional` of it; None if it has no rule."""
    rules = (found for part in (hint, *get_args(hint)) for found in getattr(part, "__metadata__", ()))
    return next(rules, None)


def at_home(value: Any, hint: Any) -> Any:
    """A tree of dataclasses with the homes in its paths written out in place: `~/runs` is `/home/me/runs`."""
    if is_dataclass(value):
        for name, field_hint in get_type_hints(type(value), include_extras=True).items():
            if (new := at_home(part := getattr(value, name), field_hint)) is not part:
                setattr(value, name, new)
    elif isinstance(value, dict):
        for part in value.values():  # a dict of the config holds sections, and no paths
            at_home(part, (get_args(hint) or (Any, Any))[1])
    return os.path.expanduser(value) if isinstance(value, str) and isinstance(rule(hint), Place) else value


def _parts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def refused(value: Any, hint: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each value in a tree of dataclasses that its field refuses: its path, and a line that says why.

    `hint` is the type of the tree itself.
    """
    if is_dataclass(value):
        for name, field_hint in get_type_hints(type(value), include_extras=True).items():
            yield from refused(getattr(value, name), field_hint, (*path, name))
    elif isinstance(value, dict):
        key_hint, value_hint = get_args(hint) or (Any, Any)
        for name, part in value.items():
            yield from refused(name, key_hint, (*path, name))
            yield from refused(part, value_hint, (*path, name))
    elif parts := _parts(value):
        of = next((get_args(each) for each in (hint, *get_args(hint)) if get_origin(each) is list), (Any,))
        for part in parts:
            yield from refused(part, of[0], path)
    elif value is not None:
        limits = rule(hint)
        must = limits.refuses(value) if limits and value != [] else "must not be empty" if value in ("", []) else None
        if must:
            shown = value if str(value).isprintable() else repr(value)  # in one line, and without terminal escapes
            yield path, f"{'.'.join(path)}={shown}: {must}{', or null' if type(None) in get_args(hint) else ''}"
