"""Language models of many users: a causal transformer that all share, and a low-rank adapter of each user.

In place of the GPT-2 that Wu, Ma and Yang, GEM 2021, section 5.3 (https://aclanthology.org/2021.gem-1.5) fine-tune for
each user. As there, all messages of a user are read: each as often as the others or once more, so that an adapter is
trained the longer, the more its user said; of a message only the first tokens. Only the upper layers have adapters, so
that the lower ones read a text once, whoever is asked about it; in each step of training, and in each pass over
responses, several users' adapters are computed at once, each on rows of its own. What is drawn for a user depends on
that user alone, so that it does not matter who is trained beside them.

Adapters are kept in a folder, a file a user, by a digest of the tokens of the user's messages and of all that they were
trained with: who was trained once is not trained again, also after an interruption.

Letters: U users, N sentences, B rows of a batch, T tokens, H hidden units.
"""

import copy
import hashlib
import json
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from personae.home import below
from personae.nn import lora
from personae.nn.causal import Causal
from personae.nn.processor import fastest
from personae.types import InputError

Floats = NDArray[np.float64]

log = logging.getLogger(__name__)

LATEST = 1000
"""So many of the messages of a user are read, the latest ones: of more, an adapter would be trained for minutes."""

AT_ONCE = 10
"""Users whose adapters are trained, and score, at once; so many are lost when it is interrupted."""

ROWS = 64
"""Texts that the lower layers read at once."""

ROOM = 1024
"""Tokens whose probabilities over the vocabulary are in memory at once."""


@dataclass(frozen=True, slots=True)
class Training:
    """How each user's adapter is trained: of the upper `layers`, of a `rank`, what it adds multiplied by `alpha` /
    `rank`, by Adam, whose rate falls to 0, on `messages` of the user a step, for `steps` at least. Of a message the
    first `longest` tokens are read."""

    layers: int = 8
    rank: int = 4
    alpha: float = 16.0
    steps: int = 16
    messages: int = 8
    learning_rate: float = 3e-3
    longest: int = 64
    seed: int = 0

    def count(self, said: int) -> int:
        """The steps for a user who said so many messages: in these each is read."""
        return max(self.steps, -(-said // self.messages))


class UserModels:
    """A model of each user of what that user said: for each of U users, sentences of words, which are read with blanks
    between them. The transformer is that of a folder or a hub id, None for SmolLM2; `home` is the folder of adapters;
    `advance` is told how many users are ready. InputError where there is no user, one said nothing, or the transformer
    cannot be divided."""

    def __init__(
        self,
        said: Sequence[Sequence[Sequence[str]]],
        *,
        backbone: str | None = None,
        home: Path | None = None,
        training: Training = Training(),
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        if not said:
            raise InputError("there is no user whose language could be modelled: give at least one")
        silent = [number for number, each in enumerate(said) if not any(each[-LATEST:])]
        if silent:
            raise InputError(f"user {silent[0]}, counted from 0, said no word that could be modelled: leave them out")
        self.training = training
        self.home = home or below("adapters")
        self.causal = Causal(backbone, field="--backbone").requires_grad_(False).eval()
        if fastest() == "bf16-mixed":
            self.causal.to(torch.bfloat16)
        made_of = hashlib.sha256(f"{asdict(training)} {self.causal.backbone.config.to_json_string()}".encode())
        for weight in self.causal.parameters():
            made_of.update(weight.detach().contiguous().view(torch.uint8).numpy().data)
        self.lower, self.upper = divided(self.causal.backbone, training.layers)
        lora.adapt(self.upper.layers, rank=training.rank, alpha=training.alpha, many=AT_ONCE)
        if many := sum(len(each) > LATEST for each in said):
            log.warning("of %d of %d users the latest %d messages are read", many, len(said), LATEST)
        texts = [[" ".join(words) for words in each[-LATEST:]] for each in said]
        keys = [self._key(each, made_of.hexdigest()) for each in texts]
        self.kept = {key: found for key in keys if (found := self._kept(key)) is not None}
        advance(sum(key in self.kept for key in keys))
        wanted = {key: each for key, each in zip(keys, texts, strict=True) if key not in self.kept}
        longest_first = sorted(wanted, key=lambda key: -training.count(len(wanted[key])))
        for start in range(0, len(wanted), AT_ONCE):
            some = {key: wanted[key] for key in longest_first[start : start + AT_ONCE]}
            self._train(some)
            advance(sum(key in some for key in keys))
        self.keys = keys

    def perplexities(self, sentences: Sequence[Sequence[str]]) -> Floats:
        """The perplexity of each sentence under each user's model, per token of the transformer with the end as one:
        (N, U). Of a sentence that is too long the first tokens are read, and an end after them."""
        texts = [" ".join(words) for words in sentences]
        longest, known = self.training.longest, self.causal.tokens(texts)
        if cut := sum(len(known[text]) > longest for text in texts):
            log.warning("of %d of %d responses the first %d tokens are read", cut, len(texts), longest)
        read = self._read(texts)
        distinct = list(dict.fromkeys(self.keys))
        found = np.empty((len(texts), len(distinct)))
        ordered = sorted(range(len(texts)), key=lambda place: len(read[texts[place]][1]))
        step = max(1, ROOM // (AT_ONCE * max((len(labels) for _, labels in read.values()), default=1)))
        for start in range(0, len(ordered), step):
            places = ordered[start : start + step]
            states, labels = _padded([read[texts[place]] for place in places])
            for first in range(0, len(distinct), AT_ONCE):
                users = distinct[first : first + AT_ONCE]
                self._take(users)
                with torch.no_grad():
                    loss = self._losses(states.repeat(len(users), 1, 1), labels.repeat(len(users), 1), len(users))
                means = loss.view(len(users), len(places), -1).double().sum(2) / (labels >= 0).sum(1)
                found[places, first : first + len(users)] = means.T.exp().numpy()
        return found[:, [distinct.index(key) for key in self.keys]]

    def _key(self, texts: Sequence[str], made_of: str) -> str:
        """A digest of all that the adapters of a user who said `texts` come of."""
        known, training = self.causal.tokens(texts), self.training
        tokens = [self.causal.end, *(known[text][: training.longest] for text in texts)]
        return hashlib.sha256(json.dumps([made_of, training.count(len(texts)), tokens]).encode()).hexdigest()

    def _train(self, texts: dict[str, list[str]]) -> None:
        """Trains the adapters of some users, by their keys, on their texts, and keeps them. Who takes more steps stands
        before who takes fewer, so that those who are not ready are always the first."""
        training, weights = self.training, self._weights()
        for number, key in enumerate(texts):
            generator = torch.Generator().manual_seed(int(key[:15], 16))
            for layer in lora.adapters(self.upper):
                drawn = torch.randn(layer.down.shape[1:], generator=generator) * layer.down.shape[-1] ** -0.5
                layer.down.data[number], layer.up.data[number] = drawn, 0.0
        counts = [training.count(len(said)) for said in texts.values()]
        each = [
            _drawn(said, count * training.messages, key)
            for (key, said), count in zip(texts.items(), counts, strict=True)
        ]
        own = [[weight.data[number] for weight in weights] for number in range(len(texts))]  # they share memory
        optimizer = torch.optim.Adam([{"params": some} for some in own])
        read: dict[str, tuple[Tensor, Tensor]] = {}
        for step in range(counts[0]):
            first, size = step * training.messages, training.messages
            if step % training.steps == 0:  # what the lower layers make of so many texts is in memory at once
                ahead = slice(first, first + training.steps * size)
                read = self._read(dict.fromkeys(text for said in each for text in said[ahead]))
            now = list(filter(None, (said[first : first + size] for said in each)))
            states, labels = _padded([read[text] for said in now for text in said])
            losses = self._losses(states, labels, len(now)).view(len(now), -1).sum(1)
            mean = losses / (labels >= 0).view(len(now), -1).sum(1)
            gradients = torch.autograd.grad(mean.sum(), weights)
            for number, (group, count) in enumerate(zip(optimizer.param_groups, counts, strict=True)):
                group["lr"] = training.learning_rate * (1 - step / count)
                for weight, gradient in zip(group["params"], gradients, strict=True):
                    weight.grad = gradient[number] if number < len(now) else None  # who is ready stays as they are
            optimizer.step()
        for number, key in enumerate(texts):
            self.kept[key] = [weight.clone() for weight in own[number]]
            self._keep(key)

    def _losses(self, states: Tensor, labels: Tensor, users: int) -> Tensor:
        """The negative log-likelihood (B, T) of each label, 0 where there is none, of rows of so many users, as many of
        each, from what the lower layers make (B, T, H)."""
        lora.choose(self.upper, torch.arange(users).repeat_interleave(len(states) // users))
        with torch.autocast("cpu", torch.bfloat16, enabled=states.dtype == torch.bfloat16):
            read = self.upper(inputs_embeds=states, use_cache=False).last_hidden_state
            there = labels >= 0
            found = [
                F.cross_entropy(self.causal.logits(part).float(), told, reduction="none")
                for part, told in zip(read[there].split(ROOM), labels[there].split(ROOM), strict=True)
            ]
        return torch.zeros(labels.shape).masked_scatter(there, torch.cat(found))

    def _read(self, texts: Iterable[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each text what the lower layers make of its tokens after a mark of the end (T, H), and the tokens that
        follow, up to such a mark (T,)."""
        known, end = self.causal.tokens(texts), self.causal.end
        tokens = {text: [end, *known[text][: self.training.longest], end] for text in texts}
        found = {}
        ordered = sorted(tokens, key=lambda text: len(tokens[text]))
        for start in range(0, len(ordered), ROWS):
            some = ordered[start : start + ROWS]
            padded = nn.utils.rnn.pad_sequence([torch.tensor(tokens[text]) for text in some], batch_first=True)
            with torch.no_grad():  # tokens look at those before them only, so that padding behind them is not seen
                states = self.lower(padded[:, :-1], use_cache=False).last_hidden_state
            for row, text in enumerate(some):
                there = len(tokens[text]) - 1
                found[text] = states[row, :there].clone(), padded[row, 1 : there + 1]
        return found

    def _take(self, keys: Sequence[str]) -> None:
        """Puts the adapters of users into their places."""
        for number, key in enumerate(keys):
            for weight, kept in zip(self._weights(), self.kept[key], strict=True):
                weight.data[number] = kept

    def _weights(self) -> list[nn.Parameter]:
        """What is trained: of every layer, for all users at once."""
        return [weight for layer in lora.adapters(self.upper) for weight in (layer.down, layer.up)]

    def _kept(self, key: str) -> list[Tensor] | None:
        """A user's adapters, if they are kept and whole."""
        try:
            found = load_file(self.home / f"{key}.safetensors")
        except (OSError, SafetensorError):
            return None
        return [found[str(number)] for number in range(len(found))]

    def _keep(self, key: str) -> None:
        """Writes a user's adapters, whole or not at all."""
        self.home.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=self.home, suffix=".part", delete=False) as file:
            part = Path(file.name)
        try:
            save_file({str(number): weight for number, weight in enumerate(self.kept[key])}, part)
            part.replace(self.home / f"{key}.safetensors")
        finally:
            part.unlink(missing_ok=True)


def divided(backbone: Any, layers: int) -> tuple[Any, Any]:
    """Two transformers that share the weights of one: its lower layers, which give states, and its upper `layers`, all
    but one where it has not more, which read states. InputError where they do not do what it does."""
    kind = type(backbone).__name__
    unlike = InputError(f"--backbone: a {kind} cannot be divided into its layers: name one like Llama")
    if not isinstance(getattr(backbone, "layers", None), nn.ModuleList) or not hasattr(backbone, "norm"):
        raise unlike
    layers = min(layers, len(backbone.layers) - 1)
    if layers < 1:
        raise unlike
    lower, upper = copy.copy(backbone), copy.copy(backbone)
    lower._modules = {**backbone._modules, "layers": backbone.layers[:-layers], "norm": nn.Identity()}
    upper._modules = {**backbone._modules, "layers": backbone.layers[-layers:]}
    some = torch.arange(5)[None]
    with torch.no_grad():
        states = lower(some, use_cache=False).last_hidden_state
        one, other = upper(inputs_embeds=states, use_cache=False)[0], backbone(some, use_cache=False)[0]
    if not torch.allclose(one, other, rtol=1e-2, atol=1e-2):
        raise unlike
    return lower, upper


def _padded(read: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """States (B, T, H) and labels (B, T), -1 where a row has none, of rows of their own lengths."""
    states, labels = zip(*read, strict=True)
    pad = nn.utils.rnn.pad_sequence
    return pad(list(states), batch_first=True), pad(list(labels), batch_first=True, padding_value=-1)


def _drawn(texts: Sequence[str], count: int, seed: str) -> list[str]:
    """So many of the texts, each as often as the others."""
    rng = random.Random(seed)
    found: list[str] = []
    while len(found) < count:
        found += rng.sample(texts, len(texts))[: count - len(found)]
    return found
