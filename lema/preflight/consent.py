"""What requests to servers lack before any is sent: a key, a model that the server lists, a price, consent to pay."""

import os
from collections.abc import Iterator
from math import ceil

from lema.api.asking import check_settings
from lema.api.estimate import Requests, price
from lema.config import Config
from lema.reporting.commands import command
from lema.types import UserError

_FREE = "sampler=self corrector=reference verifier=none rationales=none ask no server"


def missing(
    config: Config, asked: list[Requests], overrides: list[str], paid: float = 0.0, ask: bool = True
) -> Iterator[str]:
    """What these requests lack, each with its remedy; the budget has paid so many dollars already.

    Without `ask` no server is asked for its models, and consent is nobody's business yet.
    """
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    looked_at = ["engine"] if ask else []  # by `serving`
    if not key and (sections := dict.fromkeys(each.section for each in asked if each.section not in looked_at)):
        sections = ", ".join(sections)
        sent = f"{sections} send requests" if ask else "requests are sent"  # by different sections in different cells
        yield f"key: {sent}; set OPENAI_API_KEY (any text for a local server), or {_FREE}"
    estimates, most = list[str](), 0.0  # dollars
    for each in asked:
        api, section, problem = each.api, each.section, None
        try:
            cost = price(api, config.prices, section)
            check_settings(api, section)
            estimates.append(each.told(cost))
            most += each.costs(cost).usd[1]
        except UserError as error:
            problem = error
        if key and ask and section not in looked_at:
            from lema.api.client import listed  # openai takes a second

            try:
                listed(api, section, each.prompt_tokens)
            except UserError as error:
                yield f"server: {error}"
        if problem:
            yield f"requests: {problem}"
    if config.budget_usd is None and most and ask:
        goes_on = command(*overrides, f"budget_usd={ceil(paid + most)}")
        needs = "nothing is paid without consent, budget_usd= or LEMA_BUDGET_USD"
        free = "engine=transformers " * any(each.section == "engine" for each in asked) + _FREE
        yield f"budget: {'; '.join(estimates)}. Go on with: {goes_on} ({needs}), or {free}"
