"""Whether each model that samples, corrects or writes is set as its kind needs, and nothing that it would not read."""

from dataclasses import fields

from lema.config import ApiConfig, Config, CorrectionMethod, Do, FilterConfig, Grader, Selection, SourceKind, renamed
from lema.types import MAY_BE_RIGHT, UserError


def check(config: Config) -> None:
    """Check that each model that samples, corrects or writes rationales has the settings that its kind needs."""
    sampler, corrector, rationales = config.sampler, config.corrector, config.rationales
    if not sampler.models:
        remedy = "choose a sampler, or add one, +sampler/model@sampler.models.mine=self"
        raise UserError(f"sampler.models is empty: {remedy}")
    sources = {f"sampler.models.{name}": source for name, source in sampler.models.items()}
    sources |= {"sampler.other": sampler.other} if sampler.other else {}
    for place, source in sources.items():
        for kind in (SourceKind.weights, SourceKind.api, SourceKind.recorded):
            if (getattr(source, kind) is not None) != (source.kind is kind):
                state = "must be set" if source.kind is kind else "must be null"
                raise UserError(f"{renamed.present(f'{place}.{kind}', sampler.name)}: {state} with kind={source.kind}")
        if source.api and source.api.model is None:
            key = renamed.present(f"{place}.api.model", sampler.name)
            raise UserError(f"{key}: must be set to the model that the server is asked for")
        if source.kind is SourceKind.recorded and source.prompt:
            raise UserError(f"{place}.prompt={source.prompt}: does nothing with kind=recorded")
    if sampler.other and sampler.other.is_own:
        raise UserError(f"sampler.other.kind={sampler.other.kind}: must be another model than the backbone")
    if config.selection is Selection.paper and SourceKind.tuned in (source.kind for source in sources.values()):
        why = "the test problems would choose the model that makes the mistakes"
        raise UserError(f"selection=paper sampler={sampler.name}: {why}; choose selection=dev")
    if (corrector.weights is not None) != (corrector.method is CorrectionMethod.local):
        raise UserError(f"corrector.method={corrector.method}: corrector.weights belong to corrector=local")
    if (corrector.model is not None) != (corrector.method is CorrectionMethod.api):
        raise UserError(f"corrector.method={corrector.method}: choose corrector=gpt4 for a corrector.model to be asked")
    if rationales.requests and (rationales.model is None) == (rationales.weights is None):
        raise UserError(f"rationales.requests={rationales.requests}: choose who writes, rationales=gpt4 or =local")
    _check_asked(config)
    writers = {key: each for asked in config.writers.values() for key, each in asked.items()}
    servers = {f"{place}.api": each.api for place, each in sources.items() if each.api}
    for key, api in (servers | writers).items():
        if None not in (api.max_tokens, api.max_completion_tokens):
            other = f"{key}.max_completion_tokens={api.max_completion_tokens}"
            raise UserError(f"{key}.max_tokens={api.max_tokens}: stands in the place of {other}; set that to null")
    solvers = [source for source in sampler.models.values() if not source.recorded]
    sampled = [source.api.temperature if source.api else sampler.temperature for source in solvers]
    for key, number, temperatures in (
        ("sampler.samples", sampler.samples, sampled),
        ("evaluation.samples", config.evaluation.samples, [config.evaluation.temperature]),
        ("corrector.tries", corrector.tries, [corrector.temperature]),
        ("rationales.most", rationales.most or 1, [rationales.temperature]),
    ):
        if number > 1 and 0 in temperatures:
            raise UserError(f"{key}={number}: must be 1 at temperature 0, where all answers are the same")


# What a model that is loaded here needs to write corrections or rationales.
_LOCAL = ("temperature", "max_completion_tokens", "seed")


def _check_asked(config: Config) -> None:
    """Refuse settings of requests where no server is asked, and of a comparison where nothing is compared."""
    corrector, rationales = config.corrector, config.rationales
    for section, writer in [each for asked in config.writers.values() for each in asked.items()]:
        asks, group = writer.model is not None, section.removeprefix("corrector.filter.")
        if missing := [name for name in _LOCAL if writer.weights and getattr(writer, name) is None]:
            raise UserError(f"{section}.{missing[0]}=null: must be set with {group}=local")
        names = {field.name for field in fields(ApiConfig) if not asks} | {"seed"}
        names -= set(_LOCAL) if writer.weights else set()
        names |= {"demonstrations", "most"} if section == "rationales" and not rationales.requests else set()
        if unused := sorted(name for name in names if getattr(writer, name) is not None):
            why = "which loads no model" if asks else "which asks no server"
            raise UserError(f"{section}.{unused[0]}: does nothing with {group}={writer.name}, {why}")
    if corrector.method is CorrectionMethod.reference and (corrector.prompt or corrector.tries > 1):
        raise UserError("corrector.prompt, corrector.tries: do nothing with corrector=reference, which is always right")
    _check_filter(config)
    unnamed = corrector.prompt == MAY_BE_RIGHT or config.do is Do.audit
    if unnamed and config.task.grader is Grader.csqa:
        what = "do=audit" if config.do is Do.audit else f"corrector.prompt={MAY_BE_RIGHT}"
        raise UserError(f"{what}: corrections of {config.task.name} name no step; choose another task")
    if config.do is Do.audit and config.audit.data is None:
        raise UserError("audit.data=null: name solutions with human labels: processbench, mr_gsm8k, or a file")
    if config.do is not Do.compare and (named := [key for key in "ab" if getattr(config.compare, key)]):
        raise UserError(f"compare.{named[0]}: does nothing without do=compare")


def _check_filter(config: Config) -> None:
    """Refuse a filter that could keep or drop nothing by the step that is named."""
    corrector, chosen = config.corrector, config.corrector.filter
    agree, tries, verifier = chosen.agree, corrector.tries, chosen.verifier
    if config.task.grader is Grader.csqa and chosen != FilterConfig():
        raise UserError(f"corrector.filter: corrections of {config.task.name} name no step; leave it out")
    if agree and corrector.method is CorrectionMethod.reference:
        raise UserError(f"corrector.filter.agree={agree}: does nothing with corrector=reference, which always agrees")
    if agree and not agree <= tries < 2 * agree:
        needs = f"must be more than half of corrector.tries={tries}, and no more than all"
        raise UserError(f"corrector.filter.agree={agree}: {needs}; as corrector.tries={2 * agree - 1}")
    if verifier and (verifier.model is None) == (verifier.weights is None):
        key = "corrector.filter.verifier.model"
        raise UserError(
            f"{key}={verifier.model or 'null'}: one model verifies; verifier=gpt4 sets this, verifier=local weights"
        )
