"""The published algorithms, written plainly: what a user would write with `torch.nn.LSTM` or transformers.

Every token of every padded sentence is represented, every context utterance, candidate and persona line is encoded,
[a; a~; a - a~; a * a~] is laid side by side for every pair of context and candidate, and that is encoded again. They
are no straw men: sentences are padded to the batch's longest only, those that do not exist are left out, and of two
ways to give `nn.LSTM` padded sentences and get the right answer, the faster can be taken. Their weights are those of
our models, so that both sides have to answer alike.

Letters: B cases, N candidates, M sentences of U words, R words of a reply, P persona lines, K sentences that exist, H
hidden units a direction.
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from personae.models.selection.bert import BERT
from personae.models.selection.dim import DIM
from personae.models.selection.hre import HRE
from personae.models.selection.imn import IMN
from personae.nn.cross_encoder import Passes
from personae.nn.dialogue_batch import DialogueBatch
from personae.nn.recurrent import BiLSTM
from personae.nn.words import Sentences

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
            packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
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
        steps = torch.arange(int(lengths.max()) if lengths.numel() else 0, device=chosen.device)
        there = steps < lengths[:, :, None]
        word = sentences.words[torch.where(there, sentences.starts[place][:, :, None] + steps, 0)]
        numbers, characters = sentences.numbers[word], sentences.characters[word]
        return cls(numbers.where(there, 0), characters.where(there[:, :, :, None], 0), lengths)

    @property
    def within(self) -> Tensor:
        """Which places hold a word: (B, K, T)."""
        return torch.arange(self.numbers.shape[2], device=self.lengths.device) < self.lengths[:, :, None]


class PlainMatcher(nn.Module):
    """HRE, IMN or DIM with one persona or none, step for step as published."""

    def __init__(self, ours: HRE | IMN | DIM, reading: Reading) -> None:
        super().__init__()
        self.name = type(ours).__name__
        self.sentence, self.hidden = PlainBiLSTM(ours.sentence, reading), ours.sentence.hidden
        self.words = copy.deepcopy(ours.words)
        self.classifier = copy.deepcopy(ours.classifier)
        assert ours.utterances is not None
        self.utterances = PlainBiLSTM(ours.utterances, reading)
        if not isinstance(ours, HRE):
            self.matching = PlainBiLSTM(ours.matching, reading)
        self.fusion = None if isinstance(ours, DIM) else copy.deepcopy(ours.fusion)
        self.lines = copy.deepcopy(ours.lines) if isinstance(ours, DIM) else None

    @staticmethod
    def inputs(batch: DialogueBatch) -> list[Padded]:
        """What `score` takes: context, candidates, and the persona if there is one."""
        return [Padded.of(batch, part) for part in (batch.context, batch.candidates, *batch.personas)]

    def score(self, context: Padded, candidates: Padded, *personas: Padded) -> Tensor:
        """Logits (B, N)."""
        number = candidates.numbers.shape[1]
        b = self._encoded(candidates)  # (B, N, R, 2H)
        encoded = pooled(b.flatten(0, 1), candidates.lengths.flatten()).unflatten(0, (-1, number))  # (B, N, 4H)
        if self.name == "HRE":
            said = self._sentences(context)  # (B, M, 4H)
            whole = self._aggregated(said, context.lengths > 0)[:, None].expand_as(encoded)
            response = encoded
        else:
            said, response = self._matched(context, candidates, b)
            there = (context.lengths > 0).repeat_interleave(number, 0)
            whole = self._aggregated(said.flatten(0, 1), there).view_as(response)
        parts = [whole, response]
        if self.fusion is not None:
            (persona,) = personas
            parts[1:1] = self.fusion([(self._sentences(persona), persona.lengths > 0)], whole, encoded)
        for pooling, persona in zip(self.lines or (), personas, strict=self.lines is not None):
            lines, answer = self._matched(persona, candidates, b)
            there = (persona.lengths > 0)[:, None].expand(-1, number, -1)
            parts += [pooling(lines, there), answer]
        scores: Tensor = self.classifier.output(torch.relu(self.classifier.hidden(torch.cat(parts, 2)))).squeeze(2)
        return scores

    def _matched(self, chosen: Padded, candidates: Padded, b: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen sentences (B, N, M, 4H) and the candidates (B, N, 4H) after cross-attention."""
        cases, most, _ = chosen.numbers.shape
        number = b.shape[1]
        a = self._encoded(chosen).flatten(1, 2)  # (B, M * U, 2H)
        similarity = a[:, None] @ b.transpose(2, 3)  # (B, N, M * U, R)
        of_chosen, of_reply = chosen.within.view(cases, 1, -1, 1), candidates.within[:, :, None]
        a_seen = similarity.masked_fill(~of_reply, -1e9).softmax(3) @ b  # (B, N, M * U, 2H)
        b_seen = similarity.masked_fill(~of_chosen, -1e9).softmax(2).transpose(2, 3) @ a[:, None]  # (B, N, R, 2H)
        kept = (chosen.lengths > 0)[:, None].expand(-1, number, -1)
        a = a.unflatten(1, (most, -1))[:, None].expand(-1, number, -1, -1, -1)[kept]  # (K, U, 2H)
        a_seen = a_seen.unflatten(2, (most, -1))[kept]
        lengths = chosen.lengths[:, None].expand(-1, number, -1)[kept]
        states = self.matching(torch.cat([a, a_seen, a - a_seen, a * a_seen], 2), lengths)
        sentences = states.new_zeros(cases, number, most, 2 * states.shape[2])
        sentences[kept] = pooled(states, lengths)
        b, b_seen, lengths = b.flatten(0, 1), b_seen.flatten(0, 1), candidates.lengths.flatten()
        states = self.matching(torch.cat([b, b_seen, b - b_seen, b * b_seen], 2), lengths)
        return sentences, pooled(states, lengths).unflatten(0, (cases, number))

    def _aggregated(self, said: Tensor, there: Tensor) -> Tensor:
        """Contexts (S, 4H) of their utterances (S, M, 4H)."""
        lengths = there.sum(1)
        return pooled(self.utterances(said, lengths), lengths)

    def _sentences(self, padded: Padded) -> Tensor:
        """Each sentence as one vector, (B, K, 4H); zeros for one that does not exist."""
        there = padded.lengths > 0
        states = self._encoded(padded)
        vectors = states.new_zeros(*there.shape, 2 * states.shape[3])
        if there.any():
            vectors[there] = pooled(states[there], padded.lengths[there])
        return vectors

    def _encoded(self, padded: Padded) -> Tensor:
        """Hidden states (B, K, T, 2H) of every word; zeros for a sentence that does not exist."""
        there = padded.lengths > 0
        numbers = padded.numbers[there]
        tokens = numbers.flatten()  # our parts make the vectors, but for every token
        states = padded.numbers.new_zeros(*padded.numbers.shape, 2 * self.hidden).float()
        if len(tokens):
            vectors = self.words(Sentences(tokens, padded.characters[there].flatten(0, 1), tokens, tokens, tokens))
            encoded = self.sentence(vectors.unflatten(0, numbers.shape), padded.lengths[there])
            states = states.to(encoded.dtype)
            states[there] = encoded
        return states


def pooled(states: Tensor, lengths: Tensor) -> Tensor:
    """Max over time and the state in which each direction ends: (S, T, 2H) to (S, 4H)."""
    hidden = states.shape[2] // 2
    beyond = torch.arange(states.shape[1], device=states.device) >= lengths[:, None]
    greatest = states.masked_fill(beyond[:, :, None], -torch.inf).amax(1)
    last = states[torch.arange(len(states), device=states.device), lengths - 1, :hidden]
    return torch.cat([greatest, last, states[:, 0, hidden:]], 1)


class PlainBERT(nn.Module):
    """BERT with transformers' module: every candidate of a case with its context in one batch, padded to its longest,
    a case after the other."""

    def __init__(self, ours: BERT) -> None:
        super().__init__()
        self.backbone, self.subtypes = ours.encoder.backbone, ours.encoder.subtypes
        self.output = ours.judge.output

    @staticmethod
    def inputs(batch: Passes) -> list[list[dict[str, Tensor]]]:
        """For each case, for each of its passes, the tokens (N, L), segments, subtypes and mask."""
        sequences = batch.sequences
        lengths = torch.tensor(sequences.lengths)
        cases = []
        for case in range(batch.places.shape[1]):
            case_passes = []
            for place in batch.places[:, case]:
                longest = int(lengths[place].max())
                kinds = sequences.kinds[place, :longest]
                case_passes.append(
                    {
                        "tokens": sequences.distinct[sequences.tokens[place, :longest]],
                        "segments": kinds.clamp(min=0) % 2,
                        "subtypes": kinds.clamp(min=0) // 2,
                        "mask": (kinds >= 0).long(),
                    }
                )
            cases.append(case_passes)
        return cases

    def score(self, *cases: list[dict[str, Tensor]]) -> Tensor:
        """Logits (B, N)."""
        return torch.stack([self._case(case) for case in cases])

    def _case(self, passes: list[dict[str, Tensor]]) -> Tensor:
        features = []
        for given in passes:
            embedded = self.backbone.embeddings.word_embeddings(given["tokens"])
            if self.subtypes is not None:
                embedded = embedded + self.subtypes(given["subtypes"])
            output: Any = self.backbone(
                inputs_embeds=embedded, token_type_ids=given["segments"], attention_mask=given["mask"]
            )
            features.append(output.pooler_output)
        return self.output(torch.cat(features, 1)).squeeze(1)
