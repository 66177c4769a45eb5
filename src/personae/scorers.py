"""Two scorers of Per-Hits on the same replies: users' trigram models, and a transformer with an adapter of each user.

Figure 4 of Wu, Ma and Yang, Personalized Response Generation via Tensor Factorization, GEM 2021, section 5.6
(https://aclanthology.org/2021.gem-1.5). Both rank the same users, the most active ones, on replies that were written
for these."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from personae import console, results, run
from personae.metrics import per_hits
from personae.metrics.compare import Interval, pearson
from personae.metrics.compare_spoken import Measures
from personae.metrics.ngram import NgramModels
from personae.metrics.ranking import ranks
from personae.nn.user_lm import Training, UserModels
from personae.types import Corpus, InputError

FILE = "scorers.json"

NAMES = ("ngram", "lm")


class Scorers:
    """Language models by two scorers, `NAMES`, of the `most` active users of those who reply in the "valid" split of a
    recipe's corpus. The transformer is that of a folder or a hub id, None for SmolLM2."""

    def __init__(self, recipe: str, *, most: int, backbone: str | None = None) -> None:
        self.recipe, self.most, self.backbone = recipe, most, backbone
        self._ranks: dict[tuple[tuple[str, str], ...], dict[str, list[int]]] = {}

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
        """The rank of its user for each of a run's replies, by each scorer, that for the real ones ("real"), and the
        place of that user ("owners"), also kept in its folder. A rank that users share is rounded up. InputError where
        it wrote none for these users."""
        replies = results.read(folder)[1]
        some = [] if isinstance(replies, Measures) else [reply for reply in replies if reply.user in self.said]
        if not some:
            raise InputError(f"{folder}: holds no reply that was written for one of the {len(self.said)} users")
        users = list(self.said)
        found = {
            **self._wanted(folder),
            "users": len(users),
            "lm": self.models["lm"].causal.name,
            "owners": [users.index(reply.user) for reply in some],
            "ranks": self._ranked([(reply.text, reply.user) for reply in some]),
            "real": self._ranked([(reply.reference, reply.user) for reply in some]),
        }
        results.write_json(found, folder / FILE)
        return found

    def _ranked(self, said: Sequence[tuple[str, str]]) -> dict[str, list[int]]:
        """The ranks by each scorer of the users who said these texts; the real ones of all systems are ranked once."""
        key = tuple(said)
        if key not in self._ranks:
            spoken, owners = [per_hits.spoken(text) for text, _ in said], [user for _, user in said]
            rows = {
                name: per_hits.rows(self.models[name].perplexities(spoken), list(self.said), owners) for name in NAMES
            }
            self._ranks[key] = {name: list(map(math.ceil, ranks(each))) for name, each in rows.items()}
        return self._ranks[key]

    def kept(self, folder: Path) -> dict[str, Any] | None:
        """What `score` kept, if it is of this; of a record, of the same number of users."""
        if not (folder / FILE).exists():
            return None
        whole = (folder / "predictions.jsonl").exists()
        wanted = self._wanted(folder) if whole else {"most": self.most}
        if not wanted.items() <= results.read_json(folder / FILE).items():
            return None
        ranked = [f"{whose}.{name}" for whose in ("ranks", "real") for name in NAMES]
        return results.read_json(folder / FILE, "users", "lm", "owners", *ranked)

    def _wanted(self, folder: Path) -> dict[str, Any]:
        digest = results.sha256(folder / "predictions.jsonl")
        return {"predictions": digest, "most": self.most, "backbone": self.backbone, "training": asdict(Training())}


def hits(scored: Mapping[str, Any], name: str, k: int, *, real: bool = False) -> list[float]:
    """Whether each reply, or the `real` one in its place, is a hit@k by a scorer, from what `Scorers.score` found."""
    return [float(rank <= k) for rank in scored["real" if real else "ranks"][name]]


def correlation(scored: Sequence[Mapping[str, Any]], ks: Sequence[int]) -> Interval:
    """Pearson's r of Per-Hits@k by one scorer and by the other, over these k and all systems, from what was found of
    each, with an interval over users. InputError where it cannot be had."""
    if len(scored) * len(ks) < 3:
        raise InputError("fewer than three points say nothing of a line")
    owners = scored[0]["owners"]
    if any(each["owners"] != owners for each in scored):
        raise InputError("the systems did not reply to the same users in the same order")
    x, y = ([hits(each, name, k) for each in scored for k in ks] for name in NAMES)
    return pearson(x, y, list(map(str, owners)))
