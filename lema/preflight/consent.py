"""What requests to servers lack before any is sent: a key, a model that the server lists, a price, consent to pay."""

import os
from collections.abc import Iterator, Set
from dataclasses import replace
from math import ceil

from lema.api.asking import settings
from lema.api.estimate import Requests, estimate, price, prompt_tokens
from lema.config import Config, Extra, Selection, SourceKind
from lema.reporting.commands import command
from lema.types import UserError

_FREE = "sampler=self corrector=reference verifier=none rationales=none ask no server"


def missing(
    config: Config, asked: list[Requests], overrides: list[str], stages: Set[str] = frozenset(), ask: bool = True
) -> Iterator[str]:
    """What these requests lack, and what `engine=server` does for these stages, each with its remedy.

    Without `ask` no server is asked for its models, and consent is nobody's business yet.
    """
    if ask and config.engine.name == "server":
        yield from _serving(config, stages)
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    looked_at = ["engine"] if ask else []  # by `_serving`
    if not key and (sections := dict.fromkeys(each.section for each in asked if each.section not in looked_at)):
        sections = ", ".join(sections)
        sent = f"{sections} send requests" if ask else "requests are sent"  # by different sections in different cells
        yield f"key: {sent}; set OPENAI_API_KEY (any text for a local server), or {_FREE}"
    estimates: list[tuple[str, float]] = []  # in words, and dollars at most
    for each in asked:
        api, section, problem = each.api, each.section, None
        try:
            cost, consent = price(api, config.prices, section), config.budget_usd
            settings(api, section, 0.0 if consent is None else consent)
            estimates.append(estimate(each.what, each.number, each.prompt_bytes, api, cost))
        except UserError as error:
            problem = error
        if key and ask and section not in looked_at:
            from lema.api.client import listed  # openai takes a second

            try:
                listed(api, section, prompt_tokens=prompt_tokens(each.prompt_bytes))
            except UserError as error:
                yield f"server: {error}"
        if problem:
            yield f"requests: {problem}"
    most = ceil(sum(usd for _, usd in estimates))
    if config.budget_usd is None and most and ask:
        goes_on = command(*overrides, f"budget_usd={most}")
        needs = "nothing is paid without consent, budget_usd= or LEMA_BUDGET_USD"
        free = "engine=transformers " * any(each.section == "engine" for each in asked) + _FREE
        yield f"budget: {'; '.join(line for line, _ in estimates)}. Go on with: {goes_on} ({needs}), or {free}"


def _serving(config: Config, stages: Set[str]) -> Iterator[str]:
    """`engine=server` answers for the backbone, and for a checkpoint that somebody serves under a name."""
    engine, sampler, tuned = config.engine, config.sampler, stages & {"select", "evaluate"}
    sources = {f"sampler.models.{name}": each for name, each in sampler.models.items() if "sample" in stages}
    others = "sample" in stages and config.mix.extra is Extra.other_corrections
    writing = {key: each for stage, asked in config.writers.items() if stage in stages for key, each in asked.items()}
    for section, each in {**sources, "sampler.other": sampler.other if others else None, **writing}.items():
        if each and each.weights:
            why = f"engine=server answers for the backbone alone, and {section}.weights are another model's"
            group = section.removeprefix("corrector.filter.").partition(".")[0]
            yield f"engine: {why}: engine=transformers, or another {group}"
    for section, each in sources.items():
        if each.kind is SourceKind.tuned:
            why = f"engine=server cannot load the model of {section}, which is trained here"
            yield f"engine: {why}: sampler=self, or engine=transformers"
    if tuned and not engine.tuned:
        ways = "end before it with until=train, or let engine=transformers answer"
        yield f"engine: engine=server cannot load what is trained here: {ways}; see also engine.tuned"
    elif tuned and config.selection is not Selection.last:
        yield f"engine: engine.tuned={engine.tuned} is one checkpoint: selection=last, not {config.selection}"
    if not tuned and not any(each.is_own for each in sources.values()):
        return
    if (engine.input_usd is None) != (engine.output_usd is None):
        yield "engine: a price has two parts: set engine.input_usd= and engine.output_usd="
    from lema.api.client import listed

    lines: list[str] = []
    for key, name in {"model": engine.model, **({"tuned": engine.tuned} if tuned and engine.tuned else {})}.items():
        try:
            found = listed(replace(engine.api, model=name), "engine")
            if name is None:  # else two servers' answers would be one artifact
                lines.append(f"server: answers are known by the model's name: set engine.model={found.name}")
        except UserError as error:
            lines.append(f"server: {str(error).replace('engine.model', f'engine.{key}')}")
    yield from dict.fromkeys(lines)
