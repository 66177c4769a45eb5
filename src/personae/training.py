"""What training asks of Lightning's trainer, and of the system, as scoring does; the loop itself."""

import ctypes
import platform
import warnings
from collections.abc import Sequence

import lightning
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar, RichProgressBar, Timer

from personae import checkpoint
from personae.tasks.base import Batch, Batches, Task
from personae.types import InputError


def steps(trainer: lightning.Trainer, batches: int) -> float:
    """How many steps training will take, infinite where only time ends it. InputError where it would never validate,
    or learn nothing."""
    most = trainer.limit_train_batches
    length = min(most, batches) if isinstance(most, int) else int(most * batches)
    interval = getattr(trainer, "val_check_interval", None)  # missing where it is a time
    every = trainer.check_val_every_n_epoch  # None where batches are counted across epochs
    if every and isinstance(interval, int) and interval > length:
        raise InputError(f"trainer.val_check_interval: {interval} is more than the {length} batches of an epoch")
    epoch = -(-length // trainer.accumulate_grad_batches)
    if not trainer.limit_val_batches:
        raise InputError("trainer.limit_val_batches: 0 leaves nothing to select the best weights on; give at least 1")
    limits = (trainer.max_steps, epoch * (-1 if trainer.max_epochs is None else trainer.max_epochs))
    found = min((limit for limit in limits if limit >= 0), default=float("inf"))
    if not found:
        raise InputError("trainer: max_epochs, max_steps or limit_train_batches is 0, so that nothing would be learnt")
    if interval is not None:
        batch = interval if isinstance(interval, int) else max(1, int(length * interval))
        first = ((every or 1) - 1) * epoch + -(-batch // trainer.accumulate_grad_batches)
        if found < first:
            raise InputError(
                f"trainer: training ends after {found} steps, before dev is measured for the first time, after "
                f"{first}; make it longer, or val_check_interval or check_val_every_n_epoch smaller"
            )
    return found


def keep_memory() -> None:
    """Tells glibc not to return large blocks to the system at once: every step, and every batch that is scored, asks
    for the same ones again."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: take them from the heap
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: keep up to two gigabytes


def loop(
    trainer: lightning.Trainer,
    task: Task,
    batches: Batches,
    held_out: Sequence[Batch],
    keeper: checkpoint.Keeper,
    *,
    patience: int | None,
    resume: bool,
) -> None:
    """Trains `task` on `batches`, measured on `held_out`, while `keeper` keeps its states, from the last of which it
    goes on with `resume`. It ends after `patience` validations without a better one. InputError where the state kept is
    of another model."""
    callbacks = [callback for callback in trainer.callbacks if not isinstance(callback, ProgressBar)]  # type: ignore[attr-defined]
    if patience is not None:
        callbacks.append(EarlyStopping(task.monitor, mode="max", patience=patience, check_on_train_epoch_end=False))
    shown = [Progress()] if trainer.progress_bar_callback is not None else []
    trainer.callbacks = [*shown, *callbacks, keeper]  # type: ignore[attr-defined]
    trainer.strategy.checkpoint_io = checkpoint.SafeCheckpointIO()
    with checkpoint.interruptible(keeper), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # between Lightning and torch
        try:
            trainer.fit(task, batches, held_out, ckpt_path=keeper.last if resume else None)
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            raise InputError(f"{keeper.last}: was not kept by a run of this recipe: {error}") from None


def out_of_time(trainer: lightning.Trainer) -> bool:
    """Whether `max_time` ended training."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    return any((timer.time_remaining() or 0) <= 0 for timer in timers)


class Progress(RichProgressBar):
    """Lightning's progress bar, on standard error."""

    def __init__(self) -> None:
        super().__init__(console_kwargs={"stderr": True})

    def _get_train_description(self, current_epoch: int) -> str:
        """Lightning's, which takes the number of epochs for one where it is -1, without end."""
        return super()._get_train_description(current_epoch).replace("/-2", "")
