"""The commands that measure what anybody wrote: no model of ours is asked."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from personae.metrics.ngram import Floats

log = logging.getLogger(__name__)

Scorer = Literal["ngram", "kenlm", "lm"]

USERS = {"ngram": 500, "kenlm": 500, "lm": 50}
"""Among so many users responses are ranked by each scorer; the paper's number, and what a CPU can do in minutes."""

_Kept = list[tuple[str, Sequence[str]]]
"""A user, and what is taken to be theirs, in words."""


class Models(Protocol):
    """A language model of each of U users."""

    def perplexities(self, sentences: Sequence[Sequence[str]]) -> "Floats":
        """The perplexity of each sentence under each user's model: (sentences, U)."""
        ...


def perhits(
    *,
    responses: Path,
    histories: Path,
    real: Path | None = None,
    scorer: Scorer = "ngram",
    backbone: str | None = None,
    users: int | None = None,
    k: int | None = None,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Measure Per-Hits@k: whether each response sounds like the user it was written for.

    Args:
        responses: a file with {"user": ..., "text": ...} in each line, what is measured.
        histories: such a file of what each user said before; the responses must not be of it.
        real: such a file of users' real responses; their own value, the ceiling, is the most that can be expected of
            others. If not given, it is measured on some last messages that are held out of the histories.
        scorer: the language models of the users: our trigram models, those of KenLM's lmplz, which are the same, or
            a causal transformer with an adapter of each user.
        backbone: of the scorer lm, a folder or a hub id; SmolLM2-135M if not given.
        users: among so many users, those with the most messages, each response is ranked; 500 if not given, of lm 50.
        k: the greatest one; if not given 5, or the number of users where they are fewer.
        seed: of the bootstrap.
        json: print one JSON object.
    """
    from personae import console

    among = USERS[scorer] if users is None else users
    found = judged(responses, histories, real, scorer=scorer, backbone=backbone, users=among, k=k, seed=seed)
    (console.as_json if json else console.per_hits)(found)


def judged(
    responses: Path,
    histories: Path,
    real: Path | None,
    *,
    scorer: Scorer,
    backbone: str | None,
    users: int,
    k: int | None,
    seed: int,
) -> dict[str, Any]:
    """What `perhits` prints. InputError names the file and the line, or the user without a history."""
    from personae.data import jsonl
    from personae.data.read import find
    from personae.metrics import per_hits
    from personae.metrics.compare import interval
    from personae.types import InputError

    if users < 1:
        raise InputError(f"--users: {users} is not at least 1")
    if seed < 0:
        raise InputError(f"--seed: {seed} is not at least 0")
    said: dict[str, list[list[str]]] = {}
    for user, text in jsonl.messages(find(histories)):
        said.setdefault(user, []).append(per_hits.spoken(text))
    spoke = Counter({user: len(each) for user, each in said.items() if any(each)})
    chosen = [user for user, _ in spoke.most_common(users)]
    if not chosen:
        raise InputError(f"{histories}: no user has a message there; give some")
    most = min(per_hits.MOST, len(chosen)) if k is None else k
    if not 1 <= most <= len(chosen):
        raise InputError(f"-k: {k} is not between 1 and {len(chosen)}, the number of users; give another -k")
    known = {user: set(map(tuple, said[user])) for user in chosen}
    left: Counter[str] = Counter()

    def read(path: Path) -> _Kept:
        kept: _Kept = []
        for user, text in jsonl.messages(find(path)):
            if user not in spoke:
                raise InputError(f"{path}: user {user!r} has a response, but no history in {histories}: give one")
            if user not in known:
                left[f"of {path} left out: their users are none of the {len(chosen)} with the most messages"] += 1
                continue
            spoken = per_hits.spoken(text)
            if not spoken:
                left[f"of {path} are empty: they are ranked by how likely each user says nothing"] += 1
            if spoken and tuple(spoken) in known[user]:
                left[f"of {path} stand in their users' histories, word for word, which makes them easy"] += 1
            kept.append((user, spoken))
        if not kept:
            raise InputError(f"{path}: holds no response of a user who is measured")
        return kept

    def measured(models: Models, kept: _Kept) -> dict[str, Any]:
        owners = [user for user, _ in kept]
        rows = per_hits.rows(models.perplexities([text for _, text in kept]), chosen, owners)
        found = per_hits.metrics(rows, most=most)
        return {name: asdict(interval(each, owners, seed=seed)) for name, each in found.items()}

    asked, true = read(responses), read(real) if real else []
    models, name = _models(scorer, backbone, [said[user] for user in chosen])
    found = measured(models, asked)
    about = f"the real responses of {real}"
    if not real:
        rest, true, about = _held_out(histories, {user: said[user] for user in chosen}, scorer)
        models = _models(scorer, backbone, rest)[0] if true else models
    return {
        "responses": str(responses),
        "n": len(asked),
        "users": len(chosen),
        "scorer": name,
        "chance": per_hits.chance(len(chosen), most=most),
        "metrics": found,
        "real": measured(models, true) if true else None,
        "ceiling": about,
        "remarks": dict(left),
    }


def _held_out(
    histories: Path, said: Mapping[str, Sequence[Sequence[str]]], scorer: Scorer
) -> tuple[Sequence[Sequence[Sequence[str]]], _Kept, str]:
    """Where there are no real responses: of users' histories what is left, what is held out as the ceiling, and what
    is told of it. Nothing is held out of any where the scorer is too dear to be trained twice."""
    from personae.console import counted
    from personae.metrics import per_hits

    if scorer == "lm":
        why = "none: to hold messages out, an adapter of each user would have to be trained once more"
        return [], [], f"{why}; give real responses (--real)"
    rest, held = per_hits.parted(list(said.values()))
    kept: _Kept = [(user, text) for user, texts in zip(said, held, strict=True) for text in texts]
    if not kept:
        why = f"none: no user of {histories} has ten messages, one of them said once, which could be held out"
        return [], [], f"{why}; give real responses (--real)"
    count = f"{counted(len(kept), 'message')} of {counted(sum(map(bool, held)), 'user')}, held out of {histories}"
    return rest, kept, f"{count}; their models read the rest alone"


def _models(scorer: Scorer, backbone: str | None, said: Sequence[Sequence[Sequence[str]]]) -> tuple[Models, str]:
    """The users' models, and what they are called beside their numbers. InputError where a backbone is given that is
    not asked."""
    from personae.types import InputError, check

    check("--scorer", scorer, Scorer)
    if backbone is not None and scorer != "lm":
        raise InputError(f"--backbone: the scorer {scorer} has none; take --scorer lm, or leave it out")
    if scorer == "kenlm":
        from personae.metrics.kenlm import ORDER, KenlmModels

        return KenlmModels(said), f"kenlm-{ORDER}"
    if scorer == "lm":
        from personae import console
        from personae.nn.user_lm import UserModels

        if len(said) > USERS[scorer]:
            log.warning("%d users: training takes a processor some five seconds for each; --users 50 may do", len(said))
        with console.progress("users", len(said)) as advance:
            models = UserModels(said, backbone=backbone, advance=advance)
        return models, f"lm-{models.causal.name}"
    from personae.metrics.ngram import NgramModels

    return NgramModels(said), "ngram-3"
