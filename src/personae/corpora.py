"""The commands of `personae data`: look at corpora."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from personae.types import InputError


def verify(path: str, *, json: bool = False) -> None:
    """Check official files by size and md5.

    Args:
        path: a file or a folder, as it is or below PERSONAE_DATA.
        json: print one JSON object.
    """
    from personae import console
    from personae.data import inspect as inspection

    found = inspection.verify(path)
    (console.as_json if json else console.facts)(found)
    damaged = [check["path"] for check in found.get("files", [found]) if check.get("status") == "differs"]
    if damaged:
        raise InputError(f"{', '.join(damaged)}: not the published content under a published name; copy it again")


def stats(path: str, *, against: str | None = None, json: bool = False) -> None:
    """Count dialogues, turns, candidates, persona lines and lengths, and what two files or splits share.

    Args:
        path: a file, as it is or below PERSONAE_DATA.
        against: another file; prints how many dialogues, personas, persona lines and replies the two share.
        json: print one JSON object.
    """
    from personae import console
    from personae.data import inspect as inspection

    (console.as_json if json else console.facts)(inspection.stats(path, against=against))


def users(
    path: str,
    *,
    by: Literal["speaker", "persona"] = "speaker",
    most: int = 500,
    answered_by: int = 1,
    fewest: int = 10,
    held_out: int = 3,
    near: float | None = None,
    leave_out: Sequence[str] = (),
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Count users, the questions that they answered, and how much of the table of both is filled.

    Args:
        path: a file, as it is or below PERSONAE_DATA.
        by: what makes a user: a speaker's id, or a persona that has two lines in common with another's.
        most: so many users, the most active ones.
        answered_by: only questions that so many users answered.
        fewest: only users who gave so many answers to them.
        held_out: so many answers of each user are for development, and as many for validation.
        near: questions are the same from this similarity on, between 0 and 1, of their MiniLM vectors; otherwise where
            their letters are.
        leave_out: a user who is not counted, by id; may be given several times.
        out: a folder for histories.jsonl, what the users said in training, and asked.jsonl, what each is to answer in
            validation and really said, so that replies of any system can be written and measured by `personae perhits`.
        json: print one JSON object.
    """
    from personae import console
    from personae.data.users import ASKED, HISTORIES, Users, write
    from personae.names import as_options

    taken = [out / name for name in (HISTORIES, ASKED) if (out / name).exists()] if out else []
    if out is not None and (taken or (out.exists() and not out.is_dir())):
        raise InputError(
            f"--out {out}: {f'has {taken[0].name} already' if taken else 'is a file'}; name another folder"
        )
    with as_options("corpus", files=path):
        corpus = Users(
            files=[path],
            by=by,
            most=most,
            answered_by=answered_by,
            fewest=fewest,
            held_out=held_out,
            near=near,
            leave_out=list(leave_out),
        )
        counts = corpus.counts()
    if out is not None:
        write(corpus, out)
    (console.as_json if json else console.facts)(counts)
    if out is not None and not json:
        print(f"written to {out}: {HISTORIES} and {ASKED}")


def show(path: str, *, n: int = 3, json: bool = False) -> None:
    """Print the first dialogues of a file.

    Args:
        path: a file, as it is or below PERSONAE_DATA.
        n: how many.
        json: print one JSON object.
    """
    from personae import console
    from personae.data import inspect as inspection

    if n < 1:
        raise InputError(f"-n: {n} is not at least 1")
    dialogues = inspection.show(path, n)
    if json:
        console.as_json({"dialogues": [asdict(dialogue) for dialogue in dialogues]})
        return
    for dialogue in dialogues:
        print(console.plain(dialogue.id))
        for number, speaker in enumerate(dialogue.speakers):
            for fact in speaker.persona.facts:
                print(console.plain(f"  persona {number}: {fact}"))
        for turn in dialogue.turns:
            offered = f"  ({len(turn.candidates)} candidates)" if turn.candidates else ""
            print(console.plain(f"  {turn.speaker}: {turn.text}{offered}"))
