"""What reports are told: what was stated beforehand, which designs are weighed, which runs are compared or moved."""

from dataclasses import dataclass
from typing import Annotated, Optional

from lema.config.allowed import CountOr0, Path, Range, Repeats

_Points = Annotated[float, Range(0, 100, above=True)]
_Several = Annotated[int, Range(2, 1000)]
_Problems = Annotated[int, Range(2, 10**7)]


@dataclass(kw_only=True)
class ReportConfig:
    """What a study states beforehand, so that its report can give verdicts."""

    margin: Optional[_Points] = None  # the smallest difference worth having; null: no verdicts
    contrasts: Optional[list[str]] = None  # arm/other, those with a verdict; null: all that are known

    @property
    def share(self) -> float | None:
        """The margin in [0, 1]."""
        return None if self.margin is None else self.margin / 100

    @property
    def pairs(self) -> list[tuple[str, str]] | None:
        """The contrasts, each as its two arms."""
        halves = [each.partition("/") for each in self.contrasts or ()]
        return [(arm.strip(), other.strip()) for arm, _, other in halves] or None


@dataclass(kw_only=True)
class PowerConfig:
    """The designs that `do=power` weighs: each number of seeds with each of problems and of samples."""

    seeds: list[_Several]
    problems: Optional[list[_Problems]] = None  # null: as many as were asked
    samples: Optional[list[Repeats]] = None  # drawn of each problem; null: as many as were drawn


@dataclass(kw_only=True)
class CompareConfig:
    """What `do=compare` sets side by side: runs by their folder, or by its name or the beginning of it."""

    a: Optional[Path] = None
    b: Optional[Path] = None
    examples: CountOr0  # problems of each kind of flip that are shown with both answers


@dataclass(kw_only=True)
class ResultsConfig:
    """What `do=export_results` writes and `do=import_results` reads."""

    file: Optional[Path] = None  # null writes `results/LABEL.jsonl` below the runs folder
