"""`personae demo`: what the package does, on what it brings along."""

import json
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import lightning
from rich.console import Console
from rich.table import Table

from personae import recipes, results, run
from personae.agent import Agent
from personae.data import toy
from personae.data.candidates import examples
from personae.metrics.ranking import metrics
from personae.models.selection.tfidf import TfIdf
from personae.tasks.base import Task
from personae.tasks.selection import Selection
from personae.types import Example

RECIPE = "selection/imn-toy-ra"
"""What `training` trains, on the generated corpus."""

_CONSOLE = Console(width=None if Console().is_terminal else 120)


def conversation() -> None:
    """Six turns with each of three personas: the three best replies of a bank, how likely each is the right one, how
    much the persona moved it, and the line that weighed most. A persona does not repeat itself."""
    assets = resources.files("personae") / "assets"
    script = json.loads((assets / "demo.json").read_text(encoding="utf-8"))
    bank = (assets / "replies.txt").read_text(encoding="utf-8").splitlines()
    agent = Agent.load("persona-reranker")
    _CONSOLE.rule(f"One conversation, three personas, {len(bank)} replies to choose from")
    said: dict[str, list[str]] = {persona["name"]: [] for persona in script["personas"]}
    for persona in script["personas"]:
        _CONSOLE.print(f"[bold]{persona['name']}[/bold]: " + " ".join(persona["facts"]))
    for turn in script["partner"]:
        table = Table(
            "who", "likely", "reply", "moved", "persona line that weighed most", title=f"- {turn}", title_justify="left"
        )
        for persona in script["personas"]:
            name = persona["name"]
            left = [reply for reply in bank if reply not in said[name][1::2]]
            context = [*said[name], turn]
            best = agent.rank(candidates=left, persona=persona["facts"], context=context, explain=3)[:3]
            for place, reply in enumerate(best):
                likely, moved = f"{reply.probability or 0:.2f}", f"{reply.moved or 0:+.1f}"
                table.add_row("" if place else name, likely, reply.text, moved, reply.fact or "-")
            table.add_section()
            said[name] = [*context, best[0].text]
        _CONSOLE.print(table)
    _CONSOLE.print(
        "likely: the probability that it is right. moved: what the persona adds to the logarithm of its share."
    )


def training() -> None:
    """Trains a small IMN-RA on a generated corpus in which the right reply shares meaning, not words, with persona and
    context; prints hits@1 before and after beside chance and TF-IDF."""
    _CONSOLE.rule("Training a model: the right reply shares meaning, not words, with persona and context")
    corpus = toy.Selection(**recipes.read(RECIPE)["corpus"].get("init_args", {}))
    valid = examples(corpus.split("valid"))
    baseline = Selection(model=TfIdf())
    baseline.model.prepare(text for case in valid for text in case.target.candidates)
    lightning.seed_everything(0, verbose=False)
    untrained = run.build(RECIPE)
    untrained.prepare(list(corpus.split("train")))
    with tempfile.TemporaryDirectory() as folder:
        trained = run.train(RECIPE, {}, out=Path(folder) / "run")["metrics"]["hits@1/20"]
    table = Table("on the generated corpus", "hits@1/20", title=f"{len(valid)} held-out replies, 20 candidates each")
    table.add_row("chance", f"{toy.CHANCE:.3f}")
    table.add_row("TF-IDF", f"{_hits(baseline, valid):.3f}")
    table.add_row("IMN-RA before training", f"{_hits(untrained, valid):.3f}")
    table.add_row("IMN-RA after training", f"{trained['value']:.3f} [{trained['low']:.3f}, {trained['high']:.3f}]")
    _CONSOLE.print(table)


def next_steps() -> None:
    """What to try after the demo."""
    _CONSOLE.rule("What next")
    _CONSOLE.print(
        "Rank your own replies, one in each line of a file:\n"
        "  .venv/bin/personae rank persona-reranker --persona me.txt --context said.txt --candidates replies.txt\n"
        "See the models and their recipes:  .venv/bin/personae models\n"
        "Train one on your own dialogues:   .venv/bin/personae fit --help",
        highlight=False,
    )


def _hits(task: Task, cases: Sequence[Example]) -> float:
    values = metrics(results.predict(task, cases))["hits@1/20"]
    return sum(values) / len(values)
