"""chat: a model that answers as itself behind a server. It hides the journal, the budget and the pace of requests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lema.api.asking import Message, ask
from lema.api.estimate import price
from lema.engines import Account, ServedModel
from lema.types import Completion, Prompt, UserError


class Engine:
    """One model. Nothing that the journal holds is paid again."""

    def __init__(self, model: ServedModel, account: Account) -> None:
        self.model, self.account = model, account
        self.costs: dict[str, Any] = {}

    @property
    def about(self) -> dict[str, str]:
        return {"engine": "server"}

    def complete(self, prompts: Sequence[Prompt], resume: Path) -> list[Completion]:
        """Completions in order. The journal has what an interrupted call got, so nothing is written to `resume`.

        Raises `UserError` when nothing at all was answered, further attempts aside.
        """
        api, section, account = self.model.api, self.model.section, self.account
        cost = price(api, account.prices, section)
        free = cost.input_usd == cost.output_usd == 0  # needs no consent
        completions, spending = ask(
            [Message(prompt.text, prompt.attempt) for prompt in prompts],
            api,
            cost,
            section=section,
            budget_usd=0.0 if account.budget_usd is None and free else account.budget_usd,
            paid_usd=account.paid_usd + self.costs.get("usd", 0.0),
            journal_path=account.journal,
            retry_failed=account.retry_failed,
        )
        if prompts and all(each.failed for each in completions) and not all(prompt.attempt for prompt in prompts):
            why, first = f"{section}: none of {len(completions)} requests was answered", completions[0]
            remedy = "mend that, then run again with retry_failed=true"
            raise UserError(f"{why} ({first.finish_reason}: {first.error}): {remedy}")
        self.costs = {name: value + self.costs.get(name, 0) for name, value in vars(spending).items()}
        self.costs["failed"] = sum(not each.usable for each in completions)
        return completions
