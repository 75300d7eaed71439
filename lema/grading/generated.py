r"""The answer within a generated text: without the thinking before it and the invented question behind it.

>>> without_thinking("<think>5 + 3 = 9? No.</think>\n5 + 3 = 8."), without_thinking("5 + 3 is ...</think> 8")
('5 + 3 = 8.', '8')
>>> first_answer("5 + 3 = 8. The answer is 8.\n\n**Question 2:** How many eggs are left?\nAnswer: 3")
'5 + 3 = 8. The answer is 8.'
"""

import re

# The tags of published models' templates; some have a name space: `seed:think`, `mm:think`.
_TAG = r"(?:[a-z]{1,12}:)?(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad|analysis)"
_OPENS = re.compile(rf"(?i)<{_TAG}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>analysis")
_CLOSES = re.compile(
    rf"(?i)</{_TAG}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>|assistantfinal"
)
_SPEAKER = (
    r"(?:(?:Next|New|Another|Follow-?up) (?:[Qq]uestion|[Pp]roblem)"
    r"|Q|Question|Problem|Exercise|Instruction|Human|User|Input|Example(?= ?#?\d))"
)
NEXT_QUESTION = re.compile(
    rf"^[ \t]{{0,8}}(?:[#>*_]{{1,4}}[ \t]?)?{_SPEAKER} ?#?(?:\d{{0,9}}[*_]{{0,2}}:|\d{{1,9}}[*_]{{0,2}}[.)])"
    rf"|^[ \t]{{0,8}}[#*]{{2,4}}[ \t]?{_SPEAKER} ?#?\d{{0,9}}[*:]{{0,3}}[ \t]*$"
    rf"|^[ \t]{{0,8}}(?:{_SPEAKER} ?#?\d{{1,9}}[ \t]*$|\[{_SPEAKER}\])"
    r"|<\|(?:im_end|im_start|eot_id|eom_id|start_header_id|endoftext|end_of_text|user|end|return)\|>"
    r"|<｜(?:User|end▁of▁sentence)｜>|</s>|<eos>|<(?:end|start)_of_turn>|\[INST\]",
    re.MULTILINE,
)

# What a tokenizer or a chat template writes behind a text.
_END = re.compile(
    r"(?:<\|(?:im_end|im_start|eot_id|eot|EOT|eom_id|endoftext|end_of_text|end_of_turn|END_OF_TURN_TOKEN|end_of_role"
    r"|end|return|eos|pad)\|>|<[｜|]end[▁_]of[▁_]sentence[｜|]>|</s>|<eos>|<pad>|<EOT>|<end_of_turn>|\[EOS\])\Z"
)
_LONGEST = 24  # characters of such a mark


def without_end(text: str) -> str:
    """A recorded text without the end-of-sequence marks at its end.

    >>> without_end("5 + 3 = 8.</s> <|endoftext|>"), without_end("He wrote </s> and left. ")
    ('5 + 3 = 8.', 'He wrote </s> and left. ')
    """
    end = len(text.rstrip())
    if not _END.search(text, max(0, end - _LONGEST), end):
        return text
    while mark := _END.search(text, max(0, end - _LONGEST), end):
        end = mark.start()
        while end and text[end - 1].isspace():
            end -= 1
    return text[:end]


def answer_part(text: str) -> str:
    """The part of a generated text that can be trained on: behind the thinking, before an invented question."""
    return first_answer(without_thinking(text))


def without_thinking(text: str) -> str:
    """The text behind the model's thinking; "" when the thinking is never closed.

    Many templates open the thinking in the prompt, so a closing tag may have no opening tag.
    """
    closing = list(_CLOSES.finditer(text))
    if closing:
        text = text[closing[-1].end() :]
    opening = _OPENS.search(text)
    before = text[: opening.start()] if opening else text
    return before.strip() if closing or opening else text


def first_answer(text: str) -> str:
    """The text before the first further question that the model invents."""
    return NEXT_QUESTION.split(text, maxsplit=1)[0].strip()
