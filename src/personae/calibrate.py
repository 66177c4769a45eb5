"""A run is calibrated: its scores become probabilities, by what it answers to dialogues held out of its training."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from personae import results, run
from personae.metrics.calibration import expected_error, fit, reliability
from personae.tasks.selection import Selection
from personae.types import Corpus, InputError


def calibrate(folder: Path) -> dict[str, Any]:
    """Fits the calibration of a run to the "dev" split of its recipe's corpus, twenty candidates a reply, and keeps it
    in the run's config.json. Gives it, with the number of replies and the expected calibration error on them.
    InputError where there is no run, it was not trained to choose replies, or its corpus is not to be found."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is no run folder; give the --out of a `personae fit`")
    task = run.load(str(folder))
    if not isinstance(task, Selection):
        raise InputError(
            f"{folder}: writes replies, and has no scores to make probabilities of; give a run that was trained to "
            "choose replies"
        )
    corpus: Corpus = run.part(str(folder / "recipe.yaml"), "corpus", Corpus)
    cases, _ = task.cases(list(corpus.split("dev")), "corpus.dev", sides="both")
    rows = results.predict(task, cases)
    try:
        calibration = fit(rows)
    except ValueError as error:
        raise InputError(f"{folder}: cannot be calibrated: {error}") from None
    config = results.read_json(folder / "config.json")
    results.write_json({**config, "calibration": asdict(calibration)}, folder / "config.json")
    return {"calibration": asdict(calibration), "n": len(rows), "ece": expected_error(reliability(rows, calibration))}
