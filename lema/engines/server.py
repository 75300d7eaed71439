"""server: a model that somebody else serves answers in the place of one that is loaded here.

It is asked for exactly our prompt where the server has `/v1/completions`: as token ids, else as a text, which it must
read as the backbone's tokenizer does. A server with chats alone puts its model's template around the prompt.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from lema.api.asking import ask
from lema.api.requests import VLLM, Exact, Message, Request, plain
from lema.config import NO_EFFECT, ApiConfig, PriceConfig, ServerConfig
from lema.engines import Account, LocalModel, Weights, sample_seed
from lema.types import PROMPT_TOO_LONG, Completion, Prompt, UserError

if TYPE_CHECKING:
    from lema.api.client import Attempt, Listed
log = logging.getLogger(__name__)
_SECTION = "engine"  # of the config, for messages
# What a server is tried with: hardly two tokenizers cut it alike.
_TRIED = Prompt("Größe: 12,345 + 1 = 12346, so they aren't $\\frac{1}{2}$ of αβγ's")
_NOT_TAKEN = ("HTTP 400", "HTTP 422", "HTTP 404", "HTTP 405", "HTTP 501")  # ids, or the endpoint


@dataclass(kw_only=True)
class Settings(ServerConfig):
    """The server, and what it calls the backbone."""

    name: str
    tuned: Optional[str] = field(default=None, metadata=NO_EFFECT)  # the `model` of what asks the fine-tuned one

    @property
    def api(self) -> ApiConfig:
        """How it is asked."""
        shared = {name: value for name, value in vars(self).items() if name not in ("name", "tuned")}
        return ApiConfig(**shared, max_tokens=1)

    @property
    def price(self) -> PriceConfig:
        """Nothing, unless it is set."""
        return PriceConfig(self.input_usd or 0.0, self.input_usd or 0.0, self.output_usd or 0.0)


@dataclass(frozen=True)
class _Road:
    """How a server takes a prompt."""

    name: str
    fields: Mapping[str, Any] | None  # of its completions; None: as a message of a chat
    ids: bool = False  # token ids; else a text
    front: str = ""  # before the text: a BOS that the server does not add


class Engine:
    """One model at one server. Its answers are kept beside `resume`: to another artifact the name may mean another."""

    def __init__(
        self, settings: Settings, model: LocalModel, weights: Weights, adapter: Path | None, account: Account
    ) -> None:
        self.settings, self.model, self.weights, self.account = settings, model, weights, account
        self.costs: dict[str, Any] = {}
        self._known: dict[str, list[int]] = {}

    @property
    def about(self) -> dict[str, str]:
        found = self._listed
        engine = f"server {found.kind}" if found.kind else "server"
        return {"engine": engine, "model": found.name, "asked": self._road.name}

    def complete(self, prompts: Sequence[Prompt], resume: Path) -> list[Completion]:
        """Completions in order.

        A prompt that leaves the model no room, or that the server refuses for its content, has an empty text. Raises
        `UserError` when that is so of all.
        """
        price, account = self.settings.price, self.account
        free = price.input_usd == price.output_usd == 0
        journal = resume.with_name(f"{resume.name} answers.sqlite")
        limits = [self._limit(prompt) for prompt in prompts]
        asked = [place for place, limit in enumerate(limits) if limit > 0]
        if short := len(prompts) - len(asked):
            told = "%-16s %s of %s prompts are as long as the context of %s or longer: they count as unanswered"
            log.warning(told, _SECTION, f"{short:,}", f"{len(prompts):,}", self._listed.name)
        completions = [Completion("", PROMPT_TOO_LONG, self._listed.name)] * len(prompts)
        try:
            answers, spending = ask(
                [self._request(self._road, prompts[place], limits[place]) for place in asked],
                self._api,
                section=_SECTION,
                journal_path=journal,
                price=price,
                budget_usd=0.0 if free else account.budget_usd,
                paid_usd=account.paid_usd + self.costs.get("usd", 0.0),
                whole=True,
            )
        except UserError as error:
            raise _in_our_keys(error) from error
        for place, answer in zip(asked, answers, strict=True):
            completions[place] = answer if answer.text is not None else replace(answer, text="")
        if prompts and all(answer.text is None for answer in answers):
            why = f"({answers[0].finish_reason}: {answers[0].error})" if answers else "(longer than its context)"
            raise UserError(
                f"{self.settings.base_url} answered none of {len(prompts):,} prompts {why}: mend that there"
            )
        if not free:
            self.costs = {name: value + self.costs.get(name, 0) for name, value in vars(spending).items()}
        return completions

    def _limit(self, prompt: Prompt) -> int:
        """The tokens that an answer may have; less than 1 when the prompt leaves no room."""
        limit, most = self.model.max_new_tokens, self._listed.context
        return min(limit, most - len(self._ids(prompt.text))) if self._road.ids and most else limit

    @cached_property
    def _listed(self) -> "Listed":
        from lema.api.client import listed  # openai takes a second

        return listed(self.settings.api, _SECTION)

    @cached_property
    def _api(self) -> ApiConfig:
        how = {"max_tokens": self.model.max_new_tokens, "temperature": self.model.temperature}
        return replace(self.settings.api, model=self._listed.name, **how)

    @cached_property
    def _tokenizer(self) -> Any:
        """The backbone's; None where it is not at hand."""
        from lema.models.huggingface import load_tokenizer

        try:
            return load_tokenizer(self.weights)
        except UserError as error:
            log.warning("%-16s prompts are sent as texts, as the backbone's tokenizer is not here: %s", _SECTION, error)
            return None

    def _ids(self, text: str) -> list[int]:
        """Of one text the same list: a thousand samples of a question take no more memory than one."""
        from lema.models.encoding import encode_prompt

        if text not in self._known:
            self._known[text] = encode_prompt(self._tokenizer, text)
        return self._known[text]

    def _request(self, road: _Road, prompt: Prompt, limit: int) -> Request:
        seed = sample_seed(self.model.seed, prompt) if self.model.temperature else None
        own = {"attempt": prompt.attempt, "seed": seed, "stop": prompt.stop}
        if road.fields is None:
            return Message(prompt.text, **own)
        return Exact(self._ids(prompt.text) if road.ids else road.front + prompt.text, limit, road.fields, **own)

    def _roads(self) -> Iterator[_Road]:
        """The roads to an answer, the most exact one first."""
        vllm = self._listed.kind == "vllm"
        fields = plain(self.model.temperature) | (VLLM if vllm else {})
        if self._tokenizer is not None:
            yield _Road("completions of token ids", fields, ids=True)
        fields = fields | ({"add_special_tokens": True} if vllm else {})
        yield _Road("completions of texts", fields)
        if begin := getattr(self._tokenizer, "bos_token", None):
            yield _Road(f"completions of texts behind {begin}", fields, front=begin)

    @cached_property
    def _road(self) -> _Road:
        """The first that the server takes, on which it reads what we would; `UserError` when there is none."""
        server, other = str(self.settings.base_url), ""
        roads = list(self._roads())
        for road in roads:
            landed = self._tried(road)
            same = self._same(landed)
            if road.ids and landed.answer and same is not False:  # of ids any model reads as many
                text = self._tried(roads[1])
                landed, same = (landed, same) if self._same(text, whole=False) is not False else (text, False)
            if landed.answer and same is not False:
                if same is None:
                    told = "%-16s %s does not tell how it reads a prompt, so a second BOS cannot be excluded"
                    log.warning(told, _SECTION, server)
                return road
            if landed.answer:
                other = (
                    other
                    or f"it reads a prompt as {len(landed.prompt_token_ids or ()) or (landed.tokens or [0])[0]} tokens"
                )
            elif landed.failure not in _NOT_TAKEN:
                raise UserError(f"{server} refuses requests ({landed.said}): {landed.remedy or 'mend that there'}")
        if other:
            ours = f"where the backbone's tokenizer has {len(self._ids(_TRIED.text))}"
            raise UserError(f"{server}: {other} {ours}: it serves another model, or adds to it; mend engine.base_url")
        landed = self._tried(chat := _Road("chats", None))
        if not landed.answer:
            raise UserError(f"{server} refuses requests ({landed.said}): {landed.remedy or 'mend that there'}")
        told = "%-16s %s has no /v1/completions: its chat template stands around each prompt"
        log.warning(told, _SECTION, server)
        return chat

    def _same(self, landed: "Attempt", whole: bool = True) -> bool | None:
        """Whether the server read what we would, BOS aside unless `whole`; None when that is not known."""
        if self._tokenizer is None or not landed.answer:
            return None
        ids = self._ids(_TRIED.text)
        ours = [ids] if whole else [ids, ids[1:]]
        if landed.prompt_token_ids is not None:
            return list(landed.prompt_token_ids) in ours
        return landed.tokens[0] in map(len, ours) if landed.tokens else None

    def _tried(self, road: _Road) -> "Attempt":
        """What comes of a short prompt; `UserError` when another model answers it."""
        from lema.api.client import attempt, other_model

        if road.fields and "add_special_tokens" in road.fields:
            road = replace(road, fields={**road.fields, "return_token_ids": True})
        api = replace(self._api, max_tokens=1)
        landed = attempt(self._request(road, _TRIED, 1), api, _SECTION, tries=1 + (api.max_retries or 0))
        price, (prompt, _, completion) = self.settings.price, landed.tokens or (0, 0, 0)
        if paid := (prompt * price.input_usd + completion * price.output_usd) / 1e6:
            self.costs["usd"] = self.costs.get("usd", 0.0) + paid
        if landed.answer and (why := other_model(landed.answer.model, api.model, _SECTION)):
            raise UserError(f"{self.settings.base_url} {why}")
        return landed


def _in_our_keys(error: UserError) -> UserError:
    """The same error, with the keys of who asks in the place of the request's own parameters."""
    said = str(error)
    if "max_completion_tokens" in said:  # OpenAI's own present models, which are no backbone
        said = f"{said.partition(':')[0]}: the server takes no max_tokens: sample from it with sampler=server"
    for name, key in (("max_tokens", "max_new_tokens"), ("temperature", "temperature")):
        said = said.replace(f"{_SECTION}.{name}", f"evaluation.{key} or sampler.{key}")
    return UserError(said)
