"""Whether a model can do what these steps ask of it: its kind, its attention, its training, its tokens, its files."""

from collections.abc import Iterator

from lema.config import Config, ModelConfig
from lema.models.weights import Weights
from lema.types import UserError


def unfit(name: str, model: ModelConfig, source: Weights, config: Config, stages: set[str]) -> Iterator[str]:
    """The first thing that the model of this name cannot do: it decides what else can be looked at."""
    answers, train = _asking(name, config, stages), config.train if name == "backbone" and "train" in stages else None
    if train is None and not answers:
        return
    from lema.models import layout, trial
    from lema.models.huggingface import check_files, load_architecture

    try:
        trial.check(load_architecture(source), model.computation, name, train, answers)
        check_files(source, model.precision, train)
        if train:
            layout.plan(load_architecture(source), train, model.precision, None, 0)
    except UserError as error:
        yield f"model: {error}"


def _asking(name: str, config: Config, stages: set[str]) -> dict[str, int]:
    """The limits of the sections that ask a model for answers, by their keys: new tokens at most."""
    section, key = name.partition(".")[0], name.removesuffix(".weights")
    if writer := next((asked[key] for asked in config.writers.values() if key in asked), None):
        return {f"{key}.max_completion_tokens": writer.max_completion_tokens or 0}
    own = any(source.is_own for source in config.sampler.models.values())
    found: dict[str, int] = {}
    if section == "sampler" or (own and "sample" in stages):
        found["sampler.max_new_tokens"] = config.sampler.max_new_tokens
    if section == "backbone" and stages & {"select", "merge", "evaluate"}:
        found["evaluation.max_new_tokens"] = config.evaluation.max_new_tokens
    return found
