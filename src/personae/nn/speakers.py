"""A vector of each user, which a decoder reads beside every word: random, or made of what the user said.

Li et al., A Persona-Based Neural Conversation Model, ACL 2016 (https://aclanthology.org/P16-1094); started from the
mean of sentence vectors of the user's past responses, reduced by principal component analysis, or from the factors of a
trained tensor factorization, or both, as in Wu, Ma and Yang, GEM 2021, sections 5.2 and 5.6
(https://aclanthology.org/2021.gem-1.5). Not stated in the paper: vectors of either kind are scaled to a root mean
square of `SCALE` a feature, which random ones have, too.

Letters: J users, W features, D features of a sentence.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from personae.nn.name_table import NameTable
from personae.nn.sentence_encoder import SentenceEncoder
from personae.types import Dialogue, InputError, check

Start = Literal["random", "history", "tf-u", "history+tf-u"]
"""What the vectors begin as."""

SCALE = 0.3
LEAST = 1e-3
"""Where users differ by less, in sentence vectors of length 1, it is by rounding: they all said the same. Factors that
are less are not scaled up either."""


class Speakers(nn.Module):
    """Vectors that begin as `start` says: of `width` features where these are random or made of the users' histories,
    and of `factor_width` more, or only those, where they are the users' factors in the run `factors`."""

    def __init__(
        self, *, width: int = 30, start: Start = "history", factors: str | None = None, factor_width: int = 50
    ) -> None:
        super().__init__()
        check("task.model.speakers.start", start, Start)
        if ("tf-u" in start) != (factors is not None):
            what = "leave it out, or let start be tf-u" if factors else "name the run of a model with a tensor"
            raise InputError(f"task.model.speakers.factors: start is {start}; {what}")
        self.start, self.factors = start, factors
        self.own = 0 if start == "tf-u" else width
        self.table = NameTable(width=self.own + (factor_width if factors else 0), spread=SCALE)
        self.width = self.table.width

    def prepare(self, dialogues: Sequence[Dialogue]) -> None:
        """Learns who answers (speaker 1), and what their vectors begin as. InputError where a user has no history or
        no factor, and one is wanted."""
        users = {dialogue.speakers[1].id: dialogue.speakers[1].history for dialogue in dialogues}
        parts = []
        if self.start.startswith("history"):
            parts.append(self._reduced(users))
        if self.factors is not None:
            known = factors_of(Path(self.factors))
            if unknown := next((user for user in users if user not in known), None):
                raise InputError(
                    f"task.model.speakers.factors: {self.factors} has no factor of user {unknown!r}; name a run "
                    "that was trained on the same corpus"
                )
            taken = torch.stack([known[user] for user in users])
            if taken.shape[1] != self.width - self.own:
                raise InputError(
                    f"task.model.speakers.factor_width: {self.factors} has factors of {taken.shape[1]} features"
                )
            parts.append(taken * (SCALE / taken.square().mean().sqrt().clamp(min=LEAST)))
        self.table.prepare(list(users), torch.cat(parts, 1) if parts else None)

    def _reduced(self, users: Mapping[str, Sequence[str]]) -> Tensor:
        """The users' mean sentence vectors on their principal components: (J, width)."""
        if silent := next((user for user, history in users.items() if not history), None):
            raise InputError(
                f"task.model.speakers.start: {self.start} wants a history, and user {silent!r} has none; give every "
                "user one, or start at random"
            )
        means = _told(list(users.values()))
        if self.own > min(means.shape):
            raise InputError(
                f"task.model.speakers.width: {self.own} is more than the {len(users)} users can tell apart"
            )
        centred = means - means.mean(0)
        _, sizes, rows = torch.linalg.svd(centred, full_matrices=False)
        size = (sizes[: self.own].square().sum() / (len(users) * self.own)).sqrt()
        return centred @ rows[: self.own].t() * (SCALE / size.clamp(min=LEAST))


def factors_of(run: Path) -> dict[str, Tensor]:
    """The users' factors (R2,) of the model of a run that has a tensor. InputError where there are none."""
    try:
        state = json.loads((run / "config.json").read_text(encoding="utf-8"))["state"]
        name = next(key.removesuffix("_extra_state") for key in state if key.endswith("personal.users._extra_state"))
        with safe_open(run / "model.safetensors", framework="pt") as file:
            return dict(zip(state[f"{name}_extra_state"]["names"], file.get_tensor(f"{name}weight"), strict=True))
    except (OSError, ValueError, KeyError, TypeError, StopIteration, SafetensorError) as error:
        raise InputError(
            f"task.model.speakers.factors: {run} holds no factors of users ({error}); name the run of a model with a "
            "tensor"
        ) from None


def _told(histories: Sequence[Sequence[str]]) -> Tensor:
    """The mean sentence vectors (J, D) of histories."""
    encoder = SentenceEncoder(field="task.model.speakers.start: history")
    encoder.encode(text for history in histories for text in history)
    return torch.stack([torch.stack([encoder.vectors[text] for text in history]).mean(0) for history in histories])
