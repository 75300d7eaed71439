"""Which training questions are CoT examples, and which corrections of the others are drawn: the same for every arm."""

import random
from collections.abc import Iterable, Mapping
from pathlib import Path

from lema.types import Correction, Problem, UserError


def parted(train: Mapping[str, Problem], most: int | None, seed: int) -> tuple[set[str], dict[str, Problem]]:
    """The ids of the CoT examples' questions, `most` at random, and the pool: the others, or all when none is left."""
    chosen = set(random.Random(seed).sample(list(train), min(most or len(train), len(train))))
    return chosen, {name: problem for name, problem in train.items() if name not in chosen} or dict(train)


def drawn(
    corrections: Iterable[Correction],
    pool: Mapping[str, Problem],
    most: int | None,
    seed: int,
    *,
    where: Path,
    key: str,
    instead: str,
) -> list[tuple[Problem, Correction]]:
    """The accepted corrections of questions of the pool, at most so many.

    `UserError` when there is none, about the `key` that needs one, with what is to be set `instead`; `where` they lie.
    """
    corrections = list(corrections)
    found = [each for each in corrections if each.accepted and each.problem_id in pool]
    if not found:
        raise UserError(
            f"{key}: not one of {len(corrections)} corrections was accepted for the {len(pool)} questions they are "
            f"drawn from ({where} says why); sample more solutions (sampler.samples=, limit=) or choose another "
            f"corrector, or {instead}"
        )
    if most is not None and most < len(found):
        found = random.Random(seed).sample(found, most)
    return [(pool[each.problem_id], each) for each in found]
