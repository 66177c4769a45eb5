"""One training step of IMN with 20 candidates: ours against the published algorithm written plainly.

The plain version represents every token of every padded sentence, encodes every context utterance, candidate and
persona line with `torch.nn.LSTM`, lays [a; a~; a - a~; a * a~] side by side for every pair of context and candidate,
and encodes that again. It is no straw man: sentences are padded to the batch's longest only, those that do not exist
are left out, and of two ways to give `nn.LSTM` padded sentences and get the right answer, the faster is taken.

Timed are the forward pass, the backward pass and Adam's step; building the batch is not, on either side. Batches are
drawn at random, not bucketed. Both sides have the same weights, type and threads and no dropout. Every step starts from
the same weights, and each pair's scores, and the gradients of four parameters, are compared.
"""

import argparse
import copy
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from personae.data.candidates import examples, offered
from personae.data.read import read
from personae.models.selection.imn import IMN
from personae.nn.dialogue_batch import DialogueBatch
from personae.nn.persona_fusion import Fusion
from personae.nn.recurrent import BiLSTM
from personae.nn.words import Sentences, Words
from personae.results import environment
from personae.tasks.selection import texts
from personae.text import Vocabulary, words
from personae.types import Dialogue, InputError

Reading = Literal["packed", "reversed"]


class PlainBiLSTM(nn.Module):
    """A bidirectional LSTM layer for padded sequences (S, T, width), with the weights of one of ours. Padding must not
    reach the backward direction: either torch packs the sequences, or they are reversed, each by its own length, and
    given to a second layer."""

    def __init__(self, ours: BiLSTM, reading: Reading) -> None:
        super().__init__()
        width, hidden = ours.input.shape[1], ours.hidden
        self.layers = nn.ModuleList(
            [nn.LSTM(width, hidden, batch_first=True, bidirectional=True)]
            if reading == "packed"
            else [nn.LSTM(width, hidden, batch_first=True) for _ in range(2)]
        )
        inputs, biases = ours.input.chunk(2), ours.bias.chunk(2)
        for direction, (layer, end) in enumerate(self._directions()):
            getattr(layer, "weight_ih_l0" + end).data.copy_(inputs[direction])
            getattr(layer, "weight_hh_l0" + end).data.copy_(ours.recurrent[direction])
            getattr(layer, "bias_ih_l0" + end).data.copy_(biases[direction])
            getattr(layer, "bias_hh_l0" + end).data.zero_()

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states (S, T, 2H), arbitrary beyond a sequence's end."""
        if len(self.layers) == 1:
            packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
            return pad_packed_sequence(self.layers[0](packed)[0], batch_first=True, total_length=inputs.shape[1])[0]
        steps = torch.arange(inputs.shape[1], device=inputs.device)
        turned = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)[:, :, None]  # (S, T, 1)
        forth = self.layers[0](inputs)[0]
        back = self.layers[1](inputs.gather(1, turned.expand_as(inputs)))[0]
        return torch.cat([forth, back.gather(1, turned.expand_as(back))], 2)

    def gradients(self) -> list[Tensor]:
        """Those of the input and the recurrent weights, in the layout of ours."""
        ends = self._directions()
        return [
            torch.cat([getattr(layer, "weight_ih_l0" + end).grad for layer, end in ends]),
            torch.stack([getattr(layer, "weight_hh_l0" + end).grad for layer, end in ends]),
        ]

    def _directions(self) -> list[tuple[nn.Module, str]]:
        return [(self.layers[0], ""), (self.layers[-1], "_reverse" if len(self.layers) == 1 else "")]


@dataclass(frozen=True)
class Padded:
    """Sentences of one kind, K a case: `numbers` (B, K, T) and `characters` (B, K, T, 18) of their words, `lengths`
    (B, K), 0 where there is no sentence."""

    numbers: Tensor
    characters: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, batch: DialogueBatch, chosen: Tensor) -> "Padded":
        """The `chosen` sentences (B, K) of a batch, padded to the longest of them."""
        sentences, place = batch.sentences, chosen.clamp(min=0).long()
        lengths = torch.where(chosen >= 0, sentences.lengths[place], 0)
        steps = torch.arange(int(lengths.max()) if lengths.numel() else 0)
        there = steps < lengths[:, :, None]
        word = sentences.words[torch.where(there, sentences.starts[place][:, :, None] + steps, 0)]
        numbers, characters = sentences.numbers[word], sentences.characters[word]
        return cls(numbers.where(there, 0), characters.where(there[:, :, :, None], 0), lengths)


class PlainIMN(nn.Module):
    """The same network, step for step as published. B cases, N candidates, M utterances of U words, R words of a reply,
    P persona lines, K sentences that exist, H hidden units a direction."""

    def __init__(self, ours: IMN, reading: Reading) -> None:
        super().__init__()
        self.sentence = PlainBiLSTM(ours.sentence, reading)
        self.matching = PlainBiLSTM(ours.matching, reading)
        self.utterances = PlainBiLSTM(ours.utterances, reading)
        self.words = copy.deepcopy(ours.words)
        self.fusion = copy.deepcopy(ours.fusion)
        self.classifier = copy.deepcopy(ours.classifier)

    def score(self, context: Padded, candidates: Padded, persona: Padded) -> Tensor:
        """Logits (B, N)."""
        cases, most, _ = context.numbers.shape
        number = candidates.numbers.shape[1]
        spoken, told = context.lengths > 0, persona.lengths > 0
        a = self._encoded(context).flatten(1, 2)  # (B, M * U, 2H)
        b = self._encoded(candidates)  # (B, N, R, 2H)
        similarity = a[:, None] @ b.transpose(2, 3)  # (B, N, M * U, R)
        of_context, of_reply = _within(context).view(cases, 1, -1, 1), _within(candidates)[:, :, None]
        a_seen = similarity.masked_fill(~of_reply, -1e9).softmax(3) @ b  # (B, N, M * U, 2H)
        b_seen = similarity.masked_fill(~of_context, -1e9).softmax(2).transpose(2, 3) @ a[:, None]  # (B, N, R, 2H)

        kept = spoken[:, None].expand(-1, number, -1)
        a = a.unflatten(1, (most, -1))[:, None].expand(-1, number, -1, -1, -1)[kept]  # (K, U, 2H)
        a_seen = a_seen.unflatten(2, (most, -1))[kept]
        lengths = context.lengths[:, None].expand(-1, number, -1)[kept]
        matched = self.matching(torch.cat([a, a_seen, a - a_seen, a * a_seen], 2), lengths)
        utterances = matched.new_zeros(cases, number, most, 2 * matched.shape[2])
        utterances[kept] = _pooled(matched, lengths)
        lengths = spoken.sum(1).repeat_interleave(number)
        encoded = _pooled(self.utterances(utterances.flatten(0, 1), lengths), lengths).unflatten(0, (cases, number))

        b, b_seen, lengths = b.flatten(0, 1), b_seen.flatten(0, 1), candidates.lengths.flatten()
        matched = self.matching(torch.cat([b, b_seen, b - b_seen, b * b_seen], 2), lengths)
        response = _pooled(matched, lengths).unflatten(0, (cases, number))
        parts = [encoded, response]
        if self.fusion is not None:
            vectors = response.new_zeros(*told.shape, response.shape[2])  # (B, P, 4H)
            if told.any():
                vectors[told] = _pooled(self._encoded(persona)[told], persona.lengths[told])
            parts[1:1] = self.fusion([(vectors, told)], encoded, _pooled(b, lengths).view_as(response))
        scores: Tensor = self.classifier.output(torch.relu(self.classifier.hidden(torch.cat(parts, 2)))).squeeze(2)
        return scores

    def _encoded(self, padded: Padded) -> Tensor:
        """Hidden states (B, K, T, 2H) of every word; zeros for a sentence that does not exist."""
        there = padded.lengths > 0
        numbers = padded.numbers[there]
        tokens = numbers.flatten()  # our parts make the vectors, but for every token
        vectors = self.words(Sentences(tokens, padded.characters[there].flatten(0, 1), tokens, tokens, tokens))
        encoded = self.sentence(vectors.unflatten(0, numbers.shape), padded.lengths[there])
        states: Tensor = encoded.new_zeros(*padded.numbers.shape, encoded.shape[2])
        states[there] = encoded
        return states


def _within(padded: Padded) -> Tensor:
    """Which places hold a word: (B, K, T)."""
    return torch.arange(padded.numbers.shape[2]) < padded.lengths[:, :, None]


def _pooled(states: Tensor, lengths: Tensor) -> Tensor:
    """Max over time and the state in which each direction ends: (S, T, 2H) to (S, 4H)."""
    hidden = states.shape[2] // 2
    beyond = torch.arange(states.shape[1]) >= lengths[:, None]
    greatest = states.masked_fill(beyond[:, :, None], -torch.inf).amax(1)
    last = states[torch.arange(len(states)), lengths - 1, :hidden]
    return torch.cat([greatest, last, states[:, 0, hidden:]], 1)


class Side:
    """One of the two that are compared: a model, its optimizer, and the weights that every step starts from."""

    def __init__(self, model: IMN | PlainIMN) -> None:
        self.model = model
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.first = [parameter.detach().clone() for parameter in self.trained]
        self.optimizer = torch.optim.Adam(self.trained, lr=1e-3)

    def step(self, batch: DialogueBatch, plain: Sequence[Padded]) -> tuple[float, list[Tensor]]:
        """The seconds of a step, and what must be equal: the scores, then four gradients."""
        with torch.no_grad():
            for parameter, first in zip(self.trained, self.first, strict=True):
                parameter.copy_(first)
        start = time.perf_counter()
        self.optimizer.zero_grad()
        scores = self.model.score(batch) if isinstance(self.model, IMN) else self.model.score(*plain)
        nn.functional.cross_entropy(scores, batch.target).backward()
        self.optimizer.step()
        return time.perf_counter() - start, [scores.detach(), *self._gradients()]

    def _gradients(self) -> list[Tensor]:
        model, found = self.model, [self.model.words.spelling.weight.grad, self.model.classifier.hidden.weight.grad]
        if isinstance(model, IMN):
            found += [model.matching.input.grad, model.matching.recurrent.grad]
        else:
            found += model.matching.gradients()
        return [gradient for gradient in found if gradient is not None]


def equal(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    """Whether scores are the same to 0.0001 and gradients to a thousandth of their norm."""
    (scores, *gradients), (others, *other_gradients) = ours, theirs
    return bool((scores - others).abs().max() <= 1e-4) and all(
        bool((one - other).norm() <= 1e-3 * one.norm()) for one, other in zip(gradients, other_gradients, strict=True)
    )


def measure(
    dialogues: Sequence[Dialogue], *, hidden: int, cases: int, batches: int, runs: int, fusion: Fusion, seed: int
) -> dict[str, Any]:
    """The result that `--json` prints. InputError where the dialogues have too few examples."""
    torch.manual_seed(seed)
    vectors = Words(dropout=0)
    vectors.set_extra_state(
        {"vocabulary": Vocabulary.of([words(text) for text in texts(dialogues)]).words[2:], "unseen": []}
    )
    vectors.table.normal_()  # what they say does not matter to the speed
    model = IMN(words=vectors, fusion=fusion, hidden=hidden, dropout=0)
    found = examples(offered(dialogues)[0])
    if len(found) < cases:
        raise InputError(f"--cases: {cases} are more than the file's {len(found)} examples: ask for fewer")
    drawn = random.Random(seed)
    inputs = []
    for _ in range(batches):
        batch = model.collate(drawn.sample(found, cases))
        inputs.append((batch, [Padded.of(batch, part) for part in (batch.context, batch.candidates, *batch.personas)]))

    ours, plain = Side(model), {reading: Side(PlainIMN(model, reading)) for reading in get_args(Reading)}
    for side in (ours, *plain.values()):  # a first step allocates and picks kernels
        side.step(*inputs[0])
    tried = [{reading: side.step(*inputs[0])[0] for reading, side in plain.items()} for _ in range(2)]
    variants = {reading: min(seconds[reading] for seconds in tried) for reading in plain}
    print("plain:", *(f"{reading} {seconds:.2f} s" for reading, seconds in variants.items()), file=sys.stderr)
    theirs = plain[min(variants, key=variants.__getitem__)]
    pairs, same = [], True
    for run in range(runs):
        for place, one in enumerate(inputs):
            (a, results), (b, others) = ours.step(*one), theirs.step(*one)
            pairs.append((a, b))
            same &= equal(results, others)
            print(f"run {run + 1}, batch {place + 1}: {a:.2f} s, plain {b:.2f} s", file=sys.stderr)
    return {
        "what": f"a training step of IMN, fusion {fusion}, hidden {hidden}, on {cases} cases",
        "ratio": statistics.median(b / a for a, b in pairs),
        "ours": statistics.median(a for a, _ in pairs),
        "theirs": statistics.median(b for _, b in pairs),
        "unit": "seconds",
        "runs": runs,
        "equal": same,
        "machine": {**environment(torch.device("cpu")), "cores": os.cpu_count()},
        "ratios": [b / a for a, b in pairs],
        "variants": variants,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its result; the exit code is 2 after a mistake of the user's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hidden", type=_positive, default=200, help="hidden units a direction")
    parser.add_argument("--cases", type=_positive, default=16, help="examples a batch")
    parser.add_argument("--batches", type=_positive, default=5, help="different batches")
    parser.add_argument("--runs", type=_positive, default=3, help="steps on each batch, each side in turn")
    parser.add_argument("--threads", type=_positive, default=1, help="threads of torch; 1 is steady on a busy machine")
    parser.add_argument("--fusion", choices=get_args(Fusion), default="ra", help="persona fusion")
    parser.add_argument("--data", default="personachat/valid_both_original.txt", help="here or below PERSONAE_DATA")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = vars(parser.parse_args(arguments))
    as_json = options.pop("json")
    torch.set_num_threads(options.pop("threads"))
    try:
        result = measure(read(options.pop("data")), **options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if as_json:
        print(json.dumps(result))
    else:
        print(
            f"{result['what']}: {result['ours']:.2f} s, plain {result['theirs']:.2f} s, {result['ratio']:.2f} times as "
            f"fast; {'the same' if result['equal'] else 'OTHER'} scores and gradients"
        )
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
