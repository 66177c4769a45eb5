"""The commands that measure what anybody wrote: no model of ours is asked."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any


def perhits(
    *,
    responses: Path,
    histories: Path,
    real: Path | None = None,
    users: int = 500,
    k: int = 5,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Measure Per-Hits@k: whether each response sounds like the user it was written for.

    Args:
        responses: a file with {"user": ..., "text": ...} in each line, what is measured.
        histories: such a file of what each user said before; the responses must not be of it.
        real: such a file of users' real responses; their own value is the most that can be expected of others.
        users: among so many users, those with the most messages, each response is ranked.
        k: the greatest one.
        seed: of the bootstrap.
        json: print one JSON object.
    """
    from personae import console

    found = judged(responses, histories, real, users=users, k=k, seed=seed)
    (console.as_json if json else console.per_hits)(found)


def judged(responses: Path, histories: Path, real: Path | None, *, users: int, k: int, seed: int) -> dict[str, Any]:
    """What `perhits` prints. InputError names the file and the line, or the user without a history."""
    from personae.data import jsonl
    from personae.data.read import find
    from personae.metrics import per_hits
    from personae.metrics.compare import interval
    from personae.metrics.ngram import NgramModels
    from personae.text import standard, words
    from personae.types import InputError

    said: dict[str, list[list[str]]] = {}
    for user, text in jsonl.messages(find(histories)):
        said.setdefault(user, []).append(words(standard(text)))
    spoke = Counter({user: len(each) for user, each in said.items() if any(each)})
    chosen = [user for user, _ in spoke.most_common(users)]
    if not 1 <= k <= len(chosen):
        raise InputError(f"-k: {k} is not between 1 and {len(chosen)}, the number of users with a history")
    models = NgramModels([said[user] for user in chosen])
    known = {user: set(map(tuple, said[user])) for user in chosen}
    left: Counter[str] = Counter()

    def measured(path: Path) -> dict[str, Any]:
        kept = []
        for user, text in jsonl.messages(find(path)):
            if user not in said:
                raise InputError(f"{path}: user {user!r} has a response, but no history in {histories}: give one")
            if user not in known:
                left[f"of {path} left out: their users are none of the {len(chosen)} with the most messages"] += 1
                continue
            spoken = words(standard(text))
            if spoken and tuple(spoken) in known[user]:
                left[f"of {path} stand in their users' histories, word for word, which makes them easy"] += 1
            kept.append((user, spoken))
        if not kept:
            raise InputError(f"{path}: holds no response of a user who is measured")
        owners = [user for user, _ in kept]
        rows = per_hits.rows(models.perplexities([text for _, text in kept]), chosen, owners)
        return {
            name: asdict(interval(each, owners, seed=seed)) for name, each in per_hits.metrics(rows, most=k).items()
        }

    found = {"metrics": measured(responses), **({"real": measured(real)} if real else {})}
    return {
        "responses": str(responses),
        "n": found["metrics"][f"per-hits@1/{len(chosen)}"]["n"],
        "users": len(chosen),
        "scorer": "ngram-3",
        "chance": per_hits.chance(len(chosen), most=k),
        **found,
        "left_out": dict(left),
    }
