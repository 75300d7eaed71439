"""The report in sentences: the verdict on each difference, and everything that weakens it."""

from collections import Counter
from collections.abc import Iterator, Sequence

from lema.artifacts.records import Shown
from lema.reporting.comparing import HEADLINES, Arm, Comparison, Difference, Setting
from lema.reporting.runs import STOPPED, Run

_FORMLESS = 0.5  # a larger share of problems without an answer is said; ours


def warnings(comparison: Comparison) -> Iterator[str]:
    """The sentences below the tables of one task."""
    greedy = [each for contrast in HEADLINES for each in comparison.differences if each.contrast == contrast]
    for each in (*greedy, *comparison.sampled):
        if (
            each.contrast in HEADLINES and not each.verdict
        ):  # a verdict has a table, by a wider interval than these words
            of = f" ({each.setting.backbone})" if len(comparison.settings) > 1 else ""
            by = f", by the mean over {each.samples} samples of a problem" if each.samples else ""
            yield f"{HEADLINES[each.contrast]}{of}{by}: {verdict(each)}."
    for what in (_alone, _unpaired, _seeds, _untuned, _runs):
        yield from once({setting: list(what(comparison.of(setting))) for setting in comparison.settings})


def once(lines: dict[Setting, list[str]]) -> Iterator[str]:
    """Each line once, after the backbones that it is about where it is not about all of them."""
    for line in dict.fromkeys(line for own in lines.values() for line in own):
        about = [setting.backbone for setting, own in lines.items() if line in own]
        yield line if len(about) == len(lines) else f"{', '.join(about)}: {line}"


def _alone(setting: Comparison) -> Iterator[str]:
    found = {each.contrast for each in setting.differences}
    if ("lema", "cot") in found and ("lema", "cot_matched") not in found:
        yield "lema − cot alone cannot tell more data from learning from mistakes: run mix=cot_matched."


def verdict(difference: Difference) -> str:
    """A difference in words, by its headline interval."""
    seeds, spread = len(difference.by_seed), difference.over_seeds
    size = f"{100 * spread.mean:+.1f} points"
    if seeds == 1:
        p = f" ({difference.test} p {difference.p:.2g})" if difference.p is not None else ""
        return f"{size} in the one seed run{p}, which says nothing of training noise"
    if spread.interval is None:
        return f"{size} in each of {seeds} seeds, so their spread cannot be told, and there is no interval"
    low, high = spread.interval
    within = f"[{100 * low:+.1f}, {100 * high:+.1f}] over {seeds} seeds"
    if low > 0 or high < 0:
        holm = difference.p_holm
        weak = f", but not after Holm's correction (p {holm:.2g})" if holm is not None and holm > 0.05 else ""
        return f"it {'helps' if low > 0 else 'costs'}, {size} {within}{weak}"
    least = difference.smallest
    could = f"; only {100 * least:.1f} points or more could be expected to show" if least else ""
    return f"no difference shown, {size} {within}{could}"


def _unpaired(setting: Comparison) -> Iterator[str]:
    """The seeds that an arm lacks and another arm has."""
    seeds = {arm.name: set(arm.seeds) for arm in setting.arms if arm.tuned}
    everyone = set().union(*seeds.values())
    for name, own in seeds.items():
        if lacking := sorted(everyone - own):
            which, them = ", ".join(map(str, lacking)), "it" if len(lacking) == 1 else "them"
            yield f"{name} has no seed {which}: the other arms' runs of {them} pair with none."


def _seeds(setting: Comparison) -> Iterator[str]:
    arms = [arm for arm in setting.arms if arm.tuned]
    if single := [arm.name for arm in arms if len(arm.runs) == 1]:
        seed = next(arm for arm in arms if arm.name in single).seeds[0]
        only = "" if len(single) == len(arms) else f" of {', '.join(single)}"
        yield f"One training seed ({seed}){only}: how much training itself varies is not covered."
    if len(single) < len(arms):
        varied, same = "the order of the examples and the initialisation of adapters", "Data, sampled mistakes and base"
        if any(run.made_from("tuned_train") for arm in arms for run in arm.runs):
            varied, same = f"the mistakes of each seed's own tuned model, {varied}", "Data and base"
        yield f"The interval over seeds covers {varied}. {same} are the same for all seeds, as are the test problems."


def _untuned(setting: Comparison) -> Iterator[str]:
    """The untuned backbone may fail by the form of its answers alone, and may be asked otherwise than the arms."""
    arm = setting.arms[0]
    if arm.prompt:
        yield f"The untuned backbone was asked otherwise ({arm.prompt}) than the fine-tuned models."
    elif (unanswered := arm.score["unanswered"]) > _FORMLESS:
        yield (
            f"The untuned backbone wrote no answer that can be read to {unanswered:.0%} of the problems, so what an "
            "arm gains over it may be the form of the answer alone: evaluation.untuned_prompt=few_shot asks it after "
            "worked solutions."
        )


def _runs(setting: Comparison) -> Iterator[str]:
    """What weakens the numbers in the runs themselves."""
    arms = [arm for arm in setting.arms if arm.tuned]
    runs = [run for arm in arms for run in arm.runs]
    config = runs[0].config
    if split := next((run.score.split for run in runs if run.score.selection in ("paper", run.score.split)), None):
        paper = ", as the paper did" if config["selection"] == "paper" else ""
        yield f"Checkpoints were chosen on the {split} split, which they are scored on{paper}: optimistic."
    if config["limit"]:
        yield f"Every split is cut to its first {config['limit']} problems: a rehearsal, not a result."
    if "base" in runs[0].records and config["task"]["real"]:
        parameters = runs[0].records["base"]["summary"].get("parameters", 0)
        yield (
            f"Accuracy is near zero because the backbone has {parameters / 1e6:.1f} million parameters and was trained "
            f"for minutes on the training text alone: it cannot solve {config['task']['name']}. This run shows "
            "that every stage works on the real files."
        )
    elif "base" in runs[0].records:
        yield (
            "The tiny backbone demonstrates the machinery and the controls. It says nothing about the paper's effect, "
            "which is about models ten thousand times its size."
        )
    yield from _engines(runs)
    yield from _made_apart(runs)
    for run in (run for run in runs if run.state != "finished" and not run.state.startswith(STOPPED)):
        yield f"The last attempt of {run.name} ended otherwise ({run.state}): its earlier score stands."
    if damaged := [run.name for run in runs if run.tuned.verdicts is None]:
        yield (
            f"The predictions of {', '.join(damaged)} are missing or damaged: the scores stand, but these runs pair "
            "with no other and have no interval over problems; delete their evaluate folder and run them again."
        )
    if counted := [f"{what} {count:,}" for what, count in _losses(arms) if count]:
        yield f"Counted: {'; '.join(counted)}."


def _losses(arms: Sequence[Arm]) -> list[tuple[str, int]]:
    """What the artifacts of each arm's first run say was lost: first what all arms share, then what is an arm's."""
    losses: dict[tuple[bool, str], int] = {}
    for arm in arms:
        counts = Counter[tuple[bool, str]]()
        for step, record in arm.runs[0].records.items():
            if not step.startswith("other_"):  # the mistakes of another model, which one arm alone learns from
                for field, words in Shown.recorded(record).losses.items():
                    counts["{arm}" in words, words.format(arm=arm.name)] += record["summary"].get(field, 0)
        losses |= counts
    return [(words, losses[own, words]) for own, words in sorted(losses, key=lambda each: each[0])]


def _made_apart(runs: Sequence[Run]) -> Iterator[str]:
    """What all arms share is made once. It differs where a run was made elsewhere, or something changed between two.

    Mistakes of a model that was tuned first are made once for each seed.
    """
    digests: dict[tuple[str, int | None], set[str]] = {}
    for run in runs:
        of_seed = {*run.made_from("tuned_train"), *run.made_from("other_tuned_train")}
        for step in run.records.keys() - {"mix", *run.own_steps}:
            digests.setdefault((step, run.seed if step in of_seed else None), set()).add(run.digests[step])
    if differ := sorted({step.replace("_", " ") for (step, _), found in digests.items() if len(found) > 1}):
        yield (
            f"Not all of these runs stand on the same {', '.join(differ)} (imported, or changed between runs): numbers "
            "may differ by that alone."
        )


def _engines(runs: Sequence[Run]) -> Iterator[str]:
    """Different devices, engines or packages can make a difference by themselves."""
    devices = sorted({run.device for run in runs} - {""})
    if len(devices) > 1:
        yield f"These runs were trained on different devices ({', '.join(devices)}): numbers may differ by that alone."
    engines = sorted({run.answered for run in runs} - {""})
    if len(engines) > 1:
        told = " and ".join(engines)
        yield f"These runs were answered by different engines ({told}): numbers may differ by that alone."
    packages = sorted({name for run in runs for name in run.versions})
    differ = {name: sorted({run.versions.get(name, "none") for run in runs if run.versions}) for name in packages}
    if mixed := [f"{name} {' and '.join(found)}" for name, found in differ.items() if len(found) > 1]:
        yield f"These runs were answered with different versions: {'; '.join(mixed)}: numbers may differ by that alone."
