"""personae: the next turn that fits the person - select it, generate it or recommend, and prove that it fits."""

__version__ = "0.1.0"
