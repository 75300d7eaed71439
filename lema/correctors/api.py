"""The corrector behind an OpenAI-compatible server, in the paper's form.

It sees an instruction, four worked corrections, the question and the wrong path, and never the gold answer.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from lema.artifacts import lock
from lema.config import CorrectorConfig
from lema.journal import Journal, Spending, open_journal
from lema.prompts.formats import ParsedCorrection, correction_prompt, parse_correction
from lema.types import Problem, Solution, UserError

_PROMPT_FILES = {"math": "correct_latex.txt", "csqa": "correct_choice.txt"}  # of the others, the numbers'
# How an answer that is no correction ended -> the reason of the rejection.
_REASONS = {"length": "cut off by length", "content_filter": "content filter", "refusal": "refusal"}
# What nothing is sent without, with its least value.
_NUMBERS = {"input_usd": 0, "output_usd": 0, "budget_usd": 0, "max_completion_tokens": 1}
_NUMBERS |= {"max_concurrent_requests": 1, "max_retries": 0, "request_timeout": 0}


@dataclass(frozen=True)
class Reply:
    """The corrector's reply to one item: either `correction` or the `reason` why there is none."""

    correction: ParsedCorrection | None
    reason: str | None  # unparsable, step does not exist, empty, or one of `_REASONS`
    model: str  # that really answered


def demonstrations(config: CorrectorConfig, grader: str) -> str:
    """The instruction and worked corrections before every question, as in their file, for a task's `grader`."""
    if config.prompt is None:
        return (resources.files("lema.prompts") / _PROMPT_FILES.get(grader, "correct_number.txt")).read_text(
            encoding="utf-8"
        )
    try:
        return Path(config.prompt).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"corrector.prompt={config.prompt}: {error}: name a readable UTF-8 text file") from error


def correct_all(
    items: list[tuple[Problem, Solution, list[str]]], config: CorrectorConfig, grader: str, journal_path: Path
) -> tuple[list[Reply], Spending]:
    """A reply to each (problem, wrong solution, its steps), in order, and what all cost together over all runs.

    Only what the journal does not hold is paid for. Raises `UserError` when a setting is missing, or the run must
    stop early (budget, key, quota, model, server): every answer is kept for the next run.
    """
    head = demonstrations(config, grader).rstrip("\n") + "\n\n"
    names = ("temperature", "reasoning_effort", "max_completion_tokens")
    body = {"model": config.model} | {name: vars(config)[name] for name in names if vars(config)[name] is not None}
    # Without the instruction, its first line: the demonstrations open with their own.
    whole = [correction_prompt(problem.question, steps, problem.candidates) for problem, _, steps in items]
    prompts = [head + prompt.partition("\n")[2] for prompt in whole]
    bodies = [body | {"messages": [{"role": "user", "content": prompt}]} for prompt in prompts]
    requests = [json.dumps(request, sort_keys=True, ensure_ascii=False) for request in bodies]
    with open_journal(journal_path, requests) as journal:
        if len(journal.answers()) < len(journal.requests):
            with lock(journal_path) as still_mine:  # so that no other process pays for the same
                _send(journal, still_mine, config)
        answers, spending = journal.answers(), journal.spending()
    replies = []
    for request, (problem, _, steps) in zip(requests, items, strict=True):
        answer = answers[request]
        correction, reason = parse_correction(answer.text or "", problem.candidates), _REASONS.get(answer.ended)
        if correction is None:
            reason = reason or ("unparsable" if answer.text else "empty")
        elif not 1 <= correction.incorrect_step <= len(steps):
            reason = reason or "step does not exist"
        replies.append(Reply(None if reason else correction, reason, answer.model))
    return replies, spending


def _send(journal: Journal, still_mine: Callable[[], bool], config: CorrectorConfig) -> None:
    from lema.models.api import Sender

    numbers = {name: getattr(config, name) for name in _NUMBERS}
    for name, least in _NUMBERS.items():
        if numbers[name] is None or not numbers[name] >= least:  # "not a number" is refused too
            raise UserError(f"corrector.{name}={numbers[name]}: nothing is sent until it is set, to {least} or more")
    asyncio.run(Sender(journal, still_mine, config.base_url, **numbers).run())
