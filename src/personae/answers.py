"""What models answered, as it is kept: a line of predictions.jsonl, or, of a record, a table of ranks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from personae.types import InputError, Row, Spoken


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
