"""What `engine=server` lacks: it answers for the backbone, and for a checkpoint that somebody serves under a name."""

from collections.abc import Iterable, Iterator, Set
from dataclasses import replace

from lema.config import Config, Selection, SourceKind
from lema.types import UserError


def missing(config: Config, stages: Set[str], others: Iterable[str]) -> Iterator[str]:
    """What `engine=server` cannot answer in these stages, which load the models of `others` beside the backbone."""
    engine, sampler, tuned = config.engine, config.sampler, stages & {"select", "evaluate"}
    sources = {f"sampler.models.{name}": each for name, each in sampler.models.items() if "sample" in stages}
    for key in others:
        group = key.removeprefix("corrector.filter.").partition(".")[0]
        why = f"engine=server answers for the backbone alone, and {key} are another model's"
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
    from lema.api.client import listed  # openai takes a second

    lines: list[str] = []
    for key, name in {"model": engine.model, **({"tuned": engine.tuned} if tuned and engine.tuned else {})}.items():
        try:
            found = listed(replace(engine.api, model=name), "engine")
            if name is None:  # else two servers' answers would be one artifact
                lines.append(f"server: answers are known by the model's name: set engine.model={found.name}")
        except UserError as error:
            lines.append(f"server: {str(error).replace('engine.model', f'engine.{key}')}")
    yield from dict.fromkeys(lines)
