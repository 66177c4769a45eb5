"""The protocol of models, and the one base class: a LightningModule that trains a model on examples."""

import random
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import lightning
import torch
from torch import Tensor

from personae.data.candidates import Draw, Sides
from personae.metrics.calibration import Calibration
from personae.metrics.compare import Interval
from personae.tasks.averaging import Average
from personae.tasks.optimization import Optimization
from personae.types import Dialogue, Example, InputError


class Model(Protocol):
    """What every model does. `collate` is its one input builder: in training, evaluation and serving alike."""

    def collate(self, examples: Sequence[Example]) -> Any:
        """Examples as the model's input: something with `to(device)`."""
        ...


@dataclass(frozen=True)
class Batch:
    """Examples, what the model makes of them, and the place in training, counted over all epochs."""

    examples: Sequence[Example]
    inputs: Any
    number: int = 0

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return replace(self, inputs=self.inputs.to(device))


class Batches:
    """The batches of one epoch after another, and a place among them that a checkpoint can keep.

    `plan(epoch)` gives the examples of each batch and depends on nothing but the epoch, so that training which is
    interrupted goes on with the very batches that were left. Of several processes, each takes every so-manieth batch.
    """

    def __init__(
        self,
        plan: Callable[[int], Sequence[Sequence[Example]]],
        collate: Callable[[Sequence[Example]], Any],
        *,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.plan, self.collate, self.rank, self.processes = plan, collate, rank, processes
        self.epoch, self.done = 0, 0
        self._length = len(plan(0)) // processes

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        batches = self.plan(self.epoch)[self.rank :: self.processes][: len(self)]
        for examples in batches[self.done :]:
            number = self.epoch * len(self) + self.done
            self.done += 1
            if self.done == len(self):  # said before the last batch is out: who counts batches asks for no further one
                self.epoch, self.done = self.epoch + 1, 0
            yield Batch(examples, self.collate(examples), number)

    def state_dict(self) -> dict[str, int]:
        """The place: this epoch, and the batches of it that were given out."""
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a place."""
        self.epoch, self.done = state["epoch"], state["done"]


class Lazily(Sequence[Batch]):
    """Batches that are collated each time they are read."""

    def __init__(self, examples: Sequence[Sequence[Example]], collate: Any) -> None:
        self.examples, self.collate = examples, collate

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        return Batch(self.examples[index], self.collate(self.examples[index]))


def bucketed(
    units: Sequence[Sequence[Example]],
    size: Callable[[Example], int],
    *,
    batch_size: int,
    seed: str,
    span: int = 64,
) -> list[list[Example]]:
    """Shuffled batches of examples that are alike in `size`: sorted within each `span` batches of the shuffled order,
    so that little is padded and the order stays random. A batch is closed when it has `batch_size` examples or more;
    those of a unit stay together, and the size of its last one counts."""
    order = random.Random(seed)
    shuffled = order.sample(units, len(units))
    batches: list[list[Example]] = []
    for chunk in _filled(shuffled, span * batch_size):
        alike = sorted(chunk, key=lambda unit: size(unit[-1]))
        batches += [[example for unit in batch for example in unit] for batch in _filled(alike, batch_size)]
    order.shuffle(batches)
    return batches


def _filled(units: Sequence[Sequence[Example]], room: int) -> list[list[Sequence[Example]]]:
    """The units in parts that have so many examples or just more, but for the last."""
    parts: list[list[Sequence[Example]]] = []
    left = 0
    for unit in units:
        if left <= 0:
            parts.append([])
            left = room
        parts[-1].append(unit)
        left -= len(unit)
    return parts


class Task(lightning.LightningModule):
    """Trains `model`.

    `steps` is how many there will be, infinite where that is not known before. Every batch draws from a generator
    seeded by `seed` and the batch's number, so that a resumed run draws the same. What is measured and kept is the mean
    of the weights over the steps, where `average` says so (`Average`). `calibration` makes probabilities of
    the scores of a model that is trained and calibrated.
    """

    monitor: str
    """The metric on "dev" that selects the best checkpoint; more is better."""

    def __init__(self, *, model: Model, batch_size: int, optimization: Optimization, average: float = 0.0) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"task: batch_size must be at least 1, not {batch_size}")
        self.model: Any = model  # a module too, with what its kind of task asks of it
        self.batch_size, self.optimization = batch_size, optimization
        self.seed = 0
        self.steps = float("inf")
        self.rows: list[Any] = []
        self.calibration: Calibration | None = None
        self.average = Average(average) if average else None

    @abstractmethod
    def cases(
        self, dialogues: Sequence[Dialogue], where: str, *, n: int = 20, seed: int = 0, sides: Sides = "second"
    ) -> tuple[list[Example], Draw | None]:
        """The examples of dialogues that came from `where`, which an InputError names: the replies of the second
        speaker, or both `sides`; and, where they have candidates, their draw, of `n` with `seed` where the dialogues
        have none."""

    @abstractmethod
    def prepare(self, dialogues: Sequence[Dialogue]) -> None:
        """Fits what is not trained by gradients (a vocabulary) on training dialogues."""

    @abstractmethod
    def batches(self, examples: Sequence[Example], *, rank: int = 0, processes: int = 1) -> Batches:
        """Training batches."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The scalar that training makes small."""

    def remember(self, examples: Sequence[Example]) -> None:
        """Shows the training examples to the trained model, where it is one that keeps something of them."""

    @abstractmethod
    def held_out(self, examples: Sequence[Example]) -> Sequence[Batch]:
        """Batches to measure on."""

    @abstractmethod
    def rows_of(self, batch: Batch) -> list[Any]:
        """The model's answers to a batch, a row an example, which has its `id`."""

    @abstractmethod
    def values(self, rows: Sequence[Any]) -> dict[str, float]:
        """Named metrics of the rows, among them what `monitor` names, but for what follows a "/" there."""

    @abstractmethod
    def measure(self, rows: Sequence[Any]) -> dict[str, Interval]:
        """Named metrics of the rows, with their intervals."""

    def beside(self, rows: Sequence[Any]) -> dict[str, Any]:
        """What must stand beside the metrics for them to be read, as JSON."""
        return {}

    def configure_optimizers(self) -> Any:
        """As `optimization` says."""
        return self.optimization.start(self.parameters(), steps=self.steps)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Makes the gradients as small as the trainer says, by norm or by value; Lightning refuses to where Adam is
        fused."""
        by_value = gradient_clip_algorithm == "value"
        clip = torch.nn.utils.clip_grad_value_ if by_value else torch.nn.utils.clip_grad_norm_
        if gradient_clip_val:
            clip(self.model.parameters(), gradient_clip_val)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds what is drawn for the batch, and takes the weights into their mean."""
        if self.average is not None:
            self.average.update(self._trained(), step=self.global_step)
        torch.manual_seed((self.seed << 32) + batch.number)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        loss = self.loss(batch)
        self.log("loss", loss, prog_bar=True, batch_size=len(batch.examples))
        return loss

    def on_validation_start(self) -> None:
        """Puts the mean of the weights in their place."""
        if self.average is not None:
            self.average.update(self._trained(), step=self.global_step)
            self.average.swap(self._trained())

    def on_validation_end(self) -> None:
        """Puts the weights back."""
        if self.average is not None:
            self.average.swap(self._trained())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the mean of the weights."""
        if self.average is not None:
            checkpoint["average"] = self.average.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the mean of the weights."""
        if self.average is not None:
            self.average.load_state_dict(checkpoint["average"])

    def on_train_start(self) -> None:
        """Puts the weights in their place where what was loaded has the mean there."""
        if self.average is not None and self.average.swapped:
            self.average.swap(self._trained())

    def _trained(self) -> list[Tensor]:
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def on_validation_epoch_start(self) -> None:
        """Forgets the rows of the last validation. InputError where the loss is no number any more."""
        self.rows = []
        loss = self.trainer.callback_metrics.get("loss")
        if loss is not None and not loss.isfinite():
            raise InputError(
                f"training diverged: the loss is {float(loss)} at step {self.global_step}; train anew, into another "
                "folder, at lower rates of task.optimization"
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keeps the rows of a batch."""
        self.rows += self.rows_of(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics."""
        values = self.values(self.rows)
        short = Counter(name.partition("/")[0] for name in values)
        for name, value in values.items():
            shorter = name.partition("/")[0]
            self.log(shorter if short[shorter] == 1 else name, value, prog_bar=True)
