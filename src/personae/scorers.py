"""Two scorers of Per-Hits on the same replies: users' trigram models, and a transformer with an adapter of each user.

Figure 4 of Wu, Ma and Yang, Personalized Response Generation via Tensor Factorization, GEM 2021, section 5.6
(https://aclanthology.org/2021.gem-1.5). Both rank the same users, the most active ones, on replies that were written
for these."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from personae import console, results, run
from personae.metrics import per_hits
from personae.metrics.compare_spoken import Measures
from personae.metrics.ngram import NgramModels
from personae.nn.user_lm import UserModels
from personae.types import Corpus, InputError, Spoken

FILE = "scorers.json"


class Scorers:
    """Language models by two scorers, "ngram" and "lm", of the `most` active users of those who reply in the "valid"
    split of a recipe's corpus. The transformer is that of a folder or a hub id, None for SmolLM2."""

    def __init__(self, recipe: str, *, most: int, backbone: str | None = None) -> None:
        self.recipe, self.most, self.backbone = recipe, most, backbone

    @cached_property
    def said(self) -> dict[str, list[list[str]]]:
        """What the users said elsewhere. InputError where these are fewer than the greatest k."""
        corpus: Corpus = run.part(self.recipe, "corpus", Corpus)
        histories = {one.speakers[1].id: one.speakers[1].history for one in corpus.split("valid")}
        told = {user: list(map(per_hits.spoken, history)) for user, history in histories.items()}
        ordered = sorted((user for user in told if any(told[user])), key=lambda user: -len(told[user]))
        if len(ordered) < per_hits.MOST:
            raise InputError(
                f"corpus: only {len(ordered)} users have a history, and {per_hits.MOST} are ranked at least"
            )
        return {user: told[user] for user in ordered[: self.most]}

    @cached_property
    def models(self) -> dict[str, Any]:
        """The models of both scorers."""
        with console.progress("users", len(self.said)) as advance:
            adapted = UserModels(list(self.said.values()), backbone=self.backbone, advance=advance)
        return {"ngram": NgramModels(list(self.said.values())), "lm": adapted}

    def score(self, folder: Path) -> dict[str, Any]:
        """Per-Hits@k of a run's replies by each scorer, also kept in its folder. InputError where it wrote none for
        these users."""
        replies = results.read(folder)[1]
        some = [] if isinstance(replies, Measures) else [reply for reply in replies if reply.user in self.said]
        if not some:
            raise InputError(f"{folder}: holds no reply that was written for one of the {len(self.said)} users")
        found = {
            **self._wanted(folder),
            "n": len(some),
            "users": len(self.said),
            "hits": {name: _hits(each, list(self.said), some) for name, each in self.models.items()},
            "lm": self.models["lm"].causal.name,
        }
        results.write_json(found, folder / FILE)
        return found

    def kept(self, folder: Path) -> dict[str, Any] | None:
        """What `score` kept, if it is of this; of a record, of the same number of users."""
        if not (folder / FILE).exists():
            return None
        found = results.read_json(folder / FILE, "n", "users", "hits.ngram", "hits.lm", "lm", "most", "predictions")
        if (folder / "predictions.jsonl").exists():
            return found if self._wanted(folder).items() <= found.items() else None
        return found if found["most"] == self.most else None

    def _wanted(self, folder: Path) -> dict[str, Any]:
        digest = results.sha256(folder / "predictions.jsonl")
        return {"predictions": digest, "most": self.most, "backbone": self.backbone}


def _hits(models: Any, users: Sequence[str], replies: Sequence[Spoken]) -> list[float]:
    """Per-Hits@k for k from 1 to 5, between 0 and 1."""
    perplexities = models.perplexities([per_hits.spoken(reply.text) for reply in replies])
    measured = per_hits.metrics(per_hits.rows(perplexities, users, [reply.user for reply in replies]))
    return [sum(values) / len(values) for name, values in measured.items() if "@" in name]
