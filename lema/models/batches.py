"""Training batches: examples as tokens, and a step's examples laid out in forward passes, padded or packed.

padded   [BOS prompt | completion EOS] in one row each, filled up to the longest of `micro_batch_size` rows. Each
         pass counts alike in the step, as in the paper's script, so a target token among few counts more.
packed   the same examples side by side in rows of at most `row_tokens`, positions from 0 in each, and no padding.
         Each target token of the step counts alike.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening

from lema.config import Attention, Batches, Precision, TrainConfig
from lema.models.encoding import encode_completion, encode_prompt, loss_weights
from lema.types import Example, UserError

# Largest relative change of the loss when another document of the row is replaced: a right mask adds exact zeros.
_FELT = 1e-7
# Largest relative difference of packed and unpacked loss, by the precision of computation.
TOLERANCE = {Precision.fp32: 1e-5, Precision.bf16: 1e-2}
SHARED = 8  # ranks that have equal shares of a packed step of many rows, as have 4 and 2
IGNORED = -100  # the label that PyTorch's cross entropy skips

# id: who it is in messages; input_ids, labels: lists of ints of equal length; where they are not all 1, weights: of the
# loss on each token that has a label.
TokenizedExample = dict[str, Any]


def encode(
    examples: Iterable[Example], tokenizer: Any, config: TrainConfig
) -> tuple[list[TokenizedExample], dict[str, int]]:
    """BOS + prompt | completion + EOS, each cut to its limit as in the official script; labels on the completion.

    What has the weight 0 gets no label, and an example that is cut before its first label is left out.
    Raises `UserError` for one without a target token.
    """
    rows, counts = [], {"examples": 0, "tokens": 0, "target_tokens": 0, "truncated": 0}
    for example in examples:
        name = f"{example.problem_id} ({example.source})"
        prompt, target = encode_prompt(tokenizer, example.prompt), encode_completion(tokenizer, example.completion)
        if len(target) == 1:  # EOS alone
            raise UserError(f"train: {name} has no token to train on, its completion is empty; take it out of the data")
        counts["truncated"] += len(prompt) > config.max_source_tokens or len(target) > config.max_target_tokens
        prompt, target = prompt[: config.max_source_tokens], target[: config.max_target_tokens]
        labels, weights = target, [1.0] * len(target)
        if example.weights:
            weights = loss_weights(tokenizer, example.completion, example.weights)[: len(target)]
            labels = [token if weight else IGNORED for token, weight in zip(target, weights, strict=True)]
        if not (trained := [weight for weight in weights if weight]):
            continue
        row = {"id": name, "input_ids": prompt + target, "labels": [IGNORED] * len(prompt) + labels}
        rows.append(row | {"weights": trained} if set(trained) != {1} else row)
        counts["examples"] += 1
        counts["tokens"] += len(prompt) + len(target)
        counts["target_tokens"] += len(trained)
    return rows, counts


def preview(rows: Sequence[TokenizedExample], tokenizer: Any) -> str:
    """Rows as the model gets them, what is trained on between ⟦ and ⟧: `<s>Question: …⟦The answer is 8.</s>⟧`."""
    texts = []
    for row in rows:
        text, tokens = "", zip(row["input_ids"], row["labels"], strict=True)
        for trained, run in groupby(tokens, key=lambda token: token[1] != IGNORED):
            part = tokenizer.decode([token for token, _ in run])
            text += f"⟦{part}⟧" if trained else part
        texts.append(f"--- {row['id']}\n{text}")
    return "\n".join(texts)


@dataclass(frozen=True)
class StepCollator:
    """Lays the rows of one step out in forward passes; the collator of the data loader."""

    config: TrainConfig
    tokenizer: Any

    def __call__(self, rows: Sequence[TokenizedExample]) -> dict[str, Any]:
        """`passes`: the model's inputs, (batch, length) each; `weights`: their shares in the step's loss; counts."""
        lengths = [len(row["input_ids"]) for row in rows]
        features = [{name: row[name] for name in ("input_ids", "labels")} for row in rows]
        packed = self.config.batches is Batches.packed
        if packed:
            groups = best_fit(lengths, self.config.row_tokens)
            if len(groups) > SHARED // 2:
                groups = even(lengths, self.config.row_tokens, SHARED)
            collate: Any = DataCollatorWithFlattening(return_flash_attn_kwargs=True)
        else:
            size = self.config.micro_batch_size
            groups = [range(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
            collate = DataCollatorForSeq2Seq(self.tokenizer)  # pads by position: no token is masked for what it is
        passes = [dict(collate([features[index] for index in group])) for group in groups]
        targets = [int((each["labels"] != IGNORED).sum()) for each in passes]
        sums = list[float](targets)  # of the weights of their target tokens
        for number, group in enumerate(groups):
            if any("weights" in rows[index] for index in group):
                sums[number] = _weigh(passes[number], [rows[index] for index in group])
        return {
            "ids": [row["id"] for row in rows],
            "passes": passes,
            "weights": [each / sum(sums) if packed else 1 / len(passes) for each in sums],
            "tokens": sum(lengths),
            "target_tokens": sum(targets),
            "positions": sum(each["input_ids"].numel() for each in passes),
        }


def _weigh(one_pass: dict[str, Any], rows: Sequence[TokenizedExample]) -> float:
    """Add `loss_weights`, of the shape of the labels, to a pass of weighted rows; their sum."""
    ones = ([1.0] * sum(label != IGNORED for label in row["labels"]) for row in rows)
    weights = [weight for row, one in zip(rows, ones, strict=True) for weight in row.get("weights", one)]
    labels = one_pass["labels"]
    one_pass["loss_weights"] = torch.zeros(labels.shape).masked_scatter(labels != IGNORED, torch.tensor(weights))
    return sum(weights)


def best_fit(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Indices in rows of at most `size`: the longest first, each into the fullest row with room (best-fit decreasing).

    >>> best_fit([5, 3, 4, 2], 7)
    [[0, 3], [2, 1]]
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        fitting = [row for row in range(len(rows)) if room[row] >= lengths[index]]
        if not fitting:
            fitting = [len(rows)]
            rows.append([])
            room.append(size)
        row = min(fitting, key=room.__getitem__)
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows


def even(lengths: Sequence[int], size: int, multiple: int) -> list[list[int]]:
    """Indices in rows of at most `size` and about equal lengths: the longest first, each into the emptiest row.

    Their number is a multiple of `multiple`, unless there are fewer examples, so that so many ranks have equal shares.
    The layout knows nothing of the number of ranks, so a step is the same by however many, dropout included.

    >>> even([5, 3, 4, 2, 3], 7, 2)
    [[0], [2], [1, 3], [4]]
    """
    count = multiple
    while True:
        rows: list[list[int]] = [[] for _ in range(count)]
        held = [0] * count
        for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
            row = held.index(min(held))
            rows[row].append(index)
            held[row] += lengths[index]
        if max(held) <= max(size, max(lengths)):
            return [row for row in rows if row]
        count += multiple


def mean_loss(model: Any, inputs: dict[str, Any]) -> Any:
    """The mean loss of a pass over its target tokens, each as often as its weight says where it has one.

    Of a packed row the head sees the target positions alone.
    """
    inputs, padded = dict(inputs), "cu_seq_lens_q" not in inputs
    weights = inputs.pop("loss_weights", None)
    if padded and weights is None:
        return model(**inputs, use_cache=False).loss
    labels = inputs.pop("labels")[:, 1:]
    targets = labels != IGNORED
    if padded:
        logits = model(**inputs, use_cache=False).logits[:, :-1][targets]
    else:
        # Without a mask and a cache, models keep the documents apart by their positions; with either they would not.
        logits = model(**inputs, logits_to_keep=targets.nonzero()[:, 1], use_cache=False).logits[0]
    if weights is None:
        return torch.nn.functional.cross_entropy(logits.float(), labels[targets])
    losses = torch.nn.functional.cross_entropy(logits.float(), labels[targets], reduction="none")
    return (losses * weights[:, 1:][targets]).sum() / weights.sum()


def check_packing(
    model: Any, rows: Sequence[TokenizedExample], config: TrainConfig, tokenizer: Any, precision: Precision
) -> None:
    """Raise `UserError` unless packed rows have the loss of eager attention, one example by itself, and no other's.

    Loss alone would not tell in 16 bits: so the first document is also exchanged for other tokens of the same length,
    and the others must not feel it.
    """
    shortest = sorted(rows, key=lambda row: len(row["input_ids"]))[:3]
    # The longest of them opens the row. Weights have no part in this.
    *others, first = few = [{name: part for name, part in row.items() if name != "weights"} for row in shortest]
    if not others:
        return
    model.eval()
    vocabulary = model.get_input_embeddings().weight.shape[0]
    exchanged = {**first, "input_ids": [(token + 1) % vocabulary for token in first["input_ids"]]}
    silent = [{**row, "labels": [IGNORED] * len(row["labels"])} for row in (first, exchanged)]
    collate, kernel = StepCollator(config, tokenizer), model.config._attn_implementation
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=precision is Precision.bf16):
        together = _loss(model, [collate(few)])
        before, after = (_loss(model, [collate([row, *others])]) for row in silent)
        model.set_attn_implementation(Attention.eager.value)
        one_by_one = _loss(model, [collate([row]) for row in few])
        model.set_attn_implementation(kernel)
    model.train()
    apart, felt = abs(together - one_by_one) / abs(one_by_one), abs(after - before) / abs(before)
    if apart > TOLERANCE[precision] or felt > _FELT:
        what = "documents see each other" if felt > _FELT else "rows are not what eager makes of each document"
        raise UserError(
            f"backbone.attention={kernel}: packed {what} (loss {apart:.1e} off, {felt:.1e} by another's tokens); "
            "choose backbone.attention=eager, or train.batches=padded"
        )


def _loss(model: Any, batches: Sequence[dict[str, Any]]) -> float:
    """The mean loss over all target tokens of packed batches."""
    total = 0.0
    for batch in batches:
        for inputs, weight in zip(batch["passes"], batch["weights"], strict=True):
            inputs = {name: each.to(model.device) if torch.is_tensor(each) else each for name, each in inputs.items()}
            total += mean_loss(model, inputs).item() * weight * batch["target_tokens"]
    return total / sum(batch["target_tokens"] for batch in batches)
