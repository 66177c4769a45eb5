"""Why a model ranks replies as it does: explained, written to a folder as JSON and pictures, and printed."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from personae import console, picture
from personae.agent import Agent
from personae.data import lines
from personae.data.candidates import examples, offered
from personae.data.read import read
from personae.types import Example, Explained, InputError


def write(
    model: str,
    texts: Mapping[str, Sequence[str]],
    *,
    data: str | None = None,
    ids: Sequence[str] = (),
    top: int = 1,
    out: Path,
) -> dict[str, Any]:
    """Explains the case that `texts` make ("persona", "context", "candidates" and, if it is known, "partner"), or those
    of the corpus file `data` with these `ids`. Writes explanation.json and a picture of each candidate that is shown to
    the folder `out`; the pictures of an earlier explanation are deleted. The first `top` candidates are shown, and the
    true reply where it is known. InputError where the two ways are mixed, or one is not complete."""
    if texts and (data or ids):
        raise InputError(
            f"--{next(iter(texts))}: a case of a corpus has its own; give files of text, or --data and --case"
        )
    if bool(data) != bool(ids):
        raise InputError("--data, --case: one needs the other; give both")
    missing = [f"--{name}" for name in ("persona", "context", "candidates") if name not in texts]
    if missing and not data:
        raise InputError(f"{', '.join(missing)}: give a file of text, or a case of a corpus by --data and --case")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder")
    corpus = _corpus(data) if data else {}
    for name in ids:
        if name not in corpus:
            some = ", ".join(list(corpus)[:3])
            raise InputError(f"--case {name}: is none of the {len(corpus)} cases of {data}; they are {some} and so on")
    agent = Agent.load(model)
    if data and not hasattr(agent.task.model, "loss"):
        agent.task.model.prepare(text for case in corpus.values() for text in case.target.candidates)
    cases = [corpus[name] for name in dict.fromkeys(ids)] or [agent.case(**texts)]
    explained = [agent.explain(case, top=top) for case in cases]
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("explanation-[0-9]*.svg"):
        old.unlink()
    names = (f"explanation-{number}.svg" for number in count(1))
    told = [_case(case, shown, agent.scale, names) for case, shown in zip(cases, explained, strict=True)]
    for case, shown in zip(told, explained, strict=True):
        for row, one in zip(case["shown"], shown, strict=True):
            speakers = [turn["speaker"] for turn in case["context"]]
            about = f"{Path(model).name or model}, {_about(case, row, agent.scale)}"
            picture.save(out / row["picture"], one, speakers, unit=case["unit"], about=about)
    result = {"model": model, "scale": agent.scale, "cases": told}
    lines.save([json.dumps(result)], out / "explanation.json")
    return result


def show(result: dict[str, Any]) -> None:
    """Prints what `write` gave."""
    for case in result["cases"]:
        for row in case["shown"]:
            weighed = any(effect["weight"] is not None for effect in row["effects"])
            cells = [
                (
                    picture.OWNERS[effect["whose"]],
                    effect["line"],
                    picture.changed(effect["change"]),
                    *([f"{effect['weight']:.3f}"] if weighed else []),
                )
                for effect in row["effects"]
            ]
            columns = ["about", "persona line", f"change of {case['unit']} without it"]
            columns += ["fusion's weight"] * weighed
            title = f"{row['text']}\n{_about(case, row, result['scale'])}"
            console.table(columns, cells, title=title, right=columns[2:])


def _corpus(data: str) -> dict[str, Example]:
    """The cases of a file by their ids, with candidates as `personae evaluate` gives them."""
    dialogues = read(data)
    try:
        return {case.id: case for case in examples(offered(dialogues)[0])}
    except InputError as error:
        raise InputError(f"{data}: {error}") from None


def _case(case: Example, shown: Sequence[Explained], scale: str, names: Iterator[str]) -> dict[str, Any]:
    """A case and what is shown of it; without an id and a true reply where texts make it."""
    known = case.target.text in case.target.candidates
    return {
        "id": case.id if known else None,
        "persona": case.facts("self"),
        "partner": case.facts("partner"),
        "context": [
            {"speaker": "self" if turn.speaker == case.target.speaker else "partner", "text": turn.text}
            for turn in case.context.turns
        ],
        "candidates": len(case.target.candidates),
        "unit": scale if shown[0].log_share is None else "log share",
        "shown": [
            {
                **asdict(one),
                "true_reply": one.text == case.target.text if known else None,
                "picture": next(names),
            }
            for one in shown
        ],
    }


def _about(case: dict[str, Any], row: dict[str, Any], scale: str) -> str:
    """A line about a candidate."""
    logged = row["log_share"]
    share = "" if logged is None else f", log share {logged:z.3f} ({math.exp(logged):.1%})"
    true = {True: ", the true reply", False: ", not the true reply", None: ""}[row["true_reply"]]
    place = f"rank {row['rank']} of {case['candidates']}{true}; {scale} {row['score']:.3f}{share}"
    return place if case["id"] is None else f"{case['id']}: {place}"
