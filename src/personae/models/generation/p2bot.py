"""P² Bot: a transmitter writes as a persona, a receiver tells what impression of a persona it gives; in self-play, the
first learns to be understood by the second.

Qian Liu, Yihong Chen, Bei Chen, Jian-Guang Lou, Zixuan Chen, Bin Zhou, Dongmei Zhang. You Impress Me: Dialogue
Generation via Mutual Persona Perception. ACL 2020. https://aclanthology.org/2020.acl-main.131

The transmitter is a language model with two heads, as TransferTransfo's (`nn/double_heads.py`); of several replies, the
best by both heads comes first, and so it chooses among candidates. The receiver rates each utterance by the persona
line that it fits best, and learns, by a margin, that what a speaker says fits the own persona better than that of
another dialogue. A recipe with `play` goes on from a run without, `init_from` its folder: two copies talk with each
other, each with a persona; what the one draws is rewarded for its language, for following what was said, and for what
the receiver perceives of the persona then and, less and less, in what both say later (REINFORCE, Williams 1992).

Differs from the paper: the backbone is SmolLM2-135M unless another is named (the paper's is "openai-gpt"), it may be
tuned by low-rank adapters, and tokens have embeddings of who says them, not of turns. The receiver's two linear layers
stand on a sentence encoder that stays as it is, where the paper fine-tunes BERT; an utterance has the maximum over the
lines from the beginning, where the published code (SivilTaram/Persona-Dialogue-Generation) gets there by norms of a
rising power. Without that code's penalty for repetition and its rescaling of the persona's reward. The partner of
self-play is the same model in its current state. The share of the likelihood in a score is ours; the weights of the
rewards, the discount, the length of a play, the share of supervised steps and the baseline, the mean over plays of the
same personas, are that code's.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.decoding import Decoding
from personae.nn.dialogue_batch import rows
from personae.nn.double_heads import Asked, DoubleHeads, Tune, log_probabilities
from personae.nn.objective import Objective
from personae.nn.sentence_encoder import SentenceEncoder
from personae.types import Dialogue, Example, InputError, Turn, Whose


@dataclass(frozen=True)
class Play:
    """Self-play: so many `turns` of each, of so many plays of each pair of personas, whose replies are drawn from the
    `top_k` most probable tokens, `longest` at most; the weights of the rewards for `language`, `coherence` and
    `persona`; by what rewards for the persona shrink with every utterance (`discount`); and the share of steps that are
    `supervised`."""

    turns: int = 3
    plays: int = 6
    top_k: int = 20
    longest: int = 32
    language: float = 0.5
    coherence: float = 0.1
    persona: float = 0.5
    discount: float = 0.5
    supervised: float = 0.1

    def __post_init__(self) -> None:
        for name, least in {"turns": 1, "plays": 2, "top_k": 1, "longest": 1}.items():
            if (value := getattr(self, name)) < least:
                raise InputError(f"task.model.play.{name}: {value} is not at least {least}")
        for name in ("discount", "supervised"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise InputError(f"task.model.play.{name}: {value} is not between 0 and 1")


@dataclass(frozen=True)
class Impressions:
    """The vectors (S, W) of distinct sentences; the utterances (B, M) of the one who replies, and the persona lines
    (B, P), as places among them, -1 where there are fewer."""

    vectors: Tensor
    said: Tensor
    lines: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(*(each.to(device) for each in vars(self).values()))


@dataclass(frozen=True)
class Met:
    """What the transmitter reads, what the receiver does, and the examples themselves, to begin a play with."""

    asked: Asked
    impressions: Impressions
    examples: tuple[Example, ...]

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(self.asked.to(device), self.impressions.to(device), self.examples)


class Receiver(nn.Module):
    """Says how well utterances fit personas, at first by four times their cosine, of a part of their features. B cases,
    M utterances, P lines, S sentences, W features of a vector."""

    def __init__(self, *, width: int, features: int) -> None:
        super().__init__()
        self.utterance, self.line = (nn.Linear(width, features, bias=False) for _ in range(2))
        nn.init.orthogonal_(self.utterance.weight, gain=2 * max(width / features, 1) ** 0.5)
        self.line.weight.data.copy_(self.utterance.weight.data)

    def forward(self, read: Impressions) -> tuple[Tensor, Tensor]:
        """How well each utterance of each case fits each line of each case's persona (B, M, B, P), zero where there is
        none, and how well it fits each persona (B, M, B): as its best line does."""
        vectors = read.vectors.to(self.line.weight.dtype)
        utterances = self.utterance(vectors)[read.said.clamp(min=0)]  # (B, M, features)
        lines = self.line(vectors)[read.lines.clamp(min=0)]  # (B, P, features)
        fits = torch.einsum("bmf,cpf->bmcp", utterances, lines)
        there = (read.said >= 0)[:, :, None, None] & (read.lines >= 0)
        best = fits.masked_fill(~there, -torch.inf).amax(3) if fits.shape[3] else fits.sum(3)
        return fits * there, best.where(there.any(3), 0)

    def loss(self, read: Impressions, *, margin: float, sparse: float) -> Tensor:
        """By how much the personas of others come too close to the own one, and the mean size of what fits."""
        fits, best = self(read)
        count = (read.said >= 0).sum(1).clamp(min=1)
        scores = best.sum(1) / count[:, None]  # (B, B): of each case's utterances, by each persona
        own = scores.diagonal()
        known = (read.lines >= 0).any(1)
        different = (read.lines[:, None] != read.lines).any(2) & known & known[:, None]
        missed = F.relu(margin + scores - own[:, None]) * different
        size = fits.abs().sum((1, 3)).diagonal() / count
        return missed.sum() / different.sum().clamp(min=1) + sparse * size.mean()


class P2Bot(nn.Module):
    """Transmitter and receiver. The transmitter's `backbone` is a folder or a hub id of a language model, None for
    SmolLM2's package, and it is as TransferTransfo; the receiver's `sentence_encoder` one of a sentence encoder, None
    for MiniLM's package, its vectors have so many `features`, its loss a `margin` and a weight `sparse` of the size of
    what fits. A candidate's score is (1 - `likelihood`) times the log-probability that it is the reply, and
    `likelihood` times the mean log-likelihood of its tokens. With `play`, training is self-play. B cases, N
    candidates."""

    scale = "logit"

    def __init__(
        self,
        *,
        backbone: str | None = None,
        sentence_encoder: str | None = None,
        persona: Whose = "self",
        tune: Tune = "full",
        rank: int = 8,
        dropout: float = 0.1,
        utterances: int | None = None,
        longest: int = 160,
        reply: int = 64,
        likelihood: float = 0.1,
        features: int = 128,
        margin: float = 1.0,
        sparse: float = 0.05,
        play: Play | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= likelihood <= 1:
            raise InputError(f"task.model.likelihood: {likelihood} is not between 0 and 1")
        if features < 1:
            raise InputError(f"task.model.features: {features} is not at least 1")
        self.persona: Whose = persona
        self.likelihood, self.margin, self.sparse, self.play = likelihood, margin, sparse, play
        self.heads = DoubleHeads(
            backbone=backbone,
            whose=persona,
            tune=tune,
            rank=rank,
            dropout=dropout,
            utterances=utterances,
            longest=longest,
            reply=reply,
        )
        self.tokens = self.heads.words.name
        sentences = SentenceEncoder(sentence_encoder, field="task.model.sentence_encoder")
        self._sentences = (sentences,)  # no part of the module: neither trained nor saved
        self.receiver = Receiver(width=sentences.transformer.config.hidden_size, features=features)
        if play is not None:
            self.fluent = copy.deepcopy(self.heads.words).requires_grad_(False)  # as it was pretrained
            self.judge = copy.deepcopy(self.heads).requires_grad_(False)
            self.receiver.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """What judges self-play is never trained."""
        super().train(mode)
        if self.play is not None:
            self.fluent.eval()
            self.judge.eval()
        return self

    def prepare(self, dialogues: Sequence[Dialogue]) -> None:
        """Needs to learn nothing, but must have its weights. What judges self-play is the transmitter as it is now."""
        self.heads.words.require_weights()
        if self.play is not None:
            self.fluent.require_weights()
            self.judge.load_state_dict(self.heads.state_dict())

    def collate(self, examples: Sequence[Example]) -> Met:
        """The model's input."""
        said = [
            [turn.text for turn in (*each.context.turns, each.target) if turn.speaker == each.target.speaker]
            for each in examples
        ]
        lines = [example.facts("self") for example in examples]
        return Met(self.heads.collate(examples, self.persona), self._impressions(said, lines), tuple(examples))

    def _impressions(self, said: Sequence[Sequence[str]], lines: Sequence[Sequence[str]]) -> Impressions:
        numbers: dict[str, int] = {}
        places = [
            rows([[numbers.setdefault(text, len(numbers)) for text in some] for some in each]) for each in (said, lines)
        ]
        self._sentences[0].encode(numbers)
        vectors = [self._sentences[0].vectors[text] for text in numbers]
        width = self.receiver.line.in_features
        return Impressions(torch.stack(vectors) if vectors else torch.zeros(0, width), *places)

    def size(self, example: Example) -> int:
        """How many tokens are read and written."""
        return self.heads.size(example, self.persona)

    def score(self, batch: Met) -> Tensor:
        """Scores (B, N), -inf where a case has fewer candidates."""
        return self.heads.score(batch.asked, likelihood=self.likelihood)

    def loss(self, batch: Met, objective: Objective = Objective()) -> Tensor:  # noqa: B008 - frozen
        """The mean negative log-likelihood of a token of the true replies, what `objective` makes of the candidates,
        where there are any, and the receiver's loss; in self-play, but for some steps, the loss whose gradient is that
        of the rewards."""
        if self.play is not None and self.training and float(torch.rand(())) >= self.play.supervised:
            return self.played(batch.examples, self.play)
        said, chosen = self.heads.losses(batch.asked, objective)
        loss = said if chosen is None else said + chosen
        return loss + self.receiver.loss(batch.impressions, margin=self.margin, sparse=self.sparse)

    def log_likelihood(self, batch: Met) -> tuple[Tensor, Tensor]:
        """The log-likelihoods of replies, in nats, and how many tokens they have, the end among them: both (B,)."""
        return self.heads.log_likelihood(batch.asked)

    @torch.no_grad()
    def generate(self, batch: Met, decoding: Decoding) -> list[list[str]]:
        """Of each case so many replies as `decoding` says, the best by both heads first; of beam search, those of all
        beams are compared."""
        several = decoding.beams if decoding.kind == "beam" else decoding.n
        texts = self.heads.generate(batch.asked, replace(decoding, n=several))
        if several == 1:
            return texts
        scores = self.heads.score(self.heads.offer(batch.asked, texts), likelihood=self.likelihood)
        order = scores.sort(dim=1, descending=True, stable=True).indices.tolist()
        best = [
            [case[place] for place in places if place < len(case)] for case, places in zip(texts, order, strict=True)
        ]
        return [case[: decoding.n] for case in best]

    def stream(self, batch: Met, decoding: Decoding) -> Iterator[str]:
        """The reply to one case, piece by piece."""
        return self.heads.stream(batch.asked, decoding)

    def played(self, examples: Sequence[Example], play: Play) -> Tensor:
        """The loss of self-play that begins with the first utterance of each example's dialogue."""
        replies, answers = self.talk(examples, play)
        device = self.heads.fit.weight.device
        batch = self.heads.collate([each for turn in replies for each in turn], self.persona).to(device)
        likelihoods, tokens = self.heads.log_likelihood(batch)
        rewards = self.rewards(replies, answers, batch, play).view(play.turns, len(examples), play.plays)
        gained = (rewards - rewards.mean(2, keepdim=True)).flatten()
        return -(gained * likelihoods / tokens).mean()

    @torch.no_grad()
    def talk(self, examples: Sequence[Example], play: Play) -> tuple[list[list[Example]], list[list[Example]]]:
        """What the one says (drawn) and what the other one answers (the most probable), turn by turn: of each example
        so many plays, one after the other."""
        training = self.training
        self.eval()
        drawn = Decoding(top_k=play.top_k, longest=play.longest, seed=int(torch.randint(1 << 31, ())))
        likely = Decoding(kind="greedy", longest=play.longest)
        now = [_begun(example, number) for example in examples for number in range(play.plays)]
        replies: list[list[Example]] = []
        answers: list[list[Example]] = []
        for _ in range(play.turns):
            for decoding, told in ((drawn, replies), (likely, answers)):
                batch = self.heads.collate(now, self.persona).to(self.heads.fit.weight.device)
                texts = self.heads.generate(batch, decoding)
                told.append([_saying(example, text) for example, (text,) in zip(now, texts, strict=True)])
                now = [_next(example) for example in told[-1]]
        self.train(training)
        return replies, answers

    @torch.no_grad()
    def rewards(
        self, replies: Sequence[Sequence[Example]], answers: Sequence[Sequence[Example]], batch: Asked, play: Play
    ) -> Tensor:
        """What each reply earns (turns, plays), of which `batch` is what is read."""
        true = batch.true
        begun = torch.cat([torch.full_like(true.tokens[:, :1], self.fluent.end), true.tokens], 1)
        states = self.fluent.states(self.fluent.embed(begun))
        said, whose = log_probabilities(self.fluent, states, true)
        language = said.new_zeros(len(states)).index_add(0, whose, said) / true.written
        follows = self.judge.fits(self.judge.states(batch, true, self.judge.read(batch)), true).sigmoid()
        perceived = [self.perceived(each) for pair in zip(replies, answers, strict=True) for each in pair]
        later = torch.zeros_like(perceived[0])
        for place in reversed(range(len(perceived))):
            later = perceived[place] = perceived[place] + play.discount * later
        persona = torch.stack(perceived[::2])  # (turns, plays)
        return (
            play.language * language.view_as(persona)
            + play.coherence * follows.view_as(persona)
            + play.persona * persona
        )

    def perceived(self, told: Sequence[Example]) -> Tensor:
        """How well what each says fits their persona (B,)."""
        read = self._impressions([[each.target.text] for each in told], [each.facts("self") for each in told])
        found: Tensor = self.receiver(read.to(self.heads.fit.weight.device))[1]
        return found[:, 0].diagonal()


def _begun(example: Example, number: int) -> Example:
    """The beginning of an example's dialogue, by a name of its own, for the one who was to reply."""
    turns = tuple(Turn(1 - example.target.speaker, turn.text) for turn in example.context.turns[:1])
    context = replace(example.context, id=f"{example.id}/{number}", turns=turns, question=None)
    return Example(context, Turn(example.target.speaker, ""))


def _saying(example: Example, text: str) -> Example:
    return replace(example, target=Turn(example.target.speaker, text))


def _next(example: Example) -> Example:
    """After a reply, the other one's turn."""
    context: Dialogue = replace(example.context, turns=(*example.context.turns, example.target))
    return Example(context, Turn(1 - example.target.speaker, ""))
