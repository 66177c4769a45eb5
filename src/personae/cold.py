"""`personae cold`: how many messages of a new user it takes until a model writes like them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from personae.types import InputError

if TYPE_CHECKING:
    from personae.tasks.generation import Generation
    from personae.types import Example, Spoken

FEWEST = 5
"""So few users are too few to be told apart."""


def cold(
    model: Path,
    *,
    users: int = 20,
    messages: str = "0,1,5,20",
    out: Path,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Measure how well a model writes as users whom its training never saw, by how many of their messages it was given.

    Args:
        model: the run folder of a model that knows its users, trained on a corpus of users.
        users: so many of the corpus, beyond those of the training, are made known to it.
        messages: the numbers of messages of each that it is given.
        out: a folder for cold.json and cold.svg.
        seed: of the choice of messages, which are among those of the next number.
        json: print one JSON object.
    """
    from personae import console, results

    numbers = _numbers(messages)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder")
    if (out / "cold.json").exists():
        raise InputError(f"--out {out}: holds a curve already, which would be lost; name another")
    found = curve(model, users=users, numbers=numbers, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    results.write_json(found, out / "cold.json")
    draw(out / "cold.svg", found)
    if json:
        console.as_json(found)
        return
    console.cold(found)
    print(f"written to {out}: cold.json and cold.svg")


def curve(model: Path, *, users: int, numbers: list[int], seed: int) -> dict[str, Any]:
    """What `cold` prints. A new user's messages are the answers of "cold-train", and their answers of "cold" are
    written; Per-Hits ranks the new users alone, by all that they said before. InputError where the corpus of the run's
    recipe has no such users, or not enough of them."""
    import random
    import time
    from dataclasses import asdict

    from personae import run
    from personae.data.candidates import examples
    from personae.types import Corpus
    from personae.writing import Message, Writer

    if users < FEWEST:
        raise InputError(f"--users: {users} are too few to be told apart; take at least {FEWEST}")
    writer = Writer.load(model)
    if not writer.knows_users:
        raise InputError(f"{model}: knows nothing of users; take a model with a tensor, speakers or memories")
    corpus: Corpus = run.part(str(model / "recipe.yaml"), "corpus", Corpus, {"corpus.cold": str(users)})
    said: dict[str, list[Message]] = {}
    for example in examples(list(corpus.split("cold-train"))):
        context = tuple(turn.text for turn in example.context.turns)
        said.setdefault(example.user.id, []).append(Message(example.target.text, context))
    most = max(numbers)
    enough = {user: own for user, own in said.items() if len(own) >= most}
    kept = {user: random.Random(f"{seed}/{user}").sample(own, len(own)) for user, own in enough.items()}
    if len(kept) < FEWEST:
        raise InputError(
            f"--messages: {len(kept)} of {len(said)} users have {most}; ask for fewer, or for more --users"
        )
    held = [example for example in examples(list(corpus.split("cold"))) if example.user.id in kept]
    steps: list[dict[str, Any]] = []
    beside: dict[str, Any] = {}
    for number in numbers:
        writer, start = Writer.load(model), time.perf_counter()
        for user, own in kept.items():
            writer.welcome(user, own[:number])
        seconds = (time.perf_counter() - start) / len(kept)
        known = {user: tuple(message.text for message in own[:number]) for user, own in kept.items()}
        rows = spoken(writer.task, held, known)
        beside = writer.task.beside(rows)
        metrics = {name: asdict(row) for name, row in writer.task.measure(rows).items()}
        steps.append({"messages": number, "seconds": seconds, "metrics": metrics})
    return {"model": str(model), "users": len(kept), "n": len(held), "seed": seed, "curve": steps, **beside}


def spoken(task: "Generation", held: "list[Example]", known: dict[str, tuple[str, ...]]) -> "list[Spoken]":
    """What is written for the held-out answers where so much is known of their users, judged by all they said."""
    from dataclasses import replace

    import torch

    def only(example: "Example") -> "Example":
        asker, user = example.context.speakers
        return replace(
            example, context=replace(example.context, speakers=(asker, replace(user, history=known[user.id])))
        )

    rows: list[Spoken] = []
    with torch.no_grad():
        for batch in task.held_out(held):
            inputs = task.model.collate([only(example) for example in batch.examples])
            rows += task.rows_of(replace(batch, inputs=inputs))
    places = {example.id: place for place, example in enumerate(held)}
    return sorted(rows, key=lambda row: places[row.id])


def draw(path: Path, found: dict[str, Any]) -> None:
    """Writes the curve of Per-Hits as SVG, with intervals, real replies and chance."""
    from matplotlib.figure import Figure

    from personae import diagram

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    places = list(range(len(found["curve"])))
    for name, colour in zip(_shown(found)[:2], (diagram.COLOUR, "#b45309"), strict=True):
        rows = [step["metrics"][name] for step in found["curve"]]
        axes.plot(places, [row["value"] for row in rows], color=colour, marker="o", label=name)
        axes.fill_between(
            places, [row["low"] for row in rows], [row["high"] for row in rows], color=colour, alpha=0.15, linewidth=0
        )
        axes.axhline(found["real"][name]["value"], color=colour, linewidth=1, linestyle="--")
        axes.axhline(found["chance"][name], color=colour, linewidth=1, linestyle=":")
    axes.set_xticks(places, [str(step["messages"]) for step in found["curve"]])
    axes.set(
        xlabel="messages of a new user",
        ylim=(0, 1.02),
        title=f"{found['n']} replies as {found['users']} new users (dashed: real ones, dotted: chance)",
    )
    axes.title.set_fontsize(9)
    axes.legend(frameon=False, loc="best", fontsize=9)
    diagram.write(path, figure)


def _numbers(given: str) -> list[int]:
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"--messages {given}: numbers with commas between them are wanted, such as 0,1,5,20")
    return sorted(set(map(int, parts)))


def _shown(found: dict[str, Any]) -> list[str]:
    """The metrics that are printed; the first two are drawn."""
    names = list(found["curve"][0]["metrics"])
    starts = ("per-hits@1/", "per-hits-avg/", "perplexity/")
    return [name for start in starts for name in names if name.startswith(start)]
