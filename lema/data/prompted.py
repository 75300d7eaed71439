r"""The question within a prompt, without the chat markup, labels, worked examples and instructions around it.

>>> questions("<|im_start|>user\nHow many eggs? Let's think step by step.<|im_end|>\n<|im_start|>assistant\n")[-1]
'How many eggs?'
>>> questions("Question: How many eggs?\nSolution: 5 + 3 = 9.\nIs that right?\nAnswer:")[1:]
[]
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice

# What a chat template writes before a turn; the last alternative has no special tokens.
_MARKUP = (
    r"<\|(?:im_start|start_header_id|start_of_role)\|>\s*{role}\s*(?:<\|(?:end_header_id|end_of_role|im_sep)\|>)?"
    r"|<\|start\|>{role}(?:<\|channel\|>\w+)?(?:<\|message\|>)?"
    r"|<start_of_turn>\s*{role}\b|<[|｜]{role}[|｜]>|^[ \t]*{role}[ \t]*$"
)
_END = r"<\|(?:im_end|eot_id|end|endoftext|end_of_text|begin_of_text|eom_id|end_of_role)\|>|<end_of_turn>|</?s>|<bos>"
_BEFORE = r"^[ \t]*(?:#{1,4}[ \t]*|[*_]{1,2}[ \t]*|<)?"  # a label: `### Question 3:`, `**Question:**`, `<question>`
_BEHIND = r"[ \t]*#?\d{0,4}[*_]{0,2}[ \t]*[:：>][*_]{0,2}"
_OPENS = re.compile(
    _MARKUP.format(role="(?:user|human)")
    + r"|\[INST\](?:\s*<<SYS>>[\s\S]{0,4000}?<</SYS>>)?|\b(?:USER|HUMAN):"
    + rf"|{_BEFORE}(?:Q|(?:Math |Word |New |Test |Target |The )?(?:Question|Problem)"
    + rf"|Exercise|Instruction|Input|Query|Task|Human|User){_BEHIND}",
    re.IGNORECASE | re.MULTILINE,
)
_CLOSES = re.compile(
    rf"{_END}|{_MARKUP.format(role='(?:assistant|model|gpt|bot)')}"
    + r"|\[/INST\]|</(?:question|problem|query)>|\bASSISTANT:"
    + rf"|{_BEFORE}(?:A|(?:Your |Final |Model |Original |Student |Proposed |Wrong |Incorrect |Candidate )?"
    + rf"(?:Answer|Solution|Response|Output|Reasoning|Attempt|Explanation)|Assistant|Bot|GPT){_BEHIND}",
    re.IGNORECASE | re.MULTILINE,
)
_ALL_CLOSES = re.compile(rf"\A(?:\s*+(?:{_CLOSES.pattern}))*+\s*+", _CLOSES.flags)
# A sentence with a match of `_HOW` says how to answer; with a match of `_OTHERWISE` it asks for something else.
_HOW = re.compile(
    r"step[- ]by[- ]step|\bboxed\b|#{3,4}|\bfinal (?:answer|result|number|numerical)|\blet[’']?s\b|\bjson\b"
    r"|/(?:no_)?think|</?(?:think|answer|reasoning)>"
    r"|\b(?:your|the) (?:final )?(?:answer|response|output|reasoning|solution|work|thought)"
    r"|\b(?:following|below|given)\b|^(?:a|solution|response)[:：]?$"
    r"|^(?:please|you are|think|solve|reason|show|answer|respond|explain|give|put|write|output|return|present|end"
    r"|do not|don't|make sure|remember|below|use|provide|only|include|enclose|here is|here's|problem|question)\b",
    re.IGNORECASE,
)
_OTHERWISE = re.compile(
    r"\?|\b(?:in)?correct(?:s|ed|ly|ness|ion)?\b|mistake|\berror|verif|\bcheck|evaluat|judg|\bgrad(?:e|ing)|criti|\bwrong"
    r"|origin|revis|refin|previous|another|feedback|student|propos|\bhint|compare|assess|review|\bscore|\brate\b"
    r"|rewrit|rephras|paraphras|translat|similar|classif|difficult|\bcreate|generate (?:a|\d|new)|\bassum|suppose"
    r"|\bexpress (?:your|the|it|as|in)\b|\bround|simplif|terms of|nearest|decimal|fraction",
    re.IGNORECASE,
)
# A sentence that begins so asks for something else than a solution.
_OTHER_TASK = re.compile(
    r"(?:^|[.:!]\s|\bplease )\s{0,9}(?:judge|grade|translate|rephrase|paraphrase|critique|rewrite"
    r"|(?:write|create) an? (?:harder|easier|similar|new))\b",
    re.IGNORECASE | re.MULTILINE,
)
_BOUND = re.compile(
    r"(?<=[.?!:])[\"'”’)\]}*$~\\]*\s+|\n\s*|\s(?=(?:Please|Let[’']s"
    r"|Think|Remember|Enclose|Make sure|Answer (?:with|in)|Show|Return|Present|Your|Give|Put|/)\b)"
)
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_WIDEST = 20_000  # characters; a prompt that is longer holds worked examples, and the question at its end
_MOST = 10  # sentences that are left off at an end


def questions(prompt: str) -> list[str]:
    """The texts that may be the question of a prompt, the longest first: the whole prompt, then ever less of it.

    Text behind a question is removed only where it says how to answer: an answer to judge, or another question, stays.
    """
    found, text = [prompt.strip()], prompt[-_WIDEST:].strip()
    while inner := _inside(text):
        text = inner
        found.append(text)
    text = text.partition("\nCandidate Answers: ")[0].rstrip()
    # The question may begin behind each leading instruction and at each paragraph.
    starts, at = {0}, 0
    for bound in islice(_BOUND.finditer(text), _MOST):
        if not _says_how(text[at : bound.start()].strip()):
            break
        at = bound.end()
        starts.add(at)
    for gap in list(_PARAGRAPH.finditer(text))[-_MOST:]:
        if not _OTHERWISE.search(text[: gap.start()].replace("?", "")):
            starts.add(gap.end())
    # It may end before each trailing instruction; the last place comes first.
    ends = [len(text)]
    for bound in reversed(list(_BOUND.finditer(text))[-_MOST:]):
        if not _says_how(text[bound.end() : ends[-1]].strip()):
            break
        ends.append(bound.start())
    found += [text[start:end].strip() for start in sorted(starts) for end in ends if start < end]
    return list(dict.fromkeys(found))


def asks_otherwise(prompt: str, question: str) -> bool:
    """Whether a prompt asks for something else than a solution, or holds an answer to judge behind the question."""
    before, found, rest = prompt.rpartition(question)
    if any(map(_OTHER_TASK.search, (before, rest))) and (found or not _OTHER_TASK.search(question)):
        return True
    closing = _CLOSES.search(rest) if found else None
    return bool(closing and not _only_how(rest[closing.end() :]))


def without_prompt(text: str, asked: Sequence[str], question: str) -> str:
    """A text without the prompt or the question before the generated part."""
    for prompt in asked:
        if text.startswith(prompt):
            return text[len(prompt) :].lstrip()
    if question[:30] not in text:  # found faster than all of it
        return text
    before, found, rest = text.partition(question)
    if not found or not _only_how(_OPENS.sub("\n", before)):
        return text
    return _ALL_CLOSES.sub("", rest, count=1)


def _inside(text: str) -> str:
    """The text of the last label or user turn, up to the place of the answer; "" where nothing can be removed."""
    if not any(sign in text for sign in ("\n", ":", "<", "[", "：")):
        return ""
    for opening in reversed(list(_OPENS.finditer(text))):
        body = text[opening.end() :]
        closing = _CLOSES.search(body)
        if closing and not _only_how(body[closing.end() :]):
            return ""
        if body := body[: closing.start()].strip() if closing else body.strip():
            return body
    closing = _CLOSES.search(text)
    return text[: closing.start()].strip() if closing and _only_how(text[closing.end() :]) else ""


def _only_how(text: str) -> bool:
    """Whether a text consists of markup and instructions only."""
    left = _CLOSES.sub("\n", text)
    return all(_says_how(part) for part in _BOUND.split(left) if part.strip("\"'”’)]}*.:{( \n"))


@lru_cache(maxsize=1024)  # the same of every row of a file
def _says_how(sentence: str) -> bool:
    return bool(_HOW.search(sentence.lstrip("#*_>- "))) and not _OTHERWISE.search(sentence)
