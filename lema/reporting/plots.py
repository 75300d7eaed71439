"""The pictures of a report, as PNG: accuracy beside the paper's, differences, learning curves, accuracy by MATH level.

An arm has the same colour in all of them. The colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from lema.artifacts.locks import check
from lema.identity import digest
from lema.reporting.comparing import ARMS, HEADLINES, UNTUNED, Arm, Comparison, Difference, Drawn, by_contrast
from lema.reporting.statistics import over_seeds

_COLOURS = ["#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#F0E442", "#000000"]
_POINTS = 200  # a learning curve has at most so many: more cannot be told apart


def names(task: str) -> list[str]:
    """The files of a task's pictures; those with nothing to show are not drawn."""
    own = "".join(letter if letter.isalnum() else "-" for letter in task).replace("--", "-")
    return [f"{kind}-{own}.png" for kind in ("accuracy", "differences", "curves", "levels")]


def draw(comparison: Comparison, folder: Path) -> None:
    """Write the pictures of each task for which there is anything to see."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    for task in comparison.tasks:
        own = comparison.of(task)
        figures = _accuracy(own), _forest(own.differences), _curves(own), _levels(own)
        for name, figure in zip(names(task), figures, strict=True):
            if figure is not None:
                check()
                figure.savefig(folder / name, dpi=110, metadata={"Software": None})
                pyplot.close(figure)


def _colour(arm: str) -> str:
    if arm == UNTUNED:
        return "#8A8A8A"  # grey
    place = list(ARMS).index(arm) if arm in ARMS else int(digest(arm), 16)
    return _COLOURS[place % len(_COLOURS)]


def _figure(width: float, height: float, panels: int = 1, shared: bool = False) -> tuple[Any, list[Any]]:
    """A figure of panels side by side, at most three in a line."""
    from matplotlib import pyplot

    columns = min(3, panels)
    lines = -(-panels // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(width * columns, height * lines), squeeze=False, sharey=shared, layout="constrained"
    )
    for place, axis in enumerate(axes.flat):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.set_visible(place < panels)
    return figure, list(axes.flat)[:panels]


def _accuracy(comparison: Comparison) -> Any:
    """Accuracy of each arm of a task with its interval, and the paper's as a diamond."""
    settings = comparison.settings
    figure, [axis] = _figure(max(5.0, 1.6 + 1.9 * len(settings)), 4.2)
    names = list(dict.fromkeys(arm.name for arm in comparison.arms))
    width, paper = 0.8 / len(names), None
    labels, drawn = dict[str, Any](), dict[str, Any]()
    for place, setting in enumerate(settings):
        for number, name in enumerate(names):
            if (arm := comparison.find(setting, name)) is None or np.isnan(arm.accuracy.mean):
                continue
            x, mean = place + (number - (len(names) - 1) / 2) * width, 100 * arm.accuracy.mean
            labels[name] = axis.bar(x, mean, width * 0.92, color=_colour(name), alpha=0.75)
            _interval(axis, x, arm, 1.1)
            if arm.paper is not None:
                paper = _mark(axis, x, 100 * arm.paper)
            if arm.drawn:
                drawn |= _samples(axis, x + 0.3 * width, arm.drawn)
    wrapped = [setting.backbone.replace(" (", "\n(").replace("; ", "\n") for setting in settings]
    axis.set_xticks(range(len(settings)), wrapped)
    axis.set_ylabel("accuracy, %")
    axis.set_title(f"{settings[0].task}: 95 % over seeds (dotted: one seed, over problems)", fontsize=10)
    labels |= ({"the paper": paper} if paper else {}) | drawn
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "frameon": False}
    axis.legend(list(labels.values()), list(labels), fontsize=8, ncols=min(3 if drawn else 6, len(labels)), **below)
    return figure


def _interval(axis: Any, x: float, of: Arm | Drawn, width: float) -> None:
    """The interval of an accuracy over seeds; of one seed, dotted, that over problems."""
    if found := of.accuracy.interval or of.over_problems:
        style = "-" if of.accuracy.interval else ":"
        axis.plot([x, x], [100 * side for side in found], color="black", linewidth=width, linestyle=style)


def _mark(axis: Any, x: float, y: float, mark: str = "D", size: float = 5) -> Any:
    [drawn] = axis.plot(x, y, mark, color="white", markeredgecolor="black", markersize=size)
    return drawn


def _samples(axis: Any, x: float, drawn: Drawn) -> dict[str, Any]:
    """The mean over samples with its interval, maj@k and pass@k, at a place of a bar; and their labels."""
    _interval(axis, x, drawn, 0.8)
    return {
        "mean of samples": _mark(axis, x, 100 * drawn.accuracy.mean, "o", 4),
        f"maj@{drawn.samples}": _mark(axis, x, 100 * drawn.majority, "s", 4),
        f"pass@{drawn.samples}": _mark(axis, x, 100 * drawn.pass_at[str(drawn.samples)], "^", 4),
    }


def _forest(differences: Sequence[Difference]) -> Any | None:
    """Each headline difference with its interval over seeds (thick) and over problems (thin), and the paper's."""
    shown = [each for each in differences if each.contrast in HEADLINES] or list(differences)
    if not shown:
        return None
    figure, [axis] = _figure(7.5, 1.2 + 0.42 * len(shown))
    axis.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axis.grid(axis="y", visible=False)
    axis.axvline(0, color="black", linewidth=0.8)
    ordered = by_contrast(shown)[::-1]  # from the bottom to the top
    for place, each in enumerate(ordered):
        colour = _colour(each.other)
        if each.over_problems:
            axis.plot([100 * side for side in each.over_problems], [place, place], color="black", linewidth=0.9)
        if within := each.over_seeds.interval:
            axis.plot([100 * side for side in within], [place, place], color=colour, linewidth=4, alpha=0.6)
        axis.plot(100 * each.over_seeds.mean, place, "o", color=colour, markersize=6)
        if each.paper is not None:
            _mark(axis, 100 * each.paper, place)
    labels = [f"{each.setting.backbone}: {each.arm} − {each.other} ×{len(each.by_seed)}" for each in ordered]
    axis.set_yticks(range(len(ordered)), labels, fontsize=8)
    axis.set_xlabel("points. Thick: 95 % over seeds; thin: over problems; ◇ the paper", fontsize=9)
    axis.set_title(f"{ordered[0].setting.task}: paired differences", fontsize=10)
    _clip(axis, ordered)
    return figure


def _clip(axis: Any, differences: Sequence[Difference]) -> None:
    """Cut intervals at the edge: of two seeds they may be a hundred points wide, and hide everything else."""
    inner = [100 * side for each in differences if each.over_problems for side in each.over_problems]
    inner += [100 * mean for each in differences for mean in (each.over_seeds.mean, each.paper or 0.0)]
    reach = 3 * max(1.0, *map(abs, inner))
    low, high = max(axis.get_xlim()[0], -reach), min(axis.get_xlim()[1], reach)
    axis.set_xlim(low, high)
    for place, each in enumerate(differences):
        for side, edge, mark in zip(each.over_seeds.interval or (), (low, high), "<>", strict=False):
            if not low <= 100 * side <= high:
                axis.plot(edge, place, mark, color=_colour(each.other), markersize=7, clip_on=False)


def _panels(
    comparison: Comparison, of: Callable[[Arm], Any], x: str, y: str, fill: Callable[..., None], shared: bool = False
) -> Any | None:
    """A panel for each setting that has something to show: `fill(axis, shown)` draws what there is `of` each arm."""
    found = {
        setting: shown
        for setting in comparison.settings
        if (shown := {arm.name: part for arm in comparison.of(setting).arms if (part := of(arm))})
    }
    if not found:
        return None
    figure, axes = _figure(4.2, 3.2, len(found), shared)
    for axis, (setting, shown) in zip(axes, found.items(), strict=True):
        fill(axis, shown)
        axis.set_title(f"{setting.task}, {setting.backbone}", fontsize=9)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.legend(fontsize=7, frameon=False)
    return figure


def _curves(comparison: Comparison) -> Any | None:
    """The training loss of each arm, averaged over seeds and smoothed."""

    def fill(axis: Any, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        for name, (steps, losses) in curves.items():
            axis.plot(steps, losses, color=_colour(name), label=name, linewidth=1.3)

    return _panels(comparison, _curve, "step", "training loss", fill)


def _curve(arm: Arm) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps and losses, averaged over seeds, then over windows of steps."""
    curves = [curve for run in arm.runs if arm.tuned and (curve := run.curve())]
    if not curves:
        return None
    length = min(map(len, curves))
    losses = np.mean([[loss for _, loss in curve[:length]] for curve in curves], axis=0)
    steps = np.array([step for step, _ in curves[0][:length]])
    window = -(-length // _POINTS)
    whole = length - length % window
    return steps[:whole].reshape(-1, window).mean(1), losses[:whole].reshape(-1, window).mean(1)


def _levels(comparison: Comparison) -> Any | None:
    """Accuracy by level, where the problems have one: mean over seeds, with Student's interval over them."""

    def fill(axis: Any, by_arm: dict[str, dict[str, list[float]]]) -> None:
        for number, (name, levels) in enumerate(by_arm.items()):
            shift, colour = 0.06 * (number - (len(by_arm) - 1) / 2), _colour(name)
            places = [place + shift for place in range(len(levels))]
            means = [100 * fmean(each) for each in levels.values()]
            axis.plot(places, means, "o-", color=colour, label=name, linewidth=1.2, markersize=4)
            for place, values in zip(places, levels.values(), strict=True):
                if within := over_seeds(values).interval:
                    axis.plot([place, place], [100 * side for side in within], color=colour, linewidth=1)
        labels = list(next(iter(by_arm.values())))
        axis.set_xticks(range(len(labels)), [label.removeprefix("Level ") for label in labels])
        axis.set_ylim(0, 100)

    return _panels(comparison, lambda arm: arm.by_level, "level", "accuracy, %", fill, shared=True)
