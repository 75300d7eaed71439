"""The words and marks of a corrector's reply: how models write its headers, step labels, remarks and final answer.

Every pattern is tried at a line's start, and is bounded or possessive, so that no reply takes long. A step's number has
at most nine digits, as Python reads no number of thousands.
"""

import re

# What may stand before a name: "## ", "- **", "✅ ", "2. ", "(b) ".
_MARKS = r"(?:[^\w\n{}()\[\]<.…$\\\"'=]|_){0,40}(?:\(?(?:[0-9]{1,2}|[a-h]|i{1,3}v?)[.)][ \t]{1,4}[*_]{0,3})?"
_TAIL = r"(?: ?\([^()\n]{1,60}\))?[*_` \t✅✔☑✓❌\ufe0f]{0,8}(?:[:：][*_`]{0,3}[ \t]*+|$)"
# In other words than the prompt's, a name needs a colon, a dash or the look of a heading.
_LOOSE_TAIL = (
    r"(?: ?\([^()\n]{1,60}\))?[*_` \t✅✔☑✓❌\ufe0f]{0,8}(?:[:：?;=][*_`]{0,3}[ \t]*+|[ \t][-–—=→]{1,2}>?(?:[ \t]|$)"
    r"|(?<=\*\*)[ \t]|(?(heading)$|(?(solution_)$|(?!))))"
)
_STEP = r"(?P<step>(?:first )?(?:incorrect|wrong|erroneous) step(?: number)?)"
_EXPLANATION = r"(?P<explanation>explanation(?: of [a-z' ]{1,40})?)"
_SOLUTION = r"(?P<solution>correct(?:ed)? solution(?:,? (?:starting )?from (?:(?:that|this) step|step [0-9]{1,9}))?)"
_CHOICE = r"(?P<explanation>mistakes?)|(?P<solution>correct(?:ed)? (?:answer|solution))"
_LOOSE = (
    r"(?P<heading>(?=[ \t]{0,8}[#*_]))?"
    rf"{_MARKS}(?:(?:here(?: is|'s|’s| are)|below (?:is|are)|this is|these are) )?(?:(?:the|my|a) )?"
    r"(?:(?P<step_>(?:(?:first|incorrect|wrong|erroneous|faulty|flawed|mistaken|error) ){1,2}(?:step|line)(?: number)?"
    r"|(?:location|step) (?:of|with|containing) the (?:first )?(?:error|mistake))"
    r"|(?P<explanation_>(?:(?:brief|short|detailed) )?(?:explain|expl?ai?nations?|reason(?:ing)?|justification"
    r"|rationale|analysis|why|what|because|cause|errors?|mistakes?|problem|issue|description|details?)"
    r"(?: [a-z0-9' ’]{1,60})?)"
    r"|(?P<solution_>(?:(?:full|complete|right|proper|revised|fixed|updated|amended|rectified|modified|rewritten|new|final"
    r"|step-by-step|correct(?:ed)?(?: original)?) ){1,3}"
    r"(?:solution(?: steps)?|steps?|answer|version|path|reasoning|working|calculations?|continuation)"
    r"(?:,? (?:is|are|as|starting|beginning|from)\b[a-z0-9 ]{0,60})?|corrections?|solution"
    r"|(?:starting )?from step [0-9]{1,9}(?: on(?:wards?)?)?))"
)
# Headers in the prompt's words; and in any words, for replies in which the former do not name all parts.
HEADERS = {
    first: re.compile(f"(?i:{_MARKS}(?:{names}){_TAIL})")
    for first, names in (("step", f"{_STEP}|{_EXPLANATION}|{_SOLUTION}"), ("explanation", _CHOICE))
}
ANY_HEADERS = {first: re.compile(f"{header.pattern}|(?i:{_LOOSE}{_LOOSE_TAIL})") for first, header in HEADERS.items()}
NEXT_PATH = re.compile(rf"(?i:{_MARKS}(?:question|original (?:solution|answer)){_TAIL})")
BRACES = re.compile(r"\\.|[{}]")
_WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]
COUNTS = {word: number for words in (_WORDS, _ORDINALS) for number, word in enumerate(words, 1)}
_CHANGED = r"(?:correct(?:ed|ion)?|fixed|revised|updated|changed|modified|new)(?: (?:here|step|version))?"
LABEL = re.compile(
    rf"(?i:{_MARKS}[\[(<]?[*_`]{{0,3}}(?:(?:corrected|correct|revised|new) )?step[ \t_-]{{0,4}}(?:#|no\.? ?|number )?"
    rf"(?P<number>[0-9]{{1,9}}|{'|'.join(_WORDS)})(?:/[0-9]{{1,3}}|(?: out)? of [0-9]{{1,3}})?[*_`]{{0,3}}"
    rf"(?! ?[(\[](?:incorrect|wrong|original|old|error)\b)(?: ?[(\[](?:{_CHANGED}|unchanged)[)\]][*_`]{{0,3}}[:：]?"
    rf"|, {_CHANGED}[:：]| ?\([^()\n]{{1,60}}\)[*_`]{{0,3}}[:：]"
    rf"|[ \t]{{0,4}}(?:(?:[:：;)\]>|→⇒✅✔☑✓\ufe0f\u20e3]|=>|[.–—-](?![0-9])){{1,4}}|$))[*_`]{{0,3}})"
)
NUMBER_LABEL = re.compile(
    r"[#*_`•>+ \t-]{0,10}[(\[]?(?P<number>[0-9]{1,2})(?:[.):\]]|\ufe0f\u20e3)[*_`]{0,3}(?:[ \t]{1,8}|$|(?=[A-Z]))"
)
INNER_LABEL = re.compile(
    r"\bStep [0-9]{1,9}(?:/[0-9]{1,3})?(?: ?\([^()\n]{1,40}\))?[*_`)\]>]{0,4}:"
    r"|(?i:[.!?*)\]:] {0,4}[*_`(\[<]{0,4}step [0-9]{1,9}[*_`]{0,3}(?:[.)\]>;|] | ?[–—→⇒-]{1,2}>? ))"
)
INNER_NUMBER = re.compile(r"[.!?*)] {1,4}[*_(\[]{0,3}[0-9]{1,2}[.)\]][*_]{0,3} +[A-Z*_]")
_REMARK = rf"[*_]{{0,3}}(?:[(\[]{_CHANGED}[)\]][:：]?|{_CHANGED}[:：])[*_]{{0,3}}"
REMARK_BEFORE = re.compile(rf"(?i:\A{_REMARK}\s*+)")
_WAS = r"(?:corrected|fixed|revised|changed|was|previously|originally)\b[^()\[\]]{0,60}"
REMARK_AFTER = re.compile(
    rf"(?i:[*_]{{0,3}}(?:[(\[](?:{_CHANGED}|unchanged|{_WAS})[)\]]|(?:←|⬅|<-{{1,3}}|//|#) ?{_CHANGED})[*_]{{0,3}}$)"
)
TITLE = re.compile(r"(?i:(?:the )?(?:final )?(?:answer|result|conclusion)[.:]?)")
REMARK_LINE = re.compile(
    r"(?i:[*_(\[]{0,4}(?:note|remark|comment|n\.?b|p\.?s)\b[*_]{0,3}[.:].*"
    rf"|[*_]{{0,3}}[(\[][^()\[\]]{{0,80}}\b(?:steps?|{_CHANGED}|incorrect|wrong|mistake|error|original)\b[^()\[\]]{{0,80}}[)\]]\.?[*_]{{0,3}})"
)
TICKS = "✅✔☑✓❌✗←⬅\ufe0f \t\n"
BULLET = re.compile(r"(?:[-*+•] +|#{1,6} +){1,8}")
STEP_BULLET = re.compile(r"(?m)^(?:•\s*|[-*+] +(?=[A-Z][a-z ])|#{1,6} +(?![0-9$\\-]))")
# Symbols before a word say nothing (those of mathematics stand at a letter: "∠ABC"), nor do quotes around a step.
SYMBOLS = re.compile(r"\A[^\w\s$\\(){}\[\]\"“'.…=-]{1,8}[ \t]{1,8}(?=[A-Z][a-z])")
QUOTED = re.compile(r"\A[\"“]([^\"“”]++)[\"”]\Z")
DOTS = re.compile(r"(?:[-•] )?[*_`\[(<]{0,4}(?:\.(?: ?\.){2,9}|…|\\l?dots)[\])*_`>]{0,4}(?: ?\([^()]{0,80}\))?")
_STEPS = r"(?:this|steps? [0-9]{1,3}(?:(?: and |[-–, ]{1,3})[0-9]{1,3}){0,3})"
_STAYS = (
    r"(?:unchanged|(?:the )?same(?: as (?:before|above|the original))?|as (?:before|above|is)|no changes?(?: needed)?"
    r"|correct|right|ok(?:ay)?)"
)
UNCHANGED = re.compile(
    r"(?i:[\[(][^()\[\]]{0,80}\b(?:steps?|unchanged|same|before|above|previous)\b[^()\[\]]{0,80}[\])]\.?"
    rf"|[(\[]?(?:{_STEPS} )?(?:(?:is|are|remains?|stays?) )?(?:already )?{_STAYS}[)\]]?\.?"
    r"|(?:here (?:is|are) the|(?:starting|continuing|beginning) (?:from|with|at) step)\b[^=\n]{0,80})"
)
_SO = r"(?:(?:(?:so|thus|hence|therefore|finally|consequently|in (?:total|all|conclusion)|altogether)\b|∴),? ?)"
_SAYS = r"(?:final |correct |right )?answer[*_ ]{0,4}(?:is\b|equals\b|(?:would|should) be\b|[:：=])"
ANSWER_LINE = re.compile(rf"(?i:{_MARKS}{_SO}?the (?:final |correct )?answer is\b)")
ANY_ANSWER_LINE = re.compile(
    rf"(?i:{_MARKS}{_SO}?(?:(?:the|our|my) )?{_SAYS}"
    r"|\s{0,8}####\s{0,4}[-$0-9\\.]|[*_$\\(\[ ]{0,6}\\(?:boxed|fbox)\b)"
)
BOX_LINE = re.compile(r"####|[$\\(\[ ]{0,6}\\(?:boxed|fbox)\b")
CONCLUSION = re.compile(rf"(?i:[*_]{{0,3}}{_SO}[^\n]*[0-9][^\n]*)")
ANSWERS = (  # what ends a solution, the surest first
    re.compile(r"\bThe (?:final |correct )?answer is\b"),
    re.compile(rf"(?i:\b{_SAYS}|####)"),
    re.compile(r"\\(?:boxed|fbox)\b"),
)
NAMED = re.compile(
    rf"(?i:\bstep(?: ?#| no\.?| number)?[ *_`:(\[]{{0,4}}([0-9]{{1,9}}|{'|'.join(_WORDS)})\b(?!\.?[0-9])"
    rf"|\b({'|'.join(_ORDINALS)}|[0-9]{{1,9}}(?:st|nd|rd|th)) step\b)"
)
RANGE = re.compile(r"(?i:\s{0,4}(?:[-–—,/&+]|and\b|or\b|to\b|through\b)\s{0,4}(?:step\s{0,4})?#?[0-9])")
IS_RIGHT = re.compile(r"(?i:\W{0,8}(?:(?:is|was|looks|seems)\W{1,4})?(?:correct|right|fine|accurate|valid)\b)")
# What may stand before the name on its line.
LEADS = re.compile(
    r"(?i:\W{0,40}(?:(?:the|in|at|it is)\s)?(?:(?:first\s)?(?:incorrect|wrong)\s)?"
    r"|.{0,80}\b(?:incorrect|wrong|faulty|erroneous|errors?|mistakes?)\b.{0,40}(?:\b(?:is|in|at|with)\b|[-:–—=→])[:\s]{0,4}(?:the\s)?)[*_#(\[]{0,4}"
)
DENIES = re.compile(r"(?i:\b(?:no|not|none|until|up to|before|after)\b|n't\b)")
BARE_NUMBER = re.compile(r"[*_#(\[`]{0,4}([0-9]{1,9})[)\]*_`]{0,4}[.:]?[*_]{0,3}")
# A fence, struck out text, tags, special tokens, half a surrogate pair (no file can hold it).
UNCLEAN = re.compile("```|~~|</?[a-z]{2,12}>|<\\|[a-z]|[\ud800-\udfff]")
OLD_STEP = re.compile(r"(?i:(?:original|incorrect|wrong|old)(?: step)?[*_]{0,3}[:：])")  # beside its correction
# Placeholders for an explanation that was not written.
PLACEHOLDER = re.compile(
    r"(?i:\W{0,4}(?:n/?a|none)\W{0,4}|[\[<](?:your|brief|explain|explanation|insert)\b[^\[\]<>]{0,80}[\]>]\.?)"
)
# What behind "no error" says that there is one after all.
RESTRICTS = re.compile(r"(?i:\b(?:except|but|until|however|though|apart|besides|(?:mistake|error)s? (?:is|are))\b)")
# What stands in the place of a step where none is wrong.
NO_STEP = re.compile(
    r"(?:incorrect step ?: ?)?(?:none|n/?a|no (?:step|steps|(?:incorrect|wrong) steps?|errors?|mistakes?)"
    r"|there (?:is|are) no (?:(?:incorrect|wrong) steps?|errors?|mistakes?)"
    r"|(?:all|every)(?: of)?(?: the)? steps? (?:is|are) (?:correct|right))\b",
    re.IGNORECASE,
)
