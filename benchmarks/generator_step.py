"""One training step of a generator with a tensor: ours against an LSTM encoder-decoder written plainly.

The plain version is what one writes with `nn.LSTM`: sentences are padded, logits are of every position, and padding is
left out of the loss. Of two ways to give the encoder padded sentences the faster is taken: "packed", whose states are
right, and "padded", which reads the padding, so that its results are others. Its tensor is ours, and so are the vectors
of speakers, and the words of memories, summed by `embedding_bag`.

Timed are the forward pass, the backward pass and Adam's step; building the batch is not, on either side. Batches are
those of training, bucketed by size. Both sides have the same weights, type and threads and no dropout; every step
starts from the same weights. Each pair's losses and gradients are compared; those of "padded" cannot be equal, so that
the packed version answers for the plain one.
"""

import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import command
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.data.candidates import examples
from personae.nn.encoder_decoder import END, START, Sizes
from personae.nn.lstm import LSTM
from personae.nn.personalization import Factorization
from personae.nn.speakers import Speakers
from personae.nn.user_writer import Addressed, UserWriter
from personae.results import environment
from personae.tasks.base import bucketed
from personae.types import Dialogue, InputError

Reading = Literal["packed", "padded"]

MODELS = {"seq2seq": (False, 0), "speaker": (True, 0), "memory": (False, 10), "memory-speaker": (True, 10)}
"""Whether each has a vector beside every word, and how many memories it looks at."""


class Plain(nn.Module):
    """Encoder, attention, decoder and output, with the weights of `ours`."""

    def __init__(self, ours: UserWriter, reading: Reading) -> None:
        super().__init__()
        words, self.reading = ours.words, reading
        self.embedding = nn.Embedding.from_pretrained(words.weight.detach().clone(), freeze=False, padding_idx=None)
        self.bias = nn.Parameter(words.bias.detach().clone())
        self.encoder, self.decoder = _plain(words.encoder), _plain(words.decoder)
        self.look, self.output = _copy(words.look), _copy(words.output)
        self.remember = _copy(words.remember) if words.remember is not None else None
        self.speakers = ours.speakers.table if ours.speakers is not None else None
        assert ours.personal is not None
        self.personal, self.balance = ours.personal, ours.balance
        self.start = words.vocabulary[START]

    def loss(self, batch: Addressed, context: Tensor, lengths: Tensor) -> Tensor:
        """The mean negative log-likelihood of a word. The contexts (B, S) begin at the front here."""
        embedded = self.embedding(context)
        if self.reading == "packed":
            packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
            states, (hidden, cells) = self.encoder(packed)
            states, _ = nn.utils.rnn.pad_packed_sequence(states, batch_first=True)
        else:
            states, (hidden, cells) = self.encoder(embedded)
        own = self.balance * self.personal(batch.users, batch.questions, hidden[-1])
        start = (1 - self.balance) * hidden + own, (1 - self.balance) * cells + own
        reply = batch.texts.reply
        begun = self.embedding(torch.cat([reply.new_full((len(reply), 1), self.start), reply[:, :-1]], 1))
        if self.speakers is not None:
            begun = torch.cat([begun, self.speakers(batch.users)[:, None].expand(-1, begun.shape[1], -1)], 2)
        written, _ = self.decoder(begun, start)
        likeness = written @ self.look(states).transpose(1, 2)  # (B, T, S)
        likeness = likeness.masked_fill((context == 0)[:, None], -torch.inf)
        parts = [written, likeness.softmax(2) @ states]
        if batch.memories is not None and self.remember is not None:
            told, weights = batch.memories, self.embedding.weight
            bags = F.embedding_bag(told.words, weights, told.starts, mode="sum", per_sample_weights=told.weights)
            memories = bags.view(len(reply), -1, bags.shape[1])
            recalled = self.remember(written) @ memories.transpose(1, 2)  # (B, T, M)
            recalled = recalled.masked_fill(~memories.any(2)[:, None], -1e9)
            parts.append(recalled.softmax(2) @ memories)
        features = torch.tanh(self.output(torch.cat(parts, 2)))
        logits = F.linear(features, self.embedding.weight, self.bias)  # (B, T, V)
        return F.cross_entropy(logits.flatten(0, 1), reply.flatten(), ignore_index=0)


def _plain(lstm: LSTM) -> nn.LSTM:
    """An LSTM of torch with the same weights."""
    made = nn.LSTM(lstm.inputs[0].shape[1], lstm.hidden, len(lstm.inputs), batch_first=True)
    for layer, weights in enumerate(zip(lstm.inputs, lstm.recurrents, lstm.biases, strict=True)):
        for name, weight in zip(("weight_ih", "weight_hh", "bias_ih"), weights, strict=True):
            getattr(made, f"{name}_l{layer}").data.copy_(weight)
        getattr(made, f"bias_hh_l{layer}").data.zero_()
    return made


def _copy(linear: nn.Linear) -> nn.Linear:
    made = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None)
    made.load_state_dict(linear.state_dict())
    return made


class Side:
    """One of the two that are compared: a model, its optimizer, and the weights that every step starts from."""

    def __init__(self, model: UserWriter | Plain) -> None:
        self.model = model
        self.trained = list(model.parameters())
        self.first = [parameter.detach().clone() for parameter in self.trained]
        self.optimizer = torch.optim.Adam(self.trained, lr=1e-3, fused=True)

    def step(self, batch: Addressed, context: Tensor, lengths: Tensor) -> tuple[float, list[Tensor]]:
        """The seconds of a step, and what must be equal: the loss, then four gradients."""
        with torch.no_grad():
            for parameter, first in zip(self.trained, self.first, strict=True):
                parameter.copy_(first)
        start = time.perf_counter()
        self.optimizer.zero_grad()
        model = self.model
        loss = model.loss(batch) if isinstance(model, UserWriter) else model.loss(batch, context, lengths)
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - start, [loss.detach(), *(each.grad for each in self._compared())]

    def _compared(self) -> list[Any]:
        model = self.model
        if isinstance(model, UserWriter):
            words = model.words
            return [words.weight, words.encoder.recurrents[0], words.decoder.inputs[0], words.output.weight]
        return [
            model.embedding.weight,
            model.encoder.weight_hh_l0,
            model.decoder.weight_ih_l0,
            model.output.weight,
        ]


def equal(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    """Whether losses are the same to 0.0001 and gradients to a thousandth of their norm."""
    (loss, *gradients), (other, *others) = ours, theirs
    return bool((loss - other).abs() <= 1e-4) and all(
        bool((one - two).norm() <= 1e-3 * one.norm()) for one, two in zip(gradients, others, strict=True)
    )


def remembered(dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    """The dialogues with all that speaker 1 says in any of them as a history."""
    said: dict[str, list[str]] = {}
    for dialogue in dialogues:
        own = said.setdefault(dialogue.speakers[1].id, [])
        own += [turn.text for turn in dialogue.turns if turn.speaker == 1]
    return [
        replace(dialogue, speakers=(one, replace(other, history=tuple(said[other.id]))))
        for dialogue in dialogues
        for one, other in [dialogue.speakers]
    ]


def measure(
    dialogues: Sequence[Dialogue],
    *,
    model: str,
    hidden: int,
    width: int,
    cases: int,
    batches: int,
    runs: int,
    seed: int,
) -> dict[str, Any]:
    """The result that `--json` prints. InputError where the dialogues have too few examples."""
    torch.manual_seed(seed)
    speaks, memories = MODELS[model]
    writer = UserWriter(
        sizes=Sizes(hidden=hidden, width=width, dropout=0),
        speakers=Speakers(start="random") if speaks else None,
        memories=memories,
        tensor=Factorization(),
    )
    dialogues = remembered(dialogues)
    writer.prepare(dialogues)
    found = examples(dialogues)
    if len(found) < cases * batches:
        raise InputError(f"--cases, --batches: {cases * batches} are more than the file's {len(found)} examples")
    inputs = []
    for drawn in bucketed([[one] for one in found], writer.words.size, batch_size=cases, seed=str(seed))[:batches]:
        batch = writer.collate(drawn)
        rows = [row[row > 0] for row in batch.texts.context]
        context = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        inputs.append((batch, context, torch.tensor([len(row) for row in rows])))
    end = writer.words.vocabulary[END]
    padding = 1 - statistics.mean(float((batch.texts.reply > 0).float().mean()) for batch, *_ in inputs)
    assert all(int((batch.texts.reply == end).sum()) == len(batch.texts.names) for batch, *_ in inputs)
    ours, plain = Side(writer), {reading: Side(Plain(writer, reading)) for reading in get_args(Reading)}
    for side in (ours, *plain.values()):  # a first step allocates and picks kernels
        side.step(*inputs[0])
    times: dict[str, list[float]] = {name: [] for name in ("ours", *plain)}
    same = True
    for run in range(runs):
        for place, one in enumerate(inputs):
            seconds, results = ours.step(*one)
            others = {reading: side.step(*one) for reading, side in plain.items()}
            for name, spent in {"ours": seconds, **{reading: spent for reading, (spent, _) in others.items()}}.items():
                times[name].append(spent)
            same &= equal(results, others["packed"][1])
            print(
                f"run {run + 1}, batch {place + 1}:",
                {name: round(each[-1], 3) for name, each in times.items()},
                file=sys.stderr,
            )
    variants = {reading: statistics.median(times[reading]) for reading in plain}
    taken = min(variants, key=variants.__getitem__)
    ratios = [theirs / mine for mine, theirs in zip(times["ours"], times[taken], strict=True)]
    return {
        "what": f"a training step of {model} with a tensor, hidden {hidden}, on {cases} cases",
        "ratio": statistics.median(ratios),
        "ours": statistics.median(times["ours"]),
        "theirs": variants[taken],
        "unit": "seconds",
        "runs": runs,
        "equal": same,
        "machine": {**environment(torch.device("cpu")), "cores": os.cpu_count()},
        "ratios": ratios,
        "variants": variants,
        "taken": taken,
        "padding": padding,
    }


def _said(result: dict[str, Any]) -> str:
    return (
        f"{result['what']}: {result['ours']:.2f} s, plain, {result['taken']}, {result['theirs']:.2f} s, "
        f"{result['ratio']:.2f} times as fast; {'the same' if result['equal'] else 'OTHER'} loss and gradients"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its result; the exit code is 2 after a mistake of the user's."""
    parser = command.parser(__doc__ or "")
    parser.set_defaults(data="ubuntu_irc/conversations.jsonl", hidden=512)
    parser.add_argument("--model", choices=MODELS, default="seq2seq", help="of which generator")
    parser.add_argument("--width", type=command.positive, default=300, help="features of a word")
    parser.add_argument("--cases", type=command.positive, default=64, help="examples a batch")
    parser.add_argument("--batches", type=command.positive, default=5, help="different batches")
    return command.run(parser, arguments, measure, _said)


if __name__ == "__main__":
    sys.exit(main())
