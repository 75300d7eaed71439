"""The fields of a recorded row, in the layouts in use: the question, a model's answer, and the model's name.

    question   question, problem, query, prompt, …; in lm-eval's doc; the last turn of the user in a conversation
    solution   what a model certainly wrote (generation, resps, model_output, deepseek_solution, …), else what most
               likely is (completion, response, output, …; then code, samples, steps; then text, content, …), else the
               closing turn of a conversation. A text, a list of texts, of lists or of steps, or a server's reply
    model      model, generator, …; never source, which often names a data set
    id         problem_id, id, …: a training problem's (lema's own solutions.jsonl), where there is no question

`solution`, `answer`, `reference` and the like are gold texts and are never read.
"""

import re
from functools import lru_cache
from typing import Any, NamedTuple

from lema.privacy import shown
from lema.types import UserError

_QUESTION = (
    *("question", "problem", "query", "problem_text", "question_text", "problem_statement", "original_question"),
    *("stem", "prompt", "full_prompt", "origin_prompt", "input", "inputs", "instruction", "user", "human"),
)
_WITHIN = ("doc", "question", "problem", "extra_info", "example")  # objects that hold the data set's own row
_MODEL = ("model", "model_name", "model_id", "generator", "generator_model", "generation_model")
_ID = ("problem_id", "custom_id", "id", "idx", "question_id")
_CHAT = ("messages", "conversations", "conversation", "convo", "chat", "dialogue", "dialog")

_TEXT = (
    r"(?:output_|response_)?"
    r"(?:solution|response|output|completion|generation|text|reply|message|content|attempt|steps|rollout|sample)s?"
)
_NAMED = (
    r"(?:deepseek|qwen|qwq|qvq|(?:chat)?gpt|claude|gemini|gemma|palm|llama|mi[sx]tral|phi|grok|kimi|glm|chatglm|yi|olmo"
    r"|falcon|o[1-4]|r1|internlm|baichuan|minimax|wizard(?:math|lm)|metamath|openai|anthropic|vicuna|alpaca|nemotron"
    r"|smollm)(?:_?(?:r1|v?\d+(?:[._]\d+)?[a-z]?|o|x\d+b|mini|nano|turbo|chat|math|coder|instruct|it|base|distill|preview"
    r"|max|plus|pro|flash|opus|sonnet|haiku|large|small|medium|zero|qwen|llama))*"
)
# Names by rank: a model certainly wrote it; the field may hold an extract of it; the name says little; it says less.
_RANKS = (
    rf"generations?|generated|gens?|resps?|rollouts?|continuations?|pre_generated_steps"
    rf"|(?:raw|full|final|text|decoded|inference)_(?:output|response|generation|completion)s?"
    rf"|(?:model|llm|lm|generated|gen|pred|predicted|prediction|generation|assistant|sampled|policy|{_NAMED})_?{_TEXT}",
    rf"predictions?|predict|completions?|responses?|outputs?|repl(?:y|ies)|assistant|attempts?|{_NAMED}"
    rf"|(?:response|completion|output)_texts?|(?:student|candidate|proposed|attempted)_{_TEXT}"
    rf"|(?:model|llm|lm|generated|student|assistant|{_NAMED})_(?:answer|prediction|reasoning|result|code)s?",
    r"samples?|code|steps|choices",
    r"text|content|answers|results?|preds?",
)
# These names are gold texts too. They count where another field shows that a model wrote the text.
_BESIDE = {
    "steps": re.compile(r"(?:\w+_)?solution|generator|model|model_name|label|final_answer_correct"),
    "answers": re.compile(r"\w*(?:solution|answer|gold|truth|target|reference|ref|gt)(?:_\w+)?"),
}
_RANKS_COMPILED = [re.compile(rf"(?:{rank})(?:_?\d{{1,3}})?") for rank in _RANKS]
_OF_SERVERS = {"finish_reason", "message", "index", "logprobs"}  # fields of a choice in a server's reply
_ORDER = (
    *("choices", "candidates", "body", "message", "response", "outputs", "output", "generated_text", "generation"),
    *("text", "content", "parts", "completion"),
)


class Fields(NamedTuple):
    """The field names of a row, by role."""

    questions: list[str]
    solutions: list[list[str]]  # by rank
    chats: list[str]
    models: list[str]
    ids: list[str]
    withins: list[str]


@lru_cache(maxsize=256)
def fields(names: tuple[str, ...]) -> Fields:
    """The roles of fields with these names, in any case."""
    plain = {re.sub(r"[-. ]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)).lower(): name for name in names}
    known = [[plain[name] for name in group if name in plain] for group in (_QUESTION, _CHAT, _MODEL, _ID, _WITHIN)]
    sure = [name for name in plain if name not in _BESIDE or any(map(_BESIDE[name].fullmatch, plain))]
    ranks = [[plain[name] for name in sure if rank.fullmatch(name)] for rank in _RANKS_COMPILED]
    return Fields(known[0], ranks, *known[1:])


class _NotText(ValueError):
    """A value that holds no text; the message says what the value is."""


def asked(row: dict[str, Any], where: str) -> list[str]:
    """The texts of the fields that can hold the question, the most certain first; none where all are blank."""
    own = fields(tuple(row))
    found, refused = [], None
    for field in own.questions:
        value = row[field]
        try:
            text = _turn(value) if isinstance(value, list) and _is_chat(value) else value
            text = " ".join(map(_string, text)) if isinstance(text, list) else _string(text)
        except _NotText as error:
            if field not in own.withins or not isinstance(value, dict):
                refused = refused or UserError(f"{where}, field '{field}': must be text, not {error}; mend the row")
            continue
        if text.strip():
            found.append(text)
    for field in own.withins if not found else ():
        if isinstance(row[field], dict):
            found += asked(row[field], where)
    for field in own.chats if not found else ():
        if _is_chat(row[field]):
            found.append(_turn(row[field]))
    if refused and not found:
        raise refused
    first = row.get("arguments") if not found else None  # lm-eval's: the prompt is the first thing in it
    while isinstance(first, list | dict) and first:
        first = next(iter(first.values() if isinstance(first, dict) else first))
    return [first] if isinstance(first, str) and first.strip() else found


def identifiers(row: dict[str, Any]) -> list[str]:
    """The ids that are texts."""
    return [name for field in fields(tuple(row)).ids if isinstance(name := row[field], str)]


def model(row: dict[str, Any]) -> str | None:
    """Which model answered, if the row names one."""
    return next((name for field in fields(tuple(row)).models if isinstance(name := row[field], str) and name), None)


def answers(row: dict[str, Any], where: str) -> tuple[list[str], str | None]:
    """The texts that a model wrote, blank ones too; and, of a conversation, the user's last turn.

    Raises `UserError` where no field certainly holds them, or where several hold different ones.
    """
    own, refused = fields(tuple(row)), ""
    for rank in own.solutions:
        found: dict[str, list[str]] = {}
        for field in rank:
            value = row[field]
            if field == "choices" and not (
                isinstance(value, list) and all(isinstance(part, dict) and _OF_SERVERS & part.keys() for part in value)
            ):
                continue  # the candidates of a question, not a server's reply
            try:
                found[field] = texts(value, "steps" in field.lower())
            except (_NotText, RecursionError) as error:
                refused = f"{where}, field '{field}': must be text, not {error}; mend the row"
        if found:
            return next(iter(found.values())) if len(found) == 1 else _one(found, where), None
    for field in own.withins:
        if isinstance(row[field], dict) and fields(tuple(row[field])).solutions[0]:
            return answers(row[field], where)
    for field in own.chats:
        if _is_chat(row[field]) and _role(row[field][-1]) == "assistant":
            return texts(row[field]), _turn(row[field])
    none = f"none of its fields {quoted(', '.join(row), 200)} is certainly a model's text; rename the one that is to"
    raise UserError(refused or f"{where}: {none} generation")


def _one(found: dict[str, list[str]], where: str) -> list[str]:
    """The texts of the only field with text. Numbered fields are one; a field that repeats part of another is none."""
    merged: dict[str, list[str]] = {}
    for field, some in found.items():
        if any(text.strip() for text in some):
            merged.setdefault(re.sub(r"_?\d{1,3}\Z", "", field), []).extend(some)
    if len(merged) < 2:
        return next(iter(merged.values()), next(iter(found.values())))
    for some in merged.values():
        whole = "\n".join(" ".join(text.split()) for text in some)
        if all(" ".join(text.split()) in whole for other in merged.values() for text in other):
            return some
    names = quoted(", ".join(merged), 200)
    raise UserError(f"{where}: the fields {names} can each be a model's text; rename the one that is to generation")


def texts(value: Any, steps: bool = False) -> list[str]:
    """The texts in a value: a text, a list of them, of lists or of messages, steps of one text, or a server's reply."""
    if value is None or value != value or isinstance(value, str):  # NaN, a table's missing value, is not itself
        return [value if isinstance(value, str) else ""]
    if isinstance(value, dict):
        return _reply(value)
    if not isinstance(value, list):
        raise _NotText(type(value).__name__)
    if _is_chat(value):
        if _role(value[-1]) != "assistant":
            raise _NotText("a conversation without an answer")
        return ["".join(texts(_content(value[-1])))]
    if any(isinstance(part, dict) and "type" in part for part in value):  # the parts of one message
        said = [
            part for part in value if isinstance(part, dict) and part.get("type") in ("text", "output_text", "message")
        ]
        return ["".join(text for part in said for text in texts(part))]
    if {"True", "False"} & {part for part in value if isinstance(part, str)}:
        raise _NotText("the likelihood of a candidate")
    if steps and not any(isinstance(part, list) for part in value):
        return ["\n".join(text for part in value for text in texts(part))]
    return [text for part in value for text in texts(part, steps)]


def _reply(value: dict[str, Any]) -> list[str]:
    """The texts of a server's reply, or of a part of one: `{"choices": [{"message": {"content": …}}]}`."""
    if "label" in value or _role(value) not in ("", "assistant"):
        raise _NotText("dict")
    if name := next((name for name in _ORDER if name in value), None):
        return texts(value[name])
    if value.get("error") or "status_code" in value:
        return [""]
    raise _NotText("dict")


def _is_chat(value: Any) -> bool:
    """Whether these are messages with a role, or `from`, each."""
    return isinstance(value, list) and bool(value) and all(isinstance(part, dict) and _role(part) for part in value)


_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant"}


def _role(message: dict[str, Any]) -> str:
    role = message.get("role", message.get("from"))
    return _ROLES.get(role.lower(), role.lower()) if isinstance(role, str) else ""


def _content(message: dict[str, Any]) -> Any:
    return next((message[name] for name in ("content", "value", "prompt", "text") if name in message), "")


def _turn(chat: list[dict[str, Any]]) -> str:
    """What the user says last."""
    last = next((_content(message) for message in reversed(chat) if _role(message) == "user"), "")
    return "".join(texts(last))


def _string(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise _NotText(type(value).__name__)
    return value or ""


def quoted(text: str, most: int = 60) -> str:
    """A text in a message: one line, at most `most` characters, quoted."""
    line = shown(" ".join(text[: 4 * most].split()))
    return f"'{line}'" if len(line) <= most else f"'{line[:most]}…'"
