"""Conversations of the Ubuntu channel, each message with its writer and the messages that it answers (Kummerfeld et
al., A Large-Scale Corpus for Conversation Disentanglement, ACL 2019, https://aclanthology.org/P19-1374).

    {"file": "2004-12-25.train-c", "turns": [{"id": 7, "nick": "ann", "text": "any idea ?", "re": []},
     {"id": 8, "nick": "bob", "text": "reboot .", "re": [7]}]}

A dialogue is a chain of answers between two writers. Whoever else answers a message, or answers it later, begins
another chain with that message, so that each answer is in one dialogue alone. What a writer adds to their own last
message of a chain is of the same turn."""

from pathlib import Path

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
        for place, chain in enumerate(_chains(messages, where)):
            if len(chain) > 1:
                writers = list(dict.fromkeys(writer for writer, _ in chain))
                turns = tuple(Turn(writers.index(writer), text) for writer, text in chain)
                name = f"{path.stem}-{number}/{place}"
                found.append(Dialogue(name, (Speaker(writers[0]), Speaker(writers[1])), turns))
    return found


def _chains(messages: list[object], where: str) -> list[list[tuple[str, str]]]:
    """Chains of writers and texts."""
    chains: list[list[tuple[str, str]]] = []
    at: dict[object, tuple[int, int]] = {}  # of each message, its chain and its turn there
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("nick", "text")):
            raise InputError(f"{where}: field turns[{place}]: an object with nick and text is wanted")
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
