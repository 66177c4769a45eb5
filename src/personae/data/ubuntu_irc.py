"""Conversations of the Ubuntu channel, each message with its writer and the messages that it answers (Kummerfeld et
al., A Large-Scale Corpus for Conversation Disentanglement, ACL 2019, https://aclanthology.org/P19-1374).

    {"file": "2004-12-25.train-c", "turns": [{"id": 7, "nick": "ann", "text": "any idea ?", "re": []},
     {"id": 8, "nick": "bob", "text": "reboot .", "re": [7]}]}

A dialogue is a chain of answers between two writers. Whoever else answers a message, or answers it later, begins
another chain with that message, so that each answer is in one dialogue alone. What a writer adds to their own last
message of a chain is of the same turn. A message tells by its first word whom it is addressed to; that is left out, and
where else a writer of the conversation is named, the word is "nick": replies are told apart by what they say."""

import re
from pathlib import Path
from typing import Any

from personae.data import jsonl
from personae.types import Dialogue, InputError, Speaker, Turn


def read(path: Path) -> list[Dialogue]:
    """Every chain of at least two turns; its first writer is speaker 0. InputError names file, line and field."""
    found = []
    for number, record in jsonl.records(path):
        where = f"{path}:{number}"
        messages = record.get("turns")
        if not isinstance(messages, list):
            raise InputError(f"{where}: field turns: a list is wanted")
        for place, chain in enumerate(_chains(_unaddressed(messages, where))):
            if len(chain) > 1:
                writers = list(dict.fromkeys(writer for writer, _ in chain))
                turns = tuple(Turn(writers.index(writer), text) for writer, text in chain)
                name = f"{path.stem}-{number}/{place}"
                found.append(Dialogue(name, (Speaker(writers[0]), Speaker(writers[1])), turns))
    return found


def _unaddressed(messages: list[object], where: str) -> list[dict[str, Any]]:
    """The messages without the nick that they begin with, and with other nicks told as such."""
    found: list[dict[str, Any]] = []
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("nick", "text")):
            raise InputError(f"{where}: field turns[{place}]: an object with nick and text is wanted")
        answered = message.get("re") or []
        if not isinstance(answered, list) or not all(isinstance(one, int | str) for one in answered):
            raise InputError(f"{where}: field turns[{place}].re: a list of the ids of messages is wanted")
        if not isinstance(message.get("id"), int | str | None):
            raise InputError(f"{where}: field turns[{place}].id: a number or a text is wanted")
        found.append(message)
    nicks = "|".join(sorted({re.escape(message["nick"]) for message in found} - {""}, key=len, reverse=True))
    if not nicks:
        return found
    named = re.compile(rf"(?<!\w)(?:{nicks})(?!\w)")
    first = re.compile(rf"\s*@?(?:{nicks})(?!\w)[\s:,;>]*")
    return [{**message, "text": named.sub("nick", _begun(first, message["text"]))} for message in found]


def _begun(first: re.Pattern[str], text: str) -> str:
    """A text without what it begins with, if anything is left."""
    found = first.match(text)
    return text[found.end() :] or "nick" if found else text


def _chains(messages: list[dict[str, Any]]) -> list[list[tuple[str, str]]]:
    """Chains of writers and texts."""
    chains: list[list[tuple[str, str]]] = []
    at: dict[object, tuple[int, int]] = {}  # of each message, its chain and its turn there
    for message in messages:
        writer, text = message["nick"], message["text"].strip()
        answered = [at[one] for one in message.get("re") or () if one in at]
        if not text:
            continue
        chain, turn = answered[-1] if answered else (-1, -1)
        before = chains[chain] if answered else []
        last = turn == len(before) - 1
        invited = len(before) == 1 or writer in {one for one, _ in before[-2:-1]}
        if before and last and before[-1][0] == writer:
            before[-1] = writer, f"{before[-1][1]} {text}"
        elif before and last and invited:
            before.append((writer, text))
            turn += 1
        else:
            chain, turn = len(chains), 0
            chains.append([])
            if answered and before[answered[-1][1]][0] != writer:
                chains[-1].append(before[answered[-1][1]])
                turn = 1
            chains[-1].append((writer, text))
        at[message.get("id")] = chain, turn
    return chains
