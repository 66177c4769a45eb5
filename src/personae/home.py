"""Where personae keeps what it makes for itself: caches, runs, backbones."""

import os
from pathlib import Path


def below(name: str) -> Path:
    """What is called so in the folder that PERSONAE_HOME names, ~/.cache/personae if it names none."""
    return Path(os.environ.get("PERSONAE_HOME") or Path.home() / ".cache" / "personae") / name
