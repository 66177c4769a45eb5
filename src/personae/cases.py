"""What the systems of a table wrote for a few cases, side by side: the case studies that papers show beside numbers."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from personae import results, run
from personae.data.candidates import examples
from personae.metrics.compare_spoken import Measures
from personae.types import Corpus


def drawn(runs: Mapping[str, Path], n: int) -> list[dict[str, Any]]:
    """So many of the cases that all of these runs, by the names of their systems, wrote a reply for, in the "valid"
    split of the first one's corpus; the same ones each time. Each is the `context`, what was said so far in turn, the
    persona lines of the one who replies (`self`) and of the other (`partner`), what was really said (`real`), and the
    `replies` by system. None where one of them is a record, which holds no text."""
    if not runs or not n:
        return []
    texts: dict[str, dict[str, str]] = {}
    for system, folder in runs.items():
        replies = results.read(folder)[1]
        if isinstance(replies, Measures):
            return []
        texts[system] = {reply.id: reply.text for reply in replies}
    corpus: Corpus = run.part(str(next(iter(runs.values())) / "recipe.yaml"), "corpus", Corpus)
    there = {each.id: each for each in examples(corpus.split("valid"), sides="both")}
    shared = sorted(set(there).intersection(*texts.values()))
    return [
        {
            "id": name,
            "context": [turn.text for turn in there[name].context.turns],
            "self": list(there[name].facts("self")),
            "partner": list(there[name].facts("partner")),
            "real": there[name].target.text,
            "replies": {system: said[name] for system, said in texts.items()},
        }
        for name in random.Random(0).sample(shared, min(n, len(shared)))
    ]
