"""Lightning checkpoints without pickle: one safetensors file, whose metadata holds everything that is no tensor as
JSON; the callback that writes them; weights taken from another run; what Ctrl-C does to training; and that a run is
trained once at a time."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning
from filelock import FileLock, Timeout
from lightning.fabric.plugins import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from personae.data import lines
from personae.tasks.base import Task
from personae.types import InputError


def save(content: Any, path: Path) -> None:
    """Writes nested dicts, lists and tuples of tensors, numbers, strings and None. The file is complete or
    untouched."""
    tensors: dict[str, Tensor] = {}
    structure = _encode(content, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    with lines.whole(path) as file:
        file.write(to_bytes(tensors, metadata={"structure": json.dumps(structure)}))


def load(path: Path) -> Any:
    """Reads what `save` wrote. InputError where the file is missing, cut off or of another kind."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return _decode(json.loads(file.metadata()["structure"]), tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a checkpoint, it is missing or damaged ({error})") from None


def _encode(content: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(content, Tensor):
        name = str(len(tensors))
        tensors[name] = content.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(content, Mapping):
        return {"dict": [[_encode(part, tensors) for part in item] for item in content.items()]}
    if isinstance(content, tuple):
        return {"tuple": [_encode(part, tensors) for part in content]}
    if isinstance(content, list):
        return [_encode(part, tensors) for part in content]
    if isinstance(content, Path):
        return str(content)
    if content is None or isinstance(content, bool | int | float | str):
        return content
    raise TypeError(f"a checkpoint cannot hold a {type(content).__name__}")


def _decode(structure: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(structure, list):
        return [_decode(part, tensors) for part in structure]
    if not isinstance(structure, dict):
        return structure
    (kind, parts) = next(iter(structure.items()))
    if kind == "tensor":
        return tensors[parts]
    if kind == "tuple":
        return tuple(_decode(part, tensors) for part in parts)
    return {_decode(key, tensors): _decode(value, tensors) for key, value in parts}


def inherit(model: nn.Module, other: nn.Module, where: str) -> None:
    """Copies the weights of another model that this one has too, by name and shape, and which words the trained ones
    are of. InputError, which names `where` the other is from, if there are none."""
    theirs, parts = dict(other.named_parameters()), dict(other.named_modules())
    for name, part in model.named_modules():
        take: Callable[[Any], None] | None = getattr(part, "inherit", None)
        if take is not None and type(parts.get(name)) is type(part):
            take(parts[name])
    own = dict(model.named_parameters())
    shared = [name for name, weight in own.items() if name in theirs and theirs[name].shape == weight.shape]
    if not shared:
        raise InputError(f"init_from: {where}: none of its weights has the name and the shape of one of this model")
    for name in shared:
        own[name].data.copy_(theirs[name].data)


class SafeCheckpointIO(CheckpointIO):
    """What Lightning writes and reads checkpoints with."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint."""
        save(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a checkpoint."""
        content: dict[str, Any] = load(Path(path))
        return content

    def remove_checkpoint(self, path: Any) -> None:
        """Deletes a checkpoint."""
        Path(path).unlink(missing_ok=True)


class Keeper(lightning.Callback):
    """Keeps the weights that are best on "dev", all of the training's state, to resume from, and the course of it."""

    def __init__(self, folder: Path, *, every: int, corpus: str) -> None:
        """`every` so many steps the state is kept; `corpus` is a digest of what is trained on."""
        self.last, self.best = folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / "best.safetensors"
        self.course = folder / "training.jsonl"
        self.steps: list[dict[str, Any]] = []
        self.every, self.corpus = every, corpus
        self.highest, self.step = float("-inf"), 0
        self.interrupted = False
        self.cpu_seconds, self._since = 0.0, time.process_time()

    @property
    def state_key(self) -> str:
        """The one name that its state is kept under."""
        return "Keeper"

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, its step, the processor time spent, the measurements, and the corpus's digest."""
        self.clock()
        return {
            "highest": self.highest,
            "step": self.step,
            "cpu_seconds": self.cpu_seconds,
            "steps": self.steps,
            "corpus": self.corpus,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a state. InputError where it is of a training on another corpus."""
        if state_dict.get("corpus") != self.corpus:
            raise InputError(
                f"{self.last}: the training or dev dialogues are not those with which this was kept; restore their "
                "files, or train anew"
            )
        self.highest, self.step, self.steps = state_dict["highest"], state_dict["step"], state_dict["steps"]
        self.cpu_seconds += state_dict["cpu_seconds"]

    def clock(self) -> None:
        """Adds the processor time since it was last called."""
        now = time.process_time()
        self.cpu_seconds, self._since = self.cpu_seconds + now - self._since, now

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stops at once where what is resumed had stopped for lack of patience, or of time."""
        impatient = any(stop.wait_count >= max(stop.patience, 1) for stop in trainer.early_stopping_callbacks)
        trainer.should_stop = trainer.should_stop or impatient

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Keeps the state now and then, and when interrupted, but not right before a validation, which will."""
        progress = trainer.fit_loop.epoch_loop.batch_progress
        done = (progress.total if trainer.check_val_every_n_epoch is None else progress.current).ready
        due = self.interrupted or trainer.global_step % self.every == 0
        before = trainer.val_check_batch  # a validation; None where it comes after some time, not after some batches
        if due and (before is None or done % int(before)):
            self._keep(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keeps the weights if they are the best, the state and the measurements."""
        assert isinstance(pl_module, Task)
        if trainer.sanity_checking:
            return
        self.clock()
        measured = {name: round(float(value), 5) for name, value in trainer.callback_metrics.items()}
        self.steps.append({"step": trainer.global_step, "cpu_seconds": round(self.cpu_seconds, 1), **measured})
        lines.save(map(json.dumps, self.steps), self.course)
        value = float(trainer.callback_metrics[pl_module.monitor])
        if value > self.highest:
            self.highest, self.step = value, trainer.global_step
            save(pl_module.model.state_dict(), self.best)
        self._keep(trainer)

    def _keep(self, trainer: lightning.Trainer) -> None:
        """Keeps the state, except amid the batches of one step, since a checkpoint holds no gradients. Raises
        KeyboardInterrupt where that was waited for."""
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if done % trainer.accumulate_grad_batches == 0 or done == trainer.num_training_batches:
            trainer.save_checkpoint(self.last, weights_only=False)
            if self.interrupted:
                raise KeyboardInterrupt


@contextmanager
def interruptible(keeper: Keeper) -> Iterator[None]:
    """At the first Ctrl-C the keeper keeps the state as soon as it can and raises KeyboardInterrupt; at the next it is
    raised at once."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: Any) -> None:
        if keeper.interrupted and callable(before):
            before(number, frame)
        keeper.interrupted = True

    if main and callable(before):
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
        if keeper.interrupted:  # with nothing left to train
            raise KeyboardInterrupt
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    finally:
        if main:  # Lightning leaves it ignored
            signal.signal(signal.SIGINT, before)


@contextmanager
def alone(lock: Path, busy: str) -> Iterator[None]:
    """Keeps files from being written by two commands at once. InputError, which says `busy`, where they are being
    written."""
    try:
        with FileLock(lock, timeout=0):
            try:
                yield
            finally:
                with suppress(OSError):  # gone with its folder, or of a system that keeps open files
                    lock.unlink()
    except Timeout:
        raise InputError(f"{busy}; wait for it, or stop it") from None
