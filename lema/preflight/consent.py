"""What requests to servers lack before any is sent: a key, a model that the server lists, a price, consent to pay."""

import os
import shlex
from collections.abc import Iterator
from math import ceil

from lema.api.asking import settings
from lema.api.estimate import WRONG_SHARE, Estimate, estimate, price, prompt_tokens
from lema.cell import Cell
from lema.config import ApiConfig, CorrectionMethod
from lema.correctors import model
from lema.data import tasks
from lema.types import Problem, UserError

ITEM_BYTES = (300, 1500)  # of a question, and of a long one with its wrong path; ours
_NOTHING = Problem("", "", "", "")  # for the length of a prompt without its question
_FREE = "sampler=self corrector=reference rationales=none ask no server"


def missing(cell: Cell, stages: set[str], overrides: list[str]) -> Iterator[str]:
    """What these stages lack, each with its remedy."""
    asked = dict(_asked(cell, stages))
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if asked and not key:
        yield f"key: {', '.join(asked)} send requests; set OPENAI_API_KEY (any text for a local server), or {_FREE}"
    estimates: list[Estimate] = []
    for section, api in asked.items():
        prompt, problem = 0, None
        try:
            requests, cost = _requests(cell, section), price(api, cell.config.prices, section)
            prompt, consent = prompt_tokens(requests[2]), cell.config.budget_usd
            settings(api, section, 0.0 if consent is None else consent)
            estimates.append(estimate(*requests, api, cost))
        except UserError as error:
            problem = error
        if key:
            from lema.api.client import check_model

            if wrong := check_model(api, section, prompt):
                yield f"server: {wrong}"
        if problem:
            yield f"requests: {problem}"
    most = ceil(sum(each.usd[1] for each in estimates))
    if cell.config.budget_usd is None and most:
        command = shlex.join(["python", "run.py", *overrides, f"budget_usd={most}"])
        needs = "nothing is paid without consent, budget_usd= or LEMA_BUDGET_USD"
        yield f"budget: {'; '.join(map(str, estimates))}. Go on with: {command} ({needs}), or {_FREE}"


def _asked(cell: Cell, stages: set[str]) -> Iterator[tuple[str, ApiConfig]]:
    """The servers that these stages ask, by the section of the config."""
    config = cell.config
    for name, source in config.sampler.models.items():
        if source.api and "sample" in stages:
            yield f"sampler.models.{name}.api", source.api
    if "correct" in stages and config.corrector.method is CorrectionMethod.api:
        yield "corrector", config.corrector
    if "rationales" in stages and config.rationales.requests:
        yield "rationales", config.rationales


def _requests(cell: Cell, section: str) -> tuple[str, tuple[int, int], tuple[int, int]]:
    """What a section asks for, how many requests that are, and the bytes of a prompt: each from low to high."""
    config, questions = cell.config, _questions(cell)
    sampled = questions * config.sampler.samples
    if section == "corrector":
        paths = [_wrong_paths(cell, name, sampled) for name in config.sampler.models]
        what, low, high = "corrections", sum(low for low, _ in paths), sum(high for _, high in paths)
        shown, high = model.prompt(cell.corrections_shown, _NOTHING, []), high * config.corrector.tries
    elif section == "rationales":
        most = min(config.rationales.requests or 0, questions * (config.rationales.most or 1))
        what, low, high, shown = section, most, most, cell.rationale_prompt(_NOTHING)
    else:
        name = section.split(".")[2]
        what, low, high = f"solutions of {name}", sampled, sampled
        shown = cell.sample_prompt(config.sampler.models[name], _NOTHING)
    size = len(shown.encode())
    return what, (low, high), (size + ITEM_BYTES[0], size + ITEM_BYTES[1])


def _questions(cell: Cell) -> int:
    """How many training questions there are: as made, as they lie in a folder, or as published."""
    task, dataset = cell.config.task, cell.config.task.trained_dataset
    if "data" in cell.artifacts:
        return cell.artifacts["data"].summary["train"]
    if dataset and dataset.path is None:
        return min(dataset.train_rows or 0, cell.config.limit or dataset.train_rows or 0)
    return len(tasks.load(task, cell.config.limit)["train"])


def _wrong_paths(cell: Cell, name: str, sampled: int) -> tuple[int, int]:
    """How many wrong solutions a model of the sampler makes, at least and at most."""
    if made := cell.artifacts.get(f"sample_{name}"):
        return made.summary["wrong_paths"], made.summary["wrong_paths"]
    return ceil(sampled * WRONG_SHARE[0]), ceil(sampled * WRONG_SHARE[1])
