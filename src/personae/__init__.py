"""personae: the next turn that fits the person - select it, generate it or recommend, and prove that it fits."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from personae.agent import Agent

__version__ = "0.1.0"


def load(model: str) -> "Agent":
    """An agent with a model that comes with the package ("persona-reranker"), that of a run folder, or one that needs
    no training ("minilm"); see `personae.agent.Agent`. InputError where there is none."""
    from personae.agent import Agent

    return Agent.load(model)
