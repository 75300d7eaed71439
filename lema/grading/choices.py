r"""The candidate that a phrase names by its text or its letter: None when it names none, "" when it names several.

>>> named("The answer is not a bank but a city.", ["bank", "city"]), named(r"$\mathbf{B}$", ["bank", "city"])
('city', 'city')
>>> named("B, because A is wrong.", ["bank", "city"]), named("not B", ["bank", "city"])
('city', None)
"""

import re
from collections.abc import Sequence

from lema.grading.numerals import legible

_DRESS = re.compile(r"\\[a-zA-Z]+|</?[a-z]{1,10}>|\\[,;!()\[\] ]|[{}$*\"`~]|(?<!\w)[_']+|[_']+(?!\w)")
_CLAUSE = re.compile(
    r"(?i)([,;!?\n]|\.(?!\w)|\b(?:(?<!anything )(?<!all )but|because|since|so|while|whereas|although)\b)"
)
_BEST = re.compile(r"(?i)\bis the (?:best|correct|right|most \w+) (?:answer|choice|option)\b")
# A clause with one of these words is dropped whole; of a clause with `_NOT` only the part from that word on.
_WRONG = re.compile(
    r"(?i)\b(?:wrong|incorrect|false|unlikely|ruled out|eliminated?|discard|reject|exclude|rule out)\b"
    r"|(?:\bnot|n't) (?:\w+ )?(?:right|correct|best|possible|suitable|appropriate|likely|valid|answer)\b"
)
_NOT = re.compile(
    r"(?i)\b(?:not(?! only\b)|neither|nor|never|no (?:longer|option|choice)|(?:anything|all) but|cannot|\w+n't"
    r"|rather than|instead of|unlike|except)\b"
)
_ANNOUNCES = re.compile(
    r"(?i)\b(?:answer|choices?|options?|it|this|that|i|choose|pick|rather than|instead of|unlike|except)\b"
)
_DETERMINERS = frozenset("a an the my your his her its our their".split())
_REASON = re.compile(r"(?i)\b(?:because|since|as|while|whereas|although|though|given|considering)\b")
_ENDS = r"(?=\s*(?:$|[\])}.:,;!?\n])|\s+(?:-\s|(?:because|since|as|for|which|and|or|is|would|seems)\b))"
_LETTERS = re.compile(
    rf"[(\[]\s*([A-Za-z])\s*[)\]]|\b(?i:option|choice|letter) ([A-Z])(?![\w'])"
    rf"|(?:^\W*|(?i:\b(?:options?|choices?|letter|answer|choose|pick|select|go with|is|it's|be|or|and|both|but|so"
    rf"|thus))\W+|[:=,] *)([A-Z]){_ENDS}"
    r"|^\W*([a-z])\W*$|(?:^|\s)([b-z])\)"
)


def named(phrase: str, candidates: Sequence[str]) -> str | None:
    """The one of `candidates` that `phrase` names. A letter beside the text of another candidate names two."""
    clauses = _CLAUSE.split(_DRESS.sub(" ", legible(phrase)))
    clauses = [clause for clause in clauses if _BEST.search(clause)] or clauses
    names = re.compile("|".join(re.escape(name) for name in candidates if name) or "$^", re.IGNORECASE)
    phrase = ""  # without denials: `the answer is a city` of `the answer is a city not a bank`
    for clause in clauses:
        said = names.sub(lambda name: "x" * len(name[0]), clause)  # a candidate may be `false information`
        denial = _NOT.search(said)
        if not (_WRONG.search(said) or (denial and not _ANNOUNCES.search(said, 0, denial.end()))):
            phrase += clause[: denial.start()] if denial else clause
    # What a reason names counts only where nothing is named before it.
    found = _named(_REASON.split(phrase, maxsplit=1)[0], candidates) or _named(phrase, candidates)
    return None if not found else found[0] if len(found) == 1 else ""


def _named(phrase: str, candidates: Sequence[str]) -> list[str]:
    words = _words(phrase)
    found = [
        name for name in candidates if name.strip() and re.search(rf"(?<!\w){re.escape(_words(name))}s?(?!\w)", words)
    ]
    # `bank` is not named where `river bank` is.
    found = [name for name in found if not any(name != other and _words(name) in _words(other) for other in found)]
    letters = {ord(next(filter(None, match.groups())).upper()) - ord("A") for match in _LETTERS.finditer(phrase)}
    lettered = [candidates[index] for index in letters if index < len(candidates)]
    return lettered if len(lettered) == 1 and lettered[0] in found else [*dict.fromkeys([*found, *lettered])]


def _words(text: str) -> str:
    words = re.sub(r"[-_]", " ", legible(text)).casefold().split()
    return " ".join(word for word in words if word not in _DETERMINERS or len(words) == 1)
