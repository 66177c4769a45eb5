"""DGMN: ground the context in the persona, and the persona in the context, and let each reply word choose from both.

Xueliang Zhao, Chongyang Tao, Wei Wu, Can Xu, Dongyan Zhao, Rui Yan. A Document-grounded Matching Network for Response
Selection in Retrieval-based Chatbots. IJCAI 2019. https://arxiv.org/abs/1906.04362

Only the paper's abstract could be read. The rest follows https://github.com/Coldog2333/DGMN-pytorch, which is not the
authors' but names their code as its source: the layers and their order, attention that is scaled in encoding and
grounding, of words by an additive score with the bare context and by a dot product with what is grounded, the sizes
(300 features, 100 units of the additive score, 32 and 16 filters of 3 x 3 x 3, pooled by 3 x 3 x 3).

Differs from that code: words are represented as in HRE, and a layer makes `hidden` features of them; padding is never
attended to; the last utterance always has the same place; pooling rounds up, so that no word is left out; there is one
logit, not two. There, an utterance is replaced by what it finds in the document, here it is added, as it is the other
way round. A case's lines are the document's sentences.

Not stated there: dropout; a persona without lines is read as one empty line. Of the layers that compare words, the
first weights of products are positive, those of squared differences negative, so that they say how alike two words are;
with any signs, thousands of examples are spent on finding that out.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.attention import weighted
from personae.nn.dialogue_batch import DialogueBatch, Limits, gather, size
from personae.nn.matching import places
from personae.nn.objective import Objective
from personae.nn.words import Sentences, Words
from personae.types import Example, InputError, Whose


class DGMN(nn.Module):
    """Document-Grounded Matching Network. B cases, N candidates, M utterances of a context, P lines of a persona, S
    distinct sentences, D = `hidden`, F = `features`; C words of the longest utterance of a case, K of its longest line,
    R of all its candidates one after the other.

    `features` is what comparing a reply word with an utterance or line gives; `filters` are those of the first
    convolution, twice those of the second. With the persona "none", only the bare context is matched. Made for both
    personas, the context is grounded in each by itself, and each gives features of its own. Neither is in the paper."""

    scale = "logit"

    def __init__(
        self,
        *,
        words: Words | None = None,
        persona: Whose = "self",
        hidden: int = 300,
        features: int = 300,
        filters: int = 32,
        dropout: float = 0.2,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        for name, value, least in (("hidden", hidden, 1), ("features", features, 1), ("filters", filters, 2)):
            if value < least:
                raise InputError(f"task.model.{name}: {value} is not at least {least}")
        self.persona: Whose = persona
        self.personas = {"none": 0, "both": 2}.get(persona, 1)
        self.limits = limits
        self.words = words or Words()
        self.narrow = nn.Linear(self.words.width, hidden)
        self.encode = _Block(width=hidden)
        self.additive = _Additive(width=hidden)
        rooms = {"bare": limits.utterances, "grounded": limits.utterances, "lines": limits.lines}
        self.rooms = rooms if self.personas else {"bare": limits.utterances}  # for each kind of match
        self.ground = nn.ModuleDict({kind: _Block(width=hidden) for kind in self.rooms if kind != "bare"})
        self.compare = nn.ModuleDict({kind: _comparison(hidden, features) for kind in self.rooms})
        self.convolve = nn.ModuleDict({kind: _Convolutions(filters=filters) for kind in self.rooms})
        self.dropout = nn.Dropout(dropout)
        widths = {kind: filters // 2 * _pooled(room, limits.reply_words, features) for kind, room in self.rooms.items()}
        self.output = nn.Linear(widths["bare"] + self.personas * (sum(widths.values()) - widths["bare"]), 1)

    def prepare(self, texts: Iterable[str]) -> None:
        """Learns the vocabulary and the task's word vectors."""
        self.words.prepare(texts)

    def collate(self, examples: Sequence[Example]) -> DialogueBatch:
        """The model's input."""
        return gather(examples, self.words, whose=self.persona, limits=self.limits, personas=self.personas, blank=True)

    def size(self, example: Example) -> int:
        """The words of the context."""
        return size(example, self.words, self.limits)

    def score(self, batch: DialogueBatch) -> Tensor:
        """Logits (B, N), -inf where a case has fewer candidates."""
        sentences, there = batch.sentences, batch.candidates >= 0
        tokens, where, real = self._encoded(sentences)
        candidates = batch.candidates.clamp(min=0).flatten()
        lengths = sentences.lengths[candidates]  # (B * N,)
        in_cases = lengths.view_as(there).sum(1).tolist()
        replies = tokens[places(sentences, candidates)].split(in_cases)

        def by_case(chosen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
            said, count = chosen[chosen >= 0], (chosen >= 0).sum(1).tolist()
            for states, spelt in zip(tokens[where[said]].split(count), real[said].split(count), strict=True):
                longest = int(spelt.sum(1).max())
                yield states[:, :longest], spelt[:, :longest]  # (M, C, D) and (M, C)

        read = map(by_case, (batch.context, *batch.personas))
        found = zip(*(self._found(*case) for case in zip(replies, *read, strict=True)), strict=True)
        kinds = ["bare", *["grounded", "lines"] * self.personas]
        reply = torch.arange(len(lengths), device=tokens.device).repeat_interleave(lengths).split(in_cases)
        word = where.new_tensor([place for length in lengths.tolist() for place in range(length)]).split(in_cases)
        features = []
        for kind, rows in zip(kinds, found, strict=True):
            room = self.rooms[kind]
            compared = F.relu(self.compare[kind](torch.cat([each.flatten(0, 1) for each in rows])))
            cells = torch.cat(
                [
                    (
                        (one * room + torch.arange(room - len(each), room)[:, None]) * self.limits.reply_words + other
                    ).flatten()
                    for each, one, other in zip(rows, reply, word, strict=True)
                ]
            )
            cube = compared.new_zeros(len(lengths) * room * self.limits.reply_words, compared.shape[1])
            cube = cube.index_copy(0, cells, self.dropout(compared))
            features.append(self.convolve[kind](cube.view(len(lengths), room, self.limits.reply_words, -1)))
        logits: Tensor = self.output(self.dropout(torch.cat(features, 1))).view(there.shape)
        return logits.masked_fill(~there, -torch.inf)

    def loss(self, batch: DialogueBatch, objective: Objective = Objective()) -> Tensor:  # noqa: B008 - frozen
        """What `objective` makes of the scores."""
        return objective(self.score(batch), batch.target)

    def _encoded(self, sentences: Sentences) -> tuple[Tensor, Tensor, Tensor]:
        """The words (T, D) of the distinct sentences, each having looked at its sentence; and of each sentence where
        they lie (S, L), as far as there are so many (S, L)."""
        tokens = self.narrow(self.words(sentences))[sentences.words]  # (T, D)
        steps = torch.arange(int(sentences.lengths.max()), device=tokens.device)
        real = steps < sentences.lengths[:, None]
        where = (sentences.starts[:, None] + steps).masked_fill(~real, 0)
        padded = tokens[where]  # (S, L, D)
        found = weighted(padded @ padded.transpose(1, 2) / padded.shape[2] ** 0.5, padded, real)
        return self.encode(tokens, found[real]), where, real

    def _found(self, reply: Tensor, context: "_Words", *personas: "_Words") -> list[Tensor]:
        """What the reply words (R, D) of a case find in each utterance or line, beside them (M or P, R, 2D): in the
        bare context; for each persona, in the context that is grounded in it, and in its lines."""
        said, real = context
        found = [self.additive(reply, said, real)]
        for lines, spelt in personas:
            similarity = said.flatten(0, 1) @ lines.flatten(0, 1).t() / said.shape[2] ** 0.5
            similarity = similarity.unflatten(1, spelt.shape).unflatten(0, real.shape)  # (M, C, P, K)
            grounded = weighted(similarity.transpose(1, 2), lines, spelt)  # (M, P, C, D)
            grounded = self.ground["grounded"](said[:, None], grounded)
            informed = weighted(similarity.permute(2, 0, 3, 1), said, real)  # (P, M, K, D)
            informed = self.ground["lines"](lines[:, None], informed)
            found += [_chosen(reply, torch.cat([said[:, None], grounded], 1), real), _chosen(reply, informed, spelt)]
        return [torch.cat([each * reply, (each - reply).square()], -1) for each in found]


_Words = tuple[Tensor, Tensor]
"""The words (M, C, D) of a case's sentences, and which there are (M, C)."""


def _pooled(*sizes: int) -> int:
    """How many cells two poolings by threes leave of a cube."""
    return prod(-(-size // 9) for size in sizes)


def _comparison(hidden: int, features: int) -> nn.Linear:
    """A layer over product and squared difference, each feature of which is at first a similarity."""
    layer = nn.Linear(2 * hidden, features)
    product, difference = layer.weight.data.chunk(2, 1)
    product.abs_()
    difference.abs_().neg_()
    nn.init.zeros_(layer.bias)
    return layer


def _chosen(reply: Tensor, versions: Tensor, there: Tensor) -> Tensor:
    """What the reply words (R, D) find in each sentence, in which of its V versions (M, V, C, D) they choose: (M, R,
    D). Of each version they choose words, which are there or not (M, C), and then among what they found."""
    states = versions.flatten(1, 2)  # (M, V * C, D)
    similarity = (reply @ states.transpose(1, 2)).unflatten(2, versions.shape[1:3])  # (M, R, V, C)
    least = torch.finfo(similarity.dtype).min
    words = similarity.masked_fill(~there[:, None, None], least).softmax(3)
    weights = words * (words * similarity).sum(3).softmax(2)[..., None]  # a version's score is that of what was found
    return weights.flatten(2) @ states


class _Block(nn.Module):
    """What stands behind attention: a residual and a normalization, twice, the second time around two layers."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.attended, self.normal = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.inner, self.outer):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, found: Tensor) -> Tensor:
        """What each query becomes with what it has found."""
        states: Tensor = self.attended(query + found)
        normal: Tensor = self.normal(states + self.outer(F.relu(self.inner(states))))
        return normal


class _Additive(nn.Module):
    """Attention by a score of one hidden layer."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        units = -(-width // 3)
        self.of_reply, self.of_word = nn.Linear(width, units), nn.Linear(width, units, bias=False)
        self.score = nn.Linear(units, 1, bias=False)

    def forward(self, reply: Tensor, words: Tensor, there: Tensor) -> Tensor:
        """What the reply words (R, D) find in each utterance, (M, C, D) and (M, C): (M, R, D)."""
        hidden = self.of_reply(reply)[:, None] + self.of_word(words)[:, None]  # (M, R, C, units)
        return weighted(self.score(hidden.tanh()).squeeze(3), words, there)


class _Convolutions(nn.Module):
    """Two convolutions over utterances, reply words and features alike, each rectified and pooled by threes."""

    def __init__(self, *, filters: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, filters, 3, padding=1)
        self.second = nn.Conv3d(filters, filters // 2, 3, padding=1)

    def forward(self, cube: Tensor) -> Tensor:
        """(X, M, R, F) to the features of each (X, ...)."""
        states = cube[:, None].to(torch.promote_types(cube.dtype, torch.float))
        with torch.autocast("cpu", enabled=False):  # in bfloat16, gradients of the weights are NaN now and then
            for layer in (self.first, self.second):
                states = F.relu(F.max_pool3d(layer(states), 3, ceil_mode=True))
        return states.flatten(1)
