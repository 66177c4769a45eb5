"""Per-Hits@k by trigram models of all users, from their words to metrics, training included: ours against nltk's.

Timed are, of ours, models of all users and the metrics of all responses, each under each model; of nltk, models of some
users (`KneserNeyInterpolated`, order 3, fitted on everygrams of padded messages) and the perplexities of some responses
under them. nltk would take more than an hour for all, so `theirs` is scaled from these: its training by the number of
users, its scoring by that of pairs, of a response and a user.

nltk's model has one discount, 0.1, and gives a word that a user never said no probability at all, so that most
responses have no perplexity; how far the two agree is told of the rest. KenLM's models, where KenLM is there, are the
same as ours; `equal` says whether all perplexities are, to a thousandth in 99 of 100 pairs.
"""

import json
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import command
import numpy as np
import torch
from scipy import stats

from personae.data.read import find
from personae.data.users import Users
from personae.metrics import per_hits
from personae.metrics.kenlm import KenlmModels
from personae.metrics.ngram import Floats, NgramModels
from personae.results import environment
from personae.types import InputError

CORPUS = "personachat/train_partial.jsonl"

Said = dict[str, list[list[str]]]
"""What each user said, in words."""

Responses = list[tuple[str, list[str]]]
"""A user, and what they replied."""


def corpus(file: str | None, users: int, seed: int) -> tuple[Said, Responses]:
    """Of each user, who is a persona, what they said and three responses that are held out. Without a `file`, generated
    ones. InputError where the file is not there."""
    if file is None:
        return generated(users, seed)
    answers = list(Users(files=[file], by="persona", most=users, seed=seed).split("valid"))
    said = {answer.speakers[1].id: list(map(per_hits.spoken, answer.speakers[1].history)) for answer in answers}
    return said, [(answer.speakers[1].id, per_hits.spoken(answer.turns[-1].text)) for answer in answers]


def generated(users: int, seed: int) -> tuple[Said, Responses]:
    """Each user says 67 messages of 12 words, of which each has some that they like."""
    ranks = 1 / np.arange(1, 1001)
    said: Said = {}
    responses: Responses = []
    for user in range(users):
        drawn = np.random.default_rng((seed, user))
        liked = ranks * np.where(drawn.random(len(ranks)) < 0.02, 20, 1)
        texts = drawn.choice(len(ranks), (70, 12), p=liked / liked.sum()).astype(str).tolist()
        said[str(user)] = texts[3:]
        responses += [(str(user), text) for text in texts[:3]]
    return said, responses


def ours(said: Said, responses: Responses) -> Floats:
    """The perplexity of each response under the model of each user, of which metrics are made."""
    found = NgramModels(list(said.values())).perplexities([text for _, text in responses])
    per_hits.metrics(per_hits.rows(found, list(said), [user for user, _ in responses]), most=min(5, len(said)))
    return found


def theirs(said: Said, responses: Responses) -> tuple[Floats, float, float]:
    """The perplexities by nltk, and the seconds that it took to fit the models and to score the responses."""
    from nltk import ngrams
    from nltk.lm import KneserNeyInterpolated
    from nltk.lm.preprocessing import pad_both_ends
    from nltk.util import everygrams

    start = time.perf_counter()
    models = []
    for texts in said.values():
        padded = [list(pad_both_ends(text, n=3)) for text in texts]
        models.append(KneserNeyInterpolated(3))
        words = [word for text in padded for word in text]
        models[-1].fit([list(everygrams(text, max_len=3)) for text in padded], words)
    middle = time.perf_counter()
    asked = [list(ngrams(pad_both_ends(text, n=3), 3)) for _, text in responses]
    found = np.array([[model.perplexity(text) for model in models] for text in asked])
    return found, middle - start, time.perf_counter() - middle


def agreement(one: Floats, other: Floats) -> dict[str, float | None]:
    """Of perplexities (responses, users): the share that is finite, Pearson's r of the logarithms of these, and
    Spearman's of all, in which a response without a perplexity comes last; both None where fewer than three are."""
    there = np.isfinite(one) & np.isfinite(other)
    logs = np.log(one[there]), np.log(other[there])
    enough = there.sum() > 2
    return {
        "pearson": float(stats.pearsonr(*logs).statistic) if enough else None,
        "spearman": float(stats.spearmanr(one.ravel(), other.ravel()).statistic) if enough else None,
        "finite": float(there.mean()),
    }


def measure(file: str | None, *, users: int, some: int, runs: int, seed: int) -> dict[str, Any]:
    """The result that `--json` prints. InputError where there are fewer than two users."""
    said, responses = corpus(file, users, seed)
    if len(said) < 2:
        raise InputError("--users: there is one user, among whom nothing can be ranked: give more")
    few = random.Random(seed).sample(list(said), min(some, len(said)))
    places = [place for place, user in enumerate(said) if user in few]
    asked = [place for place, (user, _) in enumerate(responses) if user in few]
    part = {user: texts for user, texts in said.items() if user in few}
    users_of, pairs_of = (len(part), len(said)), (len(part) * len(asked), len(said) * len(responses))
    taken, parts = [], []
    for run in range(runs):
        start = time.perf_counter()
        mine = ours(said, responses)
        seconds = time.perf_counter() - start
        nltk, *each = theirs(part, [responses[place] for place in asked])
        parts.append(each)
        whole = sum(spent * of / some for spent, (some, of) in zip(each, (users_of, pairs_of), strict=True))
        taken.append((seconds, whole))
        print(f"run {run + 1}: {taken[-1][0]:.1f} s, nltk {taken[-1][1]:,.0f} s, scaled", file=sys.stderr)
    result = {
        "what": f"Per-Hits@k of {len(responses):,} responses among {len(said)} users by trigram models, with training",
        "ratio": statistics.median(b / a for a, b in taken),
        "ours": statistics.median(a for a, _ in taken),
        "theirs": statistics.median(b for _, b in taken),
        "unit": "seconds",
        "runs": runs,
        "equal": None,  # where there is no KenLM to compare with
        "machine": {**environment(torch.device("cpu")), "cores": os.cpu_count()},
        "ratios": [b / a for a, b in taken],
        "scaled": {
            "users": users_of,
            "training": statistics.median(training for training, _ in parts),
            "pairs": pairs_of,
            "scoring": statistics.median(scoring for _, scoring in parts),
        },
        "nltk": agreement(mine[np.ix_(asked, places)], nltk),
    }
    try:
        start = time.perf_counter()
        kenlm = KenlmModels(list(said.values())).perplexities([text for _, text in responses])
    except InputError as error:
        print(error, file=sys.stderr)
        return {**result, "kenlm": None}
    seconds = time.perf_counter() - start
    apart = np.abs(mine / kenlm - 1)
    same = float((stats.rankdata(mine, axis=1) == stats.rankdata(kenlm, axis=1)).mean())
    result["kenlm"] = {**agreement(mine, kenlm), "seconds": seconds, "apart": float(apart.max()), "same_rank": same}
    return {**result, "equal": bool((apart < 1e-3).mean() > 0.99)}


def _said(result: dict[str, Any]) -> str:
    scaled, pearson, kenlm = result["scaled"], result["nltk"]["pearson"], result["kenlm"]
    line = (
        f"{result['what']}: {result['ours']:.1f} s, nltk {result['theirs']:,.0f} s, scaled from {_of(scaled['users'])} "
        f"users' training and {_of(scaled['pairs'])} pairs' scoring, {result['ratio']:,.0f} times as fast"
    )
    if pearson is not None:
        line += f"; r with nltk's logarithms {pearson:.3f}"
    if kenlm is not None:
        line += f"; KenLM {kenlm['seconds']:.1f} s, {'the same' if result['equal'] else 'OTHER'} perplexities"
    return line


def _of(counts: tuple[int, int]) -> str:
    return f"{counts[0]:,} of {counts[1]:,}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its result; the exit code is 2 after a mistake of the user's."""
    parser = command.parser(__doc__ or "", built=False)
    parser.add_argument("--users", type=command.positive, default=500, help="the most active ones")
    parser.add_argument("--some", type=command.positive, default=20, help="users, with their responses, for nltk")
    parser.add_argument("--runs", type=command.positive, default=3, help="each side in turn")
    parser.set_defaults(data=None)
    options = vars(parser.parse_args(arguments))
    as_json, file = options.pop("json"), options.pop("data")
    torch.set_num_threads(options.pop("threads"))
    try:
        if file is None:
            file = CORPUS if _there() else None
        result = measure(file, **options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result) if as_json else _said(result))
    return 0


def _there() -> bool:
    """Whether there is the corpus, which is taken if no other is named; else one is generated."""
    try:
        find(CORPUS)
    except InputError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
