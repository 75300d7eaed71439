"""The corrector behind an OpenAI-compatible server, in the paper's form.

It sees an instruction, four worked corrections, the question and the wrong path, and never the gold answer
(paper.md, section 1). Which correction is accepted is for the stage to say: here replies are only read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from lema.config import CorrectorConfig
from lema.journal import Journal, Request, Spending
from lema.prompts.formats import ParsedCorrection, correction_prompt, parse_correction
from lema.types import Problem, Solution, UserError

if TYPE_CHECKING:
    from lema.models.api import Answer

Item = tuple[Problem, Solution, list[str]]  # the wrong solution's steps come last

_PROMPT_FILES = {"gsm8k": "correct_number.txt", "math": "correct_latex.txt"}
# What the server says about a reply that is no correction -> the reason of the rejection.
_REASONS = {
    "length": "cut off by length",
    "content_filter": "content filter",
    "content_policy_violation": "content filter",
    "invalid_prompt": "content filter",
    "context_length_exceeded": "prompt too long",
}
# What sending needs beside the requests, with the least value that makes sense.
_SETTINGS = {
    "input_usd": 0,
    "output_usd": 0,
    "budget_usd": 0,
    "max_concurrent_requests": 1,
    "max_retries": 0,
    "request_timeout": 1e-3,
}


@dataclass(frozen=True)
class Reply:
    """The corrector's reply to one item: either `correction` or the `reason` why there is none."""

    correction: ParsedCorrection | None
    reason: str | None  # unparsable, step does not exist, cut off by length, content filter, refusal, prompt too long
    model: str  # that really answered


@dataclass(frozen=True)
class Corrections:
    """All replies, one an item and in the items' order, and what they cost together over all runs."""

    replies: Iterator[Reply]
    spending: Spending


@dataclass(frozen=True)
class Estimate:
    """What is still to be paid for, at most: prompts at one token a UTF-8 byte, completions at their limit."""

    requests: int  # distinct ones without an answer
    answered: int  # distinct ones that the journal answers already
    prompt_tokens: int
    completion_tokens: int
    usd: float | None  # None without prices


def demonstrations(config: CorrectorConfig, grader: str) -> str:
    """The instruction and worked corrections before every question, as in their file; `grader`: gsm8k or math."""
    if config.prompt is None:
        return (resources.files("lema.prompts") / _PROMPT_FILES[grader]).read_text(encoding="utf-8")
    try:
        return Path(config.prompt).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"corrector.prompt={config.prompt}: {error}: name a readable UTF-8 text file") from error


def missing(config: CorrectorConfig) -> list[str]:
    """What stands between the config and the first request, one line each with its remedy; empty when nothing."""
    keys = [key for key in ("model", "max_completion_tokens", *_SETTINGS) if getattr(config, key) is None]
    remedies = {"budget_usd": "nothing is paid for without it: set it to the dollars that these corrections may cost"}
    lines = [f"corrector.{key}=null: {remedies.get(key, 'set it')}" for key in keys]
    for key, least in _SETTINGS.items():
        # So written that "not a number", below which no budget ever ends, is refused too.
        if (value := getattr(config, key)) is not None and not value >= least:
            lines.append(f"corrector.{key}={value}: must be at least {least:g}")
    if not os.environ.get("OPENAI_API_KEY", "").strip():
        lines.append("OPENAI_API_KEY is not set: export it (any word, for a server that asks for none)")
    return lines


def correct_all(items: Sequence[Item], config: CorrectorConfig, grader: str, journal_path: Path) -> Corrections:
    """Have every item corrected, paying only for what the journal at `journal_path` does not hold.

    Equal questions with equal wrong steps are one request. Raises `UserError` when something is `missing`, or the
    run must stop early (budget, key, quota, model, server): every answer is kept for the next run.
    """
    from lema.models.api import ApiSettings, complete_all

    requests = _requests(items, config, grader)
    with closing(Journal(journal_path)) as journal:
        if journal.unanswered(requests):
            if lines := missing(config):
                raise UserError("; ".join(lines))
            numbers = {key: getattr(config, key) for key in _SETTINGS}
            complete_all(requests, journal, ApiSettings("corrector", "corrections", config.base_url, **numbers))
        journal.scope(requests)
        return Corrections(_replies(items, requests, journal_path), journal.spending())


def estimate(items: Sequence[Item], config: CorrectorConfig, grader: str, journal_path: Path) -> Estimate:
    """The most that correcting `items` can still cost; writes nothing."""
    distinct = {request.key: request for request in _requests(items, config, grader)}
    unanswered = list(distinct.values())
    if journal_path.exists():
        with closing(Journal(journal_path)) as journal:
            unanswered = journal.unanswered(unanswered)
    prompt = sum(request.most_prompt_tokens for request in unanswered)
    completion = len(unanswered) * (config.max_completion_tokens or 0)
    usd = None
    if config.input_usd is not None and config.output_usd is not None:
        usd = (prompt * config.input_usd + completion * config.output_usd) / 1e6
    return Estimate(len(unanswered), len(distinct) - len(unanswered), prompt, completion, usd)


def _requests(items: Sequence[Item], config: CorrectorConfig, grader: str) -> list[Request]:
    head = demonstrations(config, grader)
    # Demonstrations stand apart by one empty line, whether or not their file ends in a newline.
    head += "\n" * (2 - min(2, len(head) - len(head.rstrip("\n"))))
    optional = {"temperature": config.temperature, "reasoning_effort": config.reasoning_effort}
    parameters = {key: value for key, value in optional.items() if value is not None}
    parameters["max_completion_tokens"] = config.max_completion_tokens
    return [
        Request(
            model=config.model or "",
            messages=[{"role": "user", "content": head + _block(problem, steps)}],
            parameters=parameters,
            sample=0,
        )
        for problem, _, steps in items
    ]


def _block(problem: Problem, steps: list[str]) -> str:
    # Without the instruction, its first line: the demonstrations open with their own.
    return correction_prompt(problem.question, steps).partition("\n")[2]


def _replies(items: Sequence[Item], requests: list[Request], journal_path: Path) -> Iterator[Reply]:
    from lema.models.api import read_answer

    with closing(Journal(journal_path)) as journal:
        for (_, _, steps), request in zip(items, requests, strict=True):
            yield _reply(read_answer(journal, request), len(steps))


def _reply(answer: Answer, num_steps: int) -> Reply:
    correction = parse_correction(answer.text or "")
    reason = None
    if answer.refusal:
        reason = "refusal"
    elif answer.finish_reason in _REASONS:
        reason = _REASONS[answer.finish_reason]
    elif correction is None:
        reason = "unparsable"
    elif not 1 <= correction.incorrect_step <= num_steps:
        reason = "step does not exist"
    return Reply(None if reason else correction, reason, answer.model)
