"""What models answered, as it is kept: a line of predictions.jsonl, or, of a record, a table of ranks.

Of replies that were written, a record has no text, but what was measured of it: a table of replies, with their ranks
and the means' values, and a table of users, with what each adds to the numbers that are of all replies together. A set
of replies has such numbers of its own, so that these are kept of all, and of those whose user is ranked first by what
they really said; of real replies, too.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from personae.data import lines
from personae.metrics.compare_spoken import Measures, Reply
from personae.metrics.ranking import ranks
from personae.metrics.text import Statistic, ceiling, corpus, focused, per_reply
from personae.types import InputError, Row, Spoken

SETS = (None, 1)
"""Of so many lowest ranks of real replies are the sets whose numbers of all replies together are kept; None: all."""

REPLIES, USERS = "replies.parquet", "users.parquet"

_SHARES = ("bleu-4/corpus", "distinct-1/corpus", "distinct-2/corpus")
_MEANS = ("f1", "distinct-1/reply", "distinct-2/reply", "length")
_REAL = "real "


def parsed(line: str, where: str) -> Any:
    """A line of predictions.jsonl: a `Row` of scores, or what was `Spoken`. InputError, which begins with `where`,
    where it is damaged."""
    try:
        fields = json.loads(line)
        return _spoken(fields) if "reference" in fields else _scored(fields)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{where}: is damaged ({error}); copy it again, or evaluate anew") from None


def _scored(fields: dict[str, Any]) -> Row:
    row = Row(**fields)
    if not isinstance(row.id, str) or not isinstance(row.dialogue, str):
        raise TypeError("id and dialogue must be texts")
    if not {int, float}.issuperset(map(type, row.scores)):
        raise TypeError("scores must be numbers")
    if type(row.target) is not int or row.target not in range(len(row.scores)):
        raise TypeError("target must be the place of one of the scores")
    return replace(row, scores=tuple(map(float, row.scores)))


def _spoken(fields: dict[str, Any]) -> Spoken:
    spoken = Spoken(**fields)
    if not {str}.issuperset(map(type, (spoken.id, spoken.user, spoken.text, spoken.reference))):
        raise TypeError("id, user, text and reference must be texts")
    if not {int, float}.issuperset(map(type, (spoken.nll, spoken.tokens, spoken.users))):
        raise TypeError("nll, tokens and users must be numbers")
    if not {int, float, type(None)}.issuperset(map(type, (spoken.rank, spoken.real))):
        raise TypeError("rank and real must be numbers, or null")
    return spoken


def ranked(path: Path) -> list[Row]:
    """What `record` wrote, as rows with such scores that each true reply has its rank. InputError where it is
    damaged."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        columns = [table.column(name).to_pylist() for name in ("id", "dialogue", "candidates", "target", "rank")]
        return [_placed(*values) for values in zip(*columns, strict=True)]
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({error}); copy it again") from None


def _placed(name: Any, dialogue: Any, candidates: Any, target: Any, rank: Any) -> Row:
    """A row whose true reply has this rank; with a half, it ties with one other. ValueError where that cannot be."""
    texts, numbers = isinstance(name, str) and isinstance(dialogue, str), type(candidates) is type(target) is int
    if not (texts and numbers and 0 <= target < candidates and 1 <= rank <= candidates and not 2 * rank % 1):
        raise ValueError(f"{name} of {dialogue}: rank {rank} of {candidates}, target {target}")
    above, level = int(rank) - 1, int(2 * rank) % 2
    others = [1.0] * above + [0.0] * level + [-1.0] * (candidates - 1 - above - level)
    return Row(name, dialogue, (*others[:target], 0.0, *others[target:]), target)


def keep_ranks(rows: Sequence[Row], path: Path) -> None:
    """Writes the rank of each true reply, without the scores."""
    import pyarrow as pa
    import pyarrow.parquet

    columns = {
        "id": pa.array([row.id for row in rows]),
        "dialogue": pa.array([row.dialogue for row in rows]).dictionary_encode(),
        "candidates": pa.array([len(row.scores) for row in rows], pa.int32()),
        "target": pa.array([row.target for row in rows], pa.int32()),
        "rank": pa.array(ranks(rows), pa.float64()),
    }
    _write(columns, path, use_dictionary=["dialogue", "rank"])


def keep(replies: Sequence[Spoken], out: Path) -> None:
    """Writes to `out` what is measured of replies, without their text."""
    import pyarrow as pa

    means = per_reply(replies)
    told = {
        "id": pa.array([reply.id for reply in replies]),
        "user": pa.array([reply.user for reply in replies]).dictionary_encode(),
        **{name: pa.array([getattr(reply, name) for reply in replies], pa.float32()) for name in ("rank", "real")},
        **{name: pa.array([getattr(reply, name) for reply in replies], pa.int32()) for name in ("users", "tokens")},
        "nll": pa.array([reply.nll for reply in replies], pa.float32()),
        **{name: pa.array(means[name], pa.float32()) for name in _MEANS},
    }
    _write(told, out / REPLIES, use_dictionary=[name for name in told if name not in ("id", "nll")])
    added: list[dict[str, Any]] = []
    for most in SETS:
        known = most is None or all(reply.real is not None for reply in replies)
        if some := focused(replies, most) if most is not None and known else replies if known else []:
            pseudo = {name: found.pseudo for name, found in corpus(some, tokens="").items() if name in _SHARES}
            real = corpus(ceiling(some), tokens="")
            pseudo |= {f"{_REAL}{name}": real[name].pseudo for name in _SHARES}
            users = next(iter(pseudo.values()))
            added += [{"user": user, "most": most, **{name: pseudo[name][user] for name in pseudo}} for user in users]
    columns = {name: [row[name] for row in added] for name in added[0]}
    kinds = {"user": pa.string(), "most": pa.int32()}
    arrays = {name: pa.array(each, kinds.get(name, pa.float32())) for name, each in columns.items()}
    _write(arrays, out / USERS, use_dictionary=["user", "most"])


def kept(folder: Path, *, tokens: str, most: int | None = None, real: bool = False) -> Measures:
    """What `keep` wrote, of all replies or of those whose users are among the first `most` by what they really said; of
    the `real` replies in place of the written ones, if so wanted. `tokens` says whose tokens the model counted.
    InputError where it is damaged, or no reply is in that set."""
    import pyarrow as pa

    try:
        table, users = _read(folder / REPLIES), _read(folder / USERS)
        some = [row for row in table if most is None or row["real"] <= most]
        # as replies without a text: what depends on ranks and likelihoods is measured of them anew
        fields = ("id", "user", "nll", "tokens", "rank", "real", "users")
        bare = [Spoken(text="", reference="", **{name: row[name] for name in fields}) for row in some]
        bare = ceiling(bare) if real else bare
        hits = {name: each for name, each in per_reply(bare).items() if name.startswith("per-hits")}
        replies = tuple(
            Reply(
                spoken.id,
                spoken.user,
                spoken.tokens,
                {
                    **({} if real else {name: row[name] for name in _MEANS}),
                    **{name: each[place] for name, each in hits.items()},
                },
            )
            for place, (row, spoken) in enumerate(zip(some, bare, strict=True))
        )
        whole = {} if most not in SETS else _shares([row for row in users if row["most"] == most], len(some), real)
        likely = {name: each for name, each in corpus(bare, tokens=tokens).items() if name.startswith("perplexity")}
        return Measures(replies, {**whole, **likely})
    except (OSError, pa.ArrowException, KeyError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"{folder / REPLIES} or {USERS}: is damaged ({error}); copy both again") from None


def _shares(users: Sequence[dict[str, Any]], n: int, real: bool) -> dict[str, Statistic]:
    found = {}
    for name in _SHARES:
        pseudo = {row["user"]: row[f"{_REAL}{name}" if real else name] for row in users}
        found[name] = Statistic(sum(pseudo.values()) / len(pseudo), pseudo, n, 0.0, 1.0)
    return found


def _write(columns: dict[str, Any], path: Path, *, use_dictionary: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    alike = (
        {"id": "DELTA_BYTE_ARRAY"} if "id" in columns else {}
    )  # ids differ from their neighbours in their ends alone
    with lines.whole(path) as file:
        pyarrow.parquet.write_table(
            pa.table(columns),
            file,
            compression="zstd",
            compression_level=19,
            use_dictionary=use_dictionary,
            column_encoding=alike,
        )


def _read(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    found: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return found
