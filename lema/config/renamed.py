"""The spellings of earlier versions: each one is refused in a line that names the present spelling."""

from omegaconf import DictConfig

from lema.config import Do
from lema.types import UserError

_DONE = {name: f"do={name}" for name in Do if name is not Do.run}  # `only=report` is `do=report`


def refuse(tree: DictConfig) -> None:
    """Raise `UserError` for a composed tree, with its interpolations, in which something is set as it was before."""
    if new := _DONE.get(tree.only):
        raise UserError(f"only={tree.only}: write {new} instead")
