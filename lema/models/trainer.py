"""The training loop: the Hugging Face Trainer, with steps of our own layout, and an end that loses nothing."""

import contextlib
import io
import logging
import math
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from torch.utils.serialization import config as loading

with contextlib.redirect_stdout(io.StringIO()):  # it prints WANDB_MODE, whoever tracks
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from lema import stopping
from lema.artifacts import check
from lema.config import Batches, Precision, Training
from lema.console.progress import Progress
from lema.models import checkpoints
from lema.models.batches import StepCollator, TokenizedExample, mean_loss
from lema.models.ranks import ALONE, Ranks, gradients, whole_weights, with_whole_state
from lema.types import UserError

log = logging.getLogger(__name__)
Track = Callable[[dict[str, float], int], None]  # is given each row of the curve, and its step

_PRIME = 1_000_003  # between the seeds of two runs: more than a run has epochs, steps or passes


class EpochSampler(Sampler[int]):
    """Rows in an order drawn from seed and epoch alone: the Trainer's own is another one after a resume.

    `by_length` puts rows of like length in one step, as the Trainer's `group_by_length` does.
    """

    def __init__(self, rows: list[TokenizedExample], batch_size: int, seed: int, by_length: bool) -> None:
        self.lengths = [len(row["input_ids"]) for row in rows]
        self.batch_size, self.seed, self.by_length, self.epoch = batch_size, seed, by_length, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the loader before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(_PRIME * self.seed + self.epoch)
        if self.by_length:
            return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
        return iter(torch.randperm(len(self), generator=generator).tolist())


class CompletionTrainer(Trainer):
    """A Trainer whose batch is a whole step: it runs the step's passes, or its rank's share, and weighs their losses.

    To the Hugging Face Trainer each rank is a process by itself, as gradients are added up before it sees them.
    """

    def __init__(self, sampler: EpochSampler, training: Training, track: Track, ranks: Ranks, **options: Any) -> None:
        super().__init__(**options)
        self.sampler, self.training, self.track, self.ranks = sampler, training, track, ranks
        self.counts, self.logged = {}, time.monotonic()
        self.weights: Any = None  # what a checkpoint has, where that is not the model's own state: of a sharded one
        self.stop: torch.Tensor | None = None  # of several ranks: above 0 when one of them has got a stop signal
        self.share, self.passes, self.last = 0.0, (0, 0), list[str]()  # of the present step; the last one in words

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return self.sampler

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """The step's loss, with the gradients of all its passes added up.

        A pass draws its dropout by its number in the run, so neither a resume nor the number of ranks changes it.
        """
        model.train()
        loss, step = torch.zeros((), device=self.args.device), self.state.global_step
        passes = list(zip(inputs["passes"], inputs["weights"], strict=True))
        for number, (one_pass, weight) in self.ranks.share(passes, nothing=(inputs["passes"][0], 0.0)):
            self.share, self.passes = number / len(passes), (number + 1, len(passes))
            torch.manual_seed(((self.args.seed * _PRIME + step) * _PRIME + number) % 2**63)  # torch's largest
            with self.compute_loss_context_manager():
                share = mean_loss(model, self._prepare_inputs(one_pass)) * weight
            self.accelerator.backward(share)
            loss += share.detach()
        if self.ranks.count > 1:
            self.stop = torch.full_like(loss, stopping.received() is not None)
            self.ranks.add_up([loss, self.stop, *([] if self.ranks.sharded else gradients(model))])
        self.ids = inputs["ids"]
        self.counts = {name: inputs[name] for name in ("tokens", "target_tokens", "positions")}
        return loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        made = super().create_optimizer(model)
        return with_whole_state(made) if self.ranks.sharded else made

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Rank 0 writes, signs, and prunes older ones; all ranks of a sharded model give it what it writes."""
        self.weights = whole_weights(model) if self.ranks.sharded else None
        if self.ranks.number == 0:
            super()._save_checkpoint(model, trial)
            assert self.args.output_dir
            folder = Path(self.args.output_dir)
            checkpoints.sign(folder / f"checkpoint-{self.state.global_step}")
            checkpoints.prune(folder, self.training.train.resume_checkpoints, self.training.last_only)
        else:
            made: Any = self.optimizer
            made.state_dict()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        whole, self.weights = self.weights, None  # the gathered weights are let go of once they are written
        super()._save(output_dir, whole if state_dict is None else state_dict)

    def stopped(self) -> bool:
        """Whether training ends after this step: all ranks agree."""
        return stopping.received() is not None if self.stop is None else bool(self.stop.item())

    def told(self) -> list[str]:
        """The last step, and the pass of the present one."""
        number, passes = self.passes
        return self.last + ([f"pass {number} of {passes} of the next"] if passes > 1 else [])

    def _check_finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            examples = f"{what} of step {step} is {value}, on {', '.join(self.ids)}"
            raise UserError(f"train: the {examples}; look at these examples, or lower train.learning_rate")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a step's row of the curve what it was made of and how fast it was, and tracks it."""
        if "loss" in logs:
            # Before such weights are saved: a run would go on from them. The first of a step that waits for the GPU.
            self._check_finite("loss", logs["loss"], self.state.global_step)
            self._check_finite("gradient norm", logs["grad_norm"], self.state.global_step)
            tokens, targets, positions = self.counts.values()
            logs |= {"tokens": tokens, "target_tokens": targets, "padding_share": 1 - tokens / positions}
            seconds, self.logged = time.monotonic() - self.logged, time.monotonic()
            logs |= {"tokens_per_second": tokens / seconds, "target_tokens_per_second": targets / seconds}
            self.share, self.last = 0.0, [f"loss {logs['loss']:.3g}", f"{logs['tokens_per_second']:,.0f} tokens/s"]
            # The most bytes that were in use at once: on the GPU, else by this process.
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            logs["peak_memory_gb"] = (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak) / 1e9
        super().log(logs, start_time)
        self.track_rows(self.state.log_history[-1:])

    def track_rows(self, rows: Iterable[dict[str, float]]) -> None:
        """Track those rows of a log history that are steps of the curve."""
        for row in rows:
            if "loss" in row:
                self.track({f"train/{name}": each for name, each in row.items() if name != "step"}, int(row["step"]))

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # ours are estimated before the start


class StepCallback(TrainerCallback):
    """Goes on with the curve of an earlier attempt, counts the steps, and ends training after a stop signal's step."""

    def __init__(self, trainer: CompletionTrainer, progress: Progress) -> None:
        self.trainer, self.progress = trainer, progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress.advance(state.global_step, before=True)
        self.trainer.track_rows(state.log_history)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        check()
        self.progress.advance()
        if self.trainer.stopped():
            control.should_save, control.should_training_stop = args.save_strategy != "no", True


def train(
    model: Any,
    tokenizer: Any,
    rows: list[TokenizedExample],
    steps: int,
    folder: Path,
    training: Training,
    track: Track,
    ranks: Ranks = ALONE,
) -> list[dict[str, float]]:
    """Train `model` for `steps`, with checkpoints in `folder`, from the newest whole one on; one row a step.

    Of several ranks the first alone writes. Raises `Stopped` when a stop signal came (a checkpoint is saved then),
    `UserError` when memory runs out, or when the loss is not a number.
    """
    recipe, first = training.train, ranks.number == 0
    by_length = recipe.batches is Batches.padded and recipe.group_by_length
    trainer = CompletionTrainer(
        EpochSampler(rows, recipe.batch_size, training.seed, by_length),
        training,
        track,
        ranks,
        model=model,
        args=_arguments(training, steps, folder, saves=first or ranks.sharded),
        train_dataset=rows,
        data_collator=StepCollator(recipe, tokenizer),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    newest = ranks.told(checkpoints.begun(folder, ranks.count) if first else None)
    if newest and newest.endswith(f"checkpoint-{steps}"):  # the Trainer would go one step beyond it
        trainer.state = TrainerState.load_from_json(f"{newest}/trainer_state.json")
        trainer.track_rows(trainer.state.log_history)
    else:
        tell = "%-16s %s: training ends after this step, with a checkpoint; a second signal leaves at once, without it"
        try:
            with (
                Progress("step", steps, trainer.told, lambda: trainer.share) as progress,
                stopping.landing(lambda number: log.info(tell, "train", number.name)),
            ):
                trainer.add_callback(StepCallback(trainer, progress))
                # Ranks take slices of a checkpoint's file: mapped, it is in memory once for all of them.
                with loading.patch("load.mmap", ranks.sharded):  # pyright: ignore[reportAttributeAccessIssue]
                    trainer.train(resume_from_checkpoint=newest)
        except torch.OutOfMemoryError as error:
            smaller = "row_tokens" if recipe.batches is Batches.packed else "micro_batch_size"
            less = f"lower train.{smaller}, or train.activation_checkpointing=true"
            raise UserError(f"train: out of memory at step {trainer.state.global_step + 1}: {less}") from error
        if trainer.stopped():
            number = stopping.received() or signal.SIGTERM  # which another rank has got
            at = f"stopped by {number.name} after step {trainer.state.global_step} of {steps}"
            raise stopping.Stopped(f"train: {at}, and a checkpoint saved")
    return [row for row in trainer.state.log_history if "loss" in row]


def _arguments(training: Training, steps: int, folder: Path, *, saves: bool) -> TrainingArguments:
    recipe = training.train
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=recipe.batch_size,  # a step's examples; `StepCollator` makes its passes
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        optim=recipe.optimizer,
        weight_decay=recipe.weight_decay,
        adam_beta2=recipe.adam_beta2,
        max_grad_norm=recipe.max_grad_norm,
        bf16=training.computation.precision is Precision.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=training.seed,
        save_strategy="steps" if saves else "no",
        save_steps=recipe.save_steps,
        logging_steps=1,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,  # ours also counts without a terminal
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # else the Trainer spreads one process over all cards it sees
    return arguments
