"""Leakage: which test question a text repeats.

Texts are compared as lower-case words without punctuation. Unicode's compatible forms are equal, apostrophes and the
commas of thousands are dropped, and every other sign separates two words (`\\frac{1}{2}` is `frac 1 2`). Signs of
numbers do not count: of the nine MATH training questions that equal a test question, four differ in such a sign.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from lema.types import Problem

GRAM = 13  # words
_PROBE = 7  # words: a 13-gram holds a probe that starts at a multiple of seven
_WORD = re.compile(r"[^\W_]+")
_THOUSANDS = re.compile(r",(?<=\d,)(?=\d{3}(?!\d))")  # starts with a plain letter, which is found fastest
_LATEX_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!)(?=\d{3}(?!\d))")


@dataclass(frozen=True)
class Match:
    """The test problem that a text repeats, and why: "equal", "83 % of its 13-grams", "all its words"."""

    problem: Problem
    why: str

    @property
    def equal(self) -> bool:
        return self.why == "equal"


def words(text: str) -> list[str]:
    """The words of a text as they are compared.

    >>> words("Janet’s ducks lay 1,600 eggs; what's $\\\\frac{1}{2}$ of it?")
    ['janets', 'ducks', 'lay', '1600', 'eggs', 'whats', 'frac', '1', '2', 'of', 'it']
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).replace("’", "")
    if "\\!" in text or "{,}" in text:
        text = _LATEX_THOUSANDS.sub("", text)
    return _WORD.findall(_THOUSANDS.sub("", text.lower().replace("'", "")))


class TestQuestions:
    """An index over the test questions of all known tasks."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        self.by_id = {problem.id: problem for problem in self.problems}
        self.by_question = {problem.question.strip(): problem for problem in self.problems}
        self._equal: dict[str, int] = {}  # words -> index of the problem
        self._texts: list[str] = []  # " the words of a question "
        self._probes: dict[int, list[int]] = {}  # hash of some words in a row -> indices of problems
        self._words: dict[str, list[int]] = {}  # word -> indices of the problems with it
        for index, problem in enumerate(self.problems):
            row = words(problem.question)
            self._equal.setdefault(" ".join(row), index)
            self._texts.append(f" {' '.join(row)} ")
            for probe in {hash(tuple(row[at : at + _PROBE])) for at in range(len(row) - _PROBE + 1)}:
                self._probes.setdefault(probe, []).append(index)
            for word in set(row):
                self._words.setdefault(word, []).append(index)

    def match(self, question: str) -> Match | None:
        """The test problem whose question has the same words, or holds at least half of the 13-grams of `question`.

        Of a text with fewer than 13 words, all the words must stand in the test question, in a row. Of several such
        test questions, the one that holds most. A text without a word matches nothing.
        """
        if problem := self.by_question.get(question.strip()):
            return Match(problem, "equal")
        row = words(question)
        text = " ".join(row)
        if not row:
            return None
        if (index := self._equal.get(text)) is not None:
            return Match(self.problems[index], "equal")
        if len(row) < GRAM:
            rarest = min((self._words.get(word, []) for word in row), key=len)  # fewest questions have this word
            index = next((index for index in rarest if f" {text} " in self._texts[index]), None)
            return None if index is None else Match(self.problems[index], "all its words")
        # A 13-gram holds the probe at the first multiple of seven words from its start on, and seven of them share one.
        # So a question with half of the 13-grams has at least one of fourteen of their number as such probes.
        hits: Counter[int] = Counter()
        for at in range(0, len(row) - _PROBE + 1, _PROBE):
            if indices := self._probes.get(hash(tuple(row[at : at + _PROBE]))):
                hits.update(indices)
        if not (likely := [index for index, count in hits.items() if 2 * _PROBE * count >= len(row) - GRAM + 1]):
            return None
        grams = [f" {' '.join(row[at : at + GRAM])} " for at in range(len(row) - GRAM + 1)]
        found = {index: sum(gram in self._texts[index] for gram in grams) for index in likely}
        best = max(likely, key=found.__getitem__)
        if 2 * found[best] < len(grams):
            return None
        return Match(self.problems[best], f"{100 * found[best] // len(grams)} % of its 13-grams")

    def within(self, text: str) -> Match | None:
        """The test problem of which a longer text, such as worked examples, holds at least half of the 13-grams.

        A question with fewer than 13 words must be all of one to three lines, or of what follows their first colon.
        """
        lines = text.splitlines()
        for whole in ("\n".join(lines[at : at + many]) for many in (1, 2, 3) for at in range(len(lines))):
            for part in (whole, whole.partition(":")[2]):
                if (row := words(part)) and (index := self._equal.get(" ".join(row))) is not None:
                    return Match(self.problems[index], "equal")
        row = words(text)
        held = {" ".join(row[at : at + GRAM]) for at in range(len(row) - GRAM + 1)}
        for problem, own in zip(self.problems, map(str.split, self._texts), strict=True):
            grams = [" ".join(own[at : at + GRAM]) for at in range(len(own) - GRAM + 1)]
            if grams and 2 * (found := sum(gram in held for gram in grams)) >= len(grams):
                return Match(problem, f"{100 * found // len(grams)} % of its 13-grams")
        return None


def overlap(train: Iterable[Problem], tests: TestQuestions) -> dict[str, Match]:
    """The training problems, by their ids, whose questions repeat a test question: as measured, and whether equal."""
    matches = ((problem.id, tests.match(problem.question)) for problem in train)
    return {identifier: match for identifier, match in matches if match}
