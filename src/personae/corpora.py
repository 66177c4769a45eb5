"""The commands of `personae data`: look at corpora."""

from dataclasses import asdict

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
