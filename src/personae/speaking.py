"""The commands of generators: a reply as a user, and a new user made known."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from personae.types import InputError

if TYPE_CHECKING:
    from personae.nn.decoding import Decoding
    from personae.writing import Message

Kind = Literal["sample", "greedy", "beam"]

OPTIONS: dict[str, Kind] = {"top_k": "sample", "top_p": "sample", "temperature": "sample", "beams": "beam"}
"""Which kind of decoding an option is of."""


def generate(
    model: str,
    *,
    user: str | None = None,
    history: Path | None = None,
    context: Path,
    persona: Path | None = None,
    partner: Path | None = None,
    kind: Kind | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    temperature: float | None = None,
    beams: int | None = None,
    n: int | None = None,
    shortest: int | None = None,
    longest: int | None = None,
    seed: int = 0,
    stream: bool = False,
    json: bool = False,
) -> None:
    """Write what a user would reply; the average one, unless it is said who.

    Args:
        model: a run folder, of a model that writes replies.
        user: someone whom the model knows, from training or from `personae adapt`; with history, whose messages of it
            to take.
        history: a file of what someone said, as `personae adapt` reads it; it is not kept.
        context: a text file, an utterance in each line, the partner's last; may be empty.
        persona: a text file, lines about the one who replies, for a model that reads them.
        partner: a text file, lines about the other speaker.
        kind: how words are chosen, by sampling, greedily or by a search with beams; where this or one of the others is
            not given, as the recipe has it.
        top_k: sample from so many words, the most probable ones; 0 for all.
        top_p: sample from the most probable words that have this probability together.
        temperature: below 1 makes probable words more so.
        beams: of the search.
        n: write so many replies.
        shortest: words, or the model's own tokens, that a reply has at least.
        longest: and at most.
        seed: of sampling.
        stream: print the reply while it is written.
        json: print one JSON object.
    """
    from dataclasses import asdict

    from personae import console
    from personae.data import lines
    from personae.names import as_options
    from personae.writing import Writer

    given = {"top_k": top_k, "top_p": top_p, "temperature": temperature, "beams": beams}
    lengths = {"n": n, "shortest": shortest, "longest": longest}
    if stream and json:
        raise InputError("--stream, --json: give one of them")
    files = {"context": context, "persona": persona, "partner": partner}
    texts = {name: lines.texts(path) for name, path in files.items() if path}
    if history and user is not None and not _names_users(history):
        raise InputError(
            f"--user {user}: {history} is of one user, whom it does not name; leave --user or --history out"
        )
    messages = told(history, user)[1] if history else []
    writer = Writer.load(model)
    known = str(history) if history else user
    with as_options("decoding"):
        decoding = _decoding(writer.task.decoding, kind, given, {**lengths, "seed": seed})
        if history:
            writer.welcome(str(history), messages)
        if stream:
            for piece in writer.stream(user=known, decoding=decoding, **texts):
                print(console.plain(piece), end="", flush=True)
            print()
            return
        replies = writer.reply(user=known, decoding=decoding, **texts)
    if json:
        shown = {"replies": [asdict(reply) for reply in replies], "decoding": asdict(decoding)}
        console.as_json({"model": model, "user": user or known, **shown})
        return
    for reply in replies:
        print(console.plain(reply.text))


def adapt(
    model: Path,
    *,
    history: Path,
    user: str | None = None,
    out: Path | None = None,
    steps: int | None = None,
    json: bool = False,
) -> None:
    """Make a new user known to a trained model, by what they said: seconds, and nothing else of it changes.

    Args:
        model: the run folder, in whose folder users the new one is kept.
        history: what they said, a text file with a message in each line, or JSON lines, {"user": ..., "text": ...,
            "context": [...]}, of which context, what was said before, may be left out, but helps much.
        user: their name; of JSON lines, whose messages to take. Without it that of the file, or of the only user in it.
        out: a folder for a copy of the run, which then knows them in its place.
        steps: some so many times all messages are looked at, at most; 12 if not given.
        json: print one JSON object.
    """
    from dataclasses import asdict

    from personae import console
    from personae.nn import newcomers
    from personae.writing import Writer

    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: is not an empty folder; name another")
    name, messages = told(history, user)
    writer = Writer.load(model)
    writer.check_name(name, where="--user" if user else f"{history}: user")
    found = writer.welcome(name, messages, steps=newcomers.STEPS if steps is None else steps)
    if not found.messages:
        raise InputError(f"{history}: holds no message; give what they said, or generate for the average user")
    if out is not None:
        writer.folder = _copied(model, out)
    path = writer.keep(name)
    if json:
        console.as_json({"model": str(out or model), "user": name, **asdict(found), "file": str(path)})
        return
    print(f"{name} is known by {console.counted(found.messages, 'message')}, and kept in {path}")
    if found.before is not None:
        both = f"{found.before:.3f} to the average user, {found.after:.3f} to them"
        print(f"log-likelihood of a token of the messages that were fitted: {both}")
        if not any(message.context for message in messages):
            print("none of them has a context; with what they answer, messages tell more (see adapt --help)")


def told(path: Path, user: str | None) -> "tuple[str, list[Message]]":
    """Who said what is in a file, and what. InputError where there is nothing, or of several users none is chosen."""
    from personae.data import jsonl, lines
    from personae.names import hint
    from personae.writing import Message

    if not _names_users(path):
        said = [Message(text) for text in lines.texts(path, "message")]
        return path.stem if user is None else user, said
    by_user: dict[str, list[Message]] = {}
    for name, text, context in jsonl.answers(path):
        by_user.setdefault(name, []).append(Message(text, context))
    if user is None and len(by_user) > 1:
        raise InputError(f"{path}: holds messages of {len(by_user)} users; choose by --user, such as {min(by_user)}")
    chosen = next(iter(by_user)) if user is None else user
    if chosen not in by_user:
        raise InputError(f"--user {user}: {path} holds none of their messages; {hint(chosen, by_user, 'name another')}")
    return chosen, by_user[chosen]


def _names_users(path: Path) -> bool:
    """Whether a file of what was said has a JSON object in each line, and not a message. InputError where it looks like
    other JSON, or like a table."""
    from personae.data import lines

    number, first = next(lines.numbered(path, blank=True), (1, ""))
    first = first.lstrip()
    if first.startswith(("[", '"')) or (first[:1] not in ("", "{") and path.suffix.lower() in (".json", ".jsonl")):
        raise InputError(
            f'{path}:{number}: is no JSON object; write {{"user": "eve", "text": "..."}} in each line, or give a text '
            "file, with a message in each line"
        )
    return first.startswith("{")


def _decoding(recipe: "Decoding", kind: Kind | None, given: dict[str, Any], lengths: dict[str, Any]) -> "Decoding":
    """The recipe's decoding with what was given in place of its own. InputError where an option is of another kind of
    decoding."""
    from dataclasses import replace

    chosen = kind or recipe.kind
    changes = {name: value for name, value in {**given, **lengths}.items() if value is not None}
    for name, of in OPTIONS.items():
        if name in changes and of != chosen:
            raise InputError(f"--{name}: is of --kind {of}, and replies are decoded by {chosen}; leave it out")
    if ("top_p" in changes and "top_k" not in changes) or changes.get("top_k") == 0:
        changes["top_k"] = None
    if chosen != recipe.kind:
        changes = {"n": 1, **changes}
    return replace(recipe, kind=chosen, **changes)


def _copied(run: Path, out: Path) -> Path:
    """A folder with all of a run that is needed to load it, and the users that it knows."""
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        for name in ("recipe.yaml", "config.json", "model.safetensors", "backbone", "users"):
            source = run / name
            if source.is_dir():
                shutil.copytree(source, part / name)
            elif source.exists():
                shutil.copyfile(source, part / name)
        part.replace(out)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error}): name another folder, or make room") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out
