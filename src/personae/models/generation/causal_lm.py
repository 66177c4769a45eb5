"""CausalLM: a pretrained transformer language model goes on from what was said with what is replied; with a tensor, the
embeddings of the reply's tokens are moved to what this user is likely to answer to this question.

Yizhe Zhang, Siqi Sun, Michel Galley, Yen-Chun Chen, Chris Brockett, Xiang Gao, Jianfeng Gao, Jingjing Liu, Bill Dolan.
DIALOGPT: Large-Scale Generative Pre-training for Conversational Response Generation. ACL 2020 (demonstrations).
https://aclanthology.org/2020.acl-demos.30, as in Yuwei Wu, Xuezhe Ma, Diyi Yang. Personalized Response Generation via
Tensor Factorization. GEM 2021. https://aclanthology.org/2021.gem-1.5 (sections 3.3 and 4.3, figure 2)

As there, an end of text follows each utterance and the reply, and the personalized response embedding is added to the
embeddings of the end before the reply and of the reply's tokens. The tensor's `balance` is of models that have an
encoder; here one of 0 adds nothing, and any other all.

Differs from the paper: the backbone is SmolLM2-135M unless another is named (the paper's is microsoft/DialoGPT-medium),
it may be tuned by low-rank adapters (Hu et al., ICLR 2022), more than one utterance is read, and no embedding tells
the reply's tokens from the context's, between which the end of text stands. A question that is
encoded rather than looked up is the mean input embedding of the last utterance's tokens.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.causal import Causal, Place
from personae.nn.decoding import Decoding, decode, spelled, stream
from personae.nn.lora import adapt
from personae.nn.personalization import Factorization, Personalization
from personae.types import Dialogue, Example, InputError, check

Tune = Literal["full", "lora"]
"""Whether all weights are trained, or adapters of the layers."""

AT_ONCE = 512
"""So many tokens' logits are made at once: each is as long as the vocabulary."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spelled:
    """`tokens` (B, L) of contexts and replies, of which `read` (B,) belong to the context and the end after it, and
    `written` (B,) to the reply and its end; `asked` (B,) of those read are the last utterance's and its end. The
    numbers of users and questions (B,) are -1 for those that are not known; `names` are the examples' ids."""

    names: tuple[str, ...]
    tokens: Tensor
    read: Tensor
    asked: Tensor
    written: Tensor
    users: Tensor
    questions: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        names, *numbers = vars(self).values()
        return type(self)(names, *(each.to(device) for each in numbers))


class CausalLM(nn.Module):
    """A causal language model of a folder or a hub id, None for SmolLM2's package, with or without a `tensor`. Of a
    context the last `longest` tokens are read, the oldest utterances left out first, and of a reply the first `reply`
    ones; `tune` says what is trained, by adapters of so high a `rank` or not. B cases, L tokens, H hidden units."""

    def __init__(
        self,
        *,
        backbone: str | None = None,
        tensor: Factorization | None = None,
        tune: Tune = "full",
        rank: int = 8,
        longest: int = 128,
        reply: int = 64,
    ) -> None:
        super().__init__()
        check("task.model.tune", tune, Tune)
        for name, value in {"longest": longest, "reply": reply}.items():
            if value < 8:
                raise InputError(f"task.model.{name}: {value} is not at least 8")
        self.longest, self.reply = longest, reply
        self.words = Causal(backbone)
        if (room := self.words.room()) is not None and room < longest + reply + 1:
            raise InputError(
                f"task.model.longest: the backbone has room for {room} tokens, not for {longest}, a reply of {reply} "
                "and its end"
            )
        if tune == "lora":
            self.words.requires_grad_(False)
            adapt(self.words.backbone, rank=rank)
        self.tokens = self.words.name
        self.personal: Personalization | None = None
        if tensor is not None:
            width = self.words.width
            self.personal = Personalization(size=width, encoded=width, factorization=tensor)
        self.balance = tensor.balance if tensor is not None else 0.0
        self._said: set[str] = set()

    def prepare(self, dialogues: Sequence[Dialogue]) -> None:
        """Learns who answers what. InputError where the backbone is without weights."""
        self.words.require_weights()
        if self.personal is not None:
            self.personal.prepare(dialogues)

    def collate(self, examples: Sequence[Example]) -> Spelled:
        """The model's input."""
        known = self.words.tokens(
            text for example in examples for text in (*(t.text for t in example.context.turns), example.target.text)
        )
        contexts = [self._context(example, known) for example in examples]
        replies = [[*known[example.target.text][: self.reply], self.words.end] for example in examples]
        if any(len(known[example.target.text]) > self.reply for example in examples):
            self._say(f"the end of a reply is beyond {self.reply} tokens (task.model.reply)")
        rows = [torch.tensor([*context, *reply]) for (context, _), reply in zip(contexts, replies, strict=True)]
        users = questions = torch.full((len(examples),), -1)
        if self.personal is not None:
            users = self.personal.users.numbers([example.user.id for example in examples])
            questions = self.personal.numbers([example.context for example in examples])
        return Spelled(
            tuple(example.id for example in examples),
            nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.words.end),
            torch.tensor([len(context) for context, _ in contexts]),
            torch.tensor([asked for _, asked in contexts]),
            torch.tensor(list(map(len, replies))),
            users,
            questions,
        )

    def _context(self, example: Example, known: Mapping[str, Sequence[int]]) -> tuple[list[int], int]:
        """The last utterances' tokens, an end after each, and of how many the last one has. Where nothing was said,
        there is an end."""
        room = self.longest - len(self.words.start)
        kept: list[int] = []
        asked = 1
        for turn in reversed(example.context.turns):
            spelled = [*known[turn.text], self.words.end]
            if len(spelled) + len(kept) > room and kept:
                break
            if len(spelled) > room:
                self._say(f"the beginning of the last utterance is beyond {self.longest} tokens (task.model.longest)")
            asked = asked if kept else len(spelled[-room:])
            kept = [*spelled[-room:], *kept]
        return [*self.words.start, *(kept or [self.words.end])], asked

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("some texts are too long: %s, and left out", what)

    def size(self, example: Example) -> int:
        """How many tokens are read and written."""
        known = self.words.tokens([*(turn.text for turn in example.context.turns), example.target.text])
        return len(self._context(example, known)[0]) + min(len(known[example.target.text]), self.reply)

    def loss(self, batch: Spelled) -> Tensor:
        """The mean negative log-likelihood of a token of the replies, their ends among them."""
        return -self._log_probabilities(batch)[0].mean()

    def log_likelihood(self, batch: Spelled) -> tuple[Tensor, Tensor]:
        """The log-likelihoods of replies, in nats, and how many tokens they have, the end among them: both (B,)."""
        found, rows = self._log_probabilities(batch)
        return found.new_zeros(len(batch.names)).index_add(0, rows, found), batch.written

    def _log_probabilities(self, batch: Spelled) -> tuple[Tensor, Tensor]:
        """The log-probability (N,) of each of the N tokens of all replies, their ends among them, and whose it is."""
        states = self.words.states(self._embedded(batch)[0])  # (B, L, H)
        before = torch.arange(states.shape[1], device=states.device)[None] + 1 - batch.read[:, None]
        asking = (before >= 0) & (before < batch.written[:, None])  # (B, L): what comes next is the reply's
        chosen, goals = states[asking], batch.tokens.roll(-1, 1)[asking]
        parts = [
            F.cross_entropy(self.words.logits(some).float(), goal, reduction="none")
            for some, goal in zip(chosen.split(AT_ONCE), goals.split(AT_ONCE), strict=True)
        ]
        return -torch.cat(parts), asking.nonzero()[:, 0]

    @torch.no_grad()
    def generate(self, batch: Spelled, decoding: Decoding) -> list[list[str]]:
        """Of each case so many replies as `decoding` says, the best first. InputError where there is no room for
        them."""
        logits, place = self._begun(batch, decoding)
        end, barred = self.words.end, self.words.special
        found = decode(logits, place, self.words.step, names=batch.names, end=end, forbidden=barred, decoding=decoding)
        return [[self.words.text(reply.tokens) for reply in case] for case in found]

    @torch.no_grad()
    def stream(self, batch: Spelled, decoding: Decoding) -> Iterator[str]:
        """The same of one case, piece by piece."""
        logits, place = self._begun(batch, decoding)
        end, barred = self.words.end, self.words.special
        tokens = stream(
            logits, place, self.words.step, name=batch.names[0], end=end, forbidden=barred, decoding=decoding
        )
        yield from spelled(tokens, self.words.text)

    def _begun(self, batch: Spelled, decoding: Decoding) -> tuple[Tensor, Place]:
        """The logits (B, V) of the first tokens, and where their rows are."""
        room, longest = self.words.room(), int(batch.read.max())
        if room is not None and self.longest + decoding.longest > room:
            raise InputError(f"decoding.longest: {decoding.longest} tokens do not fit in; {room - self.longest} do")
        embedded, beside = self._embedded(batch)
        return self.words.begin(embedded[:, :longest], batch.read, beside, decoding.longest)

    def _embedded(self, batch: Spelled) -> tuple[Tensor, Tensor | None]:
        """The input embeddings (B, L, H), and what was added to those from the end before the reply on (B, H)."""
        embedded = self.words.embed(batch.tokens)
        if self.personal is None or not self.balance:
            return embedded, None
        after = torch.arange(embedded.shape[1], device=embedded.device)[None] + 1 - batch.read[:, None]
        asked = ((after < 0) & (after > -batch.asked[:, None]))[..., None]  # (B, L, 1)
        encoded = (embedded * asked).sum(1) / asked.sum(1).clamp(min=1)  # (B, H)
        personal = self.personal(batch.users, batch.questions, encoded)
        return embedded + (after >= 0)[..., None] * personal[:, None], personal
