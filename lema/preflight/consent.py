"""What requests to servers lack before any is sent: a key, a model that the server lists, a price, consent to pay."""

import os
from collections.abc import Iterator
from math import ceil

from lema.api.asking import settings
from lema.api.estimate import Requests, estimate, price, prompt_tokens
from lema.config import Config
from lema.reporting.commands import command
from lema.types import UserError

_FREE = "sampler=self corrector=reference rationales=none ask no server"


def missing(config: Config, asked: list[Requests], overrides: list[str]) -> Iterator[str]:
    """What these requests lack, each with its remedy."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if asked and not key:
        sections = ", ".join(dict.fromkeys(each.section for each in asked))
        yield f"key: {sections} send requests; set OPENAI_API_KEY (any text for a local server), or {_FREE}"
    estimates: list[tuple[str, float]] = []  # in words, and dollars at most
    for each in asked:
        api, section, problem = each.api, each.section, None
        try:
            cost, consent = price(api, config.prices, section), config.budget_usd
            settings(api, section, 0.0 if consent is None else consent)
            estimates.append(estimate(each.what, each.number, each.prompt_bytes, api, cost))
        except UserError as error:
            problem = error
        if key:
            from lema.api.client import check_model

            if wrong := check_model(api, section, prompt_tokens(each.prompt_bytes)):
                yield f"server: {wrong}"
        if problem:
            yield f"requests: {problem}"
    most = ceil(sum(usd for _, usd in estimates))
    if config.budget_usd is None and most:
        goes_on = command(*overrides, f"budget_usd={most}")
        needs = "nothing is paid without consent, budget_usd= or LEMA_BUDGET_USD"
        yield f"budget: {'; '.join(line for line, _ in estimates)}. Go on with: {goes_on} ({needs}), or {_FREE}"
