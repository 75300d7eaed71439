"""How servers say that a request is too long: its prompt for the context, or its limit for what the model may write.

The words are those of vLLM, SGLang, TGI, TensorRT-LLM, llama.cpp, LM Studio, OpenAI, Anthropic, Mistral, DeepSeek,
Gemini, DashScope and LiteLLM, which passes on those of others. `/v1/models` of some of them names the context.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What a listed model's context is called: vLLM and SGLang, Groq, OpenRouter and Together, Mistral.
_LISTED = ("max_model_len", "context_window", "context_length", "max_context_length")
# A context that is too small; the number is that of the tokens which prompt and answer may have together.
_CONTEXT = [
    r"maximum (?:context|model) length (?:is|of) (\d[\d,]*)",
    r"max_model_len=(\d+)",
    r"context (?:length|size) \((\d+)",
    r"context length of only (\d+)",
    r"too large for model with (\d+) maximum context",
    r"exceed context limit: [\d\s+]+> (\d+)",
    r"must have less than (\d+) tokens",
    r"max_tokens must be at least 1, got (?:0|-\d+)\b",
    r"`inputs` tokens \+ `max_new_tokens` must be <= (\d+)",
    r"prompt is too long: \d+ tokens > (\d+)",
    r"maximum (?:number of tokens allowed|allowed length) \((\d+)",
    r"max_num_tokens \((\d+)",
    r"range of input length should be \[\d+, (\d+)",
    r"context.?(?:length|window|size|limit)\b.{0,60}(?:exceed|too|not enough|overflow|greater|longer)",
    r"(?:exceed|too long|longer|greater|overflow)\w*\b.{0,60}context",
    r"\b(?:prompt|input|request|messages?)\b(?:(?!took|takes|taking|queue).){0,40}\btoo (?:long|large)\b",
    r"\binput tokens exceed\b",
    r"reduce the length of the",
]
# The limit of an answer, and that a value is beyond what is possible.
_ANSWER = r"max_?(?:completion|new|output)?_?tokens|(?:output|completion) tokens|(?:for|in) the completion"
_BEYOND = r"too (?:large|big|high|many)|(?:greater|larger|more) than|at most|exceed|<=|>|range|maximum|less than"


@dataclass(frozen=True)
class _TooLong:
    """`limit`: whatever the prompt, no answer may have so many tokens; else this prompt is what is too long."""

    limit: bool
    context: bool  # `most` is for prompt and answer together
    most: int | None  # tokens


def too_long(said: str, limit: int) -> _TooLong | None:
    """What a refusal says of length, when the answer was limited to so many tokens; None when it says nothing of it.

    "max_tokens=2000 cannot be greater than max_model_len=1024" is about a limit of 2000, whatever the prompt.
    """
    about_limit = re.search(_ANSWER, said, re.IGNORECASE) and "even without any output" not in said
    for pattern in _CONTEXT:
        if found := re.search(pattern, said, re.IGNORECASE | re.DOTALL):
            most = int(found[1].replace(",", "")) if found.lastindex else None
            return _TooLong(bool(about_limit and most and limit >= most), True, most)
    if about_limit and re.search(_BEYOND, said, re.IGNORECASE):
        numbers = re.findall(r"(?<![\w.,-])(\d[\d,]*)(?![\w-]|[.,]\d)", said)
        below = [number for each in numbers if 0 < (number := int(each.replace(",", ""))) < limit]
        if below:
            return _TooLong(True, False, max(below) - ("exclusive)" in said))
    return None


def shorter(key: str, limit: int, most: int, prompt_tokens: int) -> str:
    """What helps when a server allows `most` tokens, those of the prompt included if their number is given (about)."""
    room = most - prompt_tokens
    together = f" for prompt and answer together, and a prompt takes about {prompt_tokens:,}" if prompt_tokens else ""
    remedy = f"set {key}={room}" if room > 0 else "have it serve a longer context"
    return f"{key}={limit} is too much: it allows {most:,} tokens{together}; {remedy}"


def context(model: Mapping[str, Any]) -> int | None:
    """The tokens that prompt and answer may have together, where the server's list of models says so."""
    found = (model.get(name) for name in _LISTED)
    return next((each for each in found if type(each) is int and each > 0), None)
