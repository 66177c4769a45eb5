"""What commands print: tables and JSON on standard output, with control characters made visible."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.pretty import pretty_repr
from rich.table import Table
from rich.text import Text


def plain(text: str) -> str:
    """A text without what would steer a terminal: control characters but line feeds, and halves of surrogate pairs, are
    written as escapes."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], text)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", right: Sequence[str] = ()) -> None:
    """Prints a table; nothing in its texts is read as markup. `right` are the columns that are aligned there."""
    made = Table(title=Text(plain(title)) if title else None)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left")
    for row in rows:
        made.add_row(*(Text(plain(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 160).print(made)


def facts(content: Any) -> None:
    """Prints nested facts, one a line."""
    print(pretty_repr(content, expand_all=True))


def as_json(content: Any) -> None:
    """Prints one JSON object on one line; in ASCII where standard output cannot hold more."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(re.sub("[\ud800-\udfff]", lambda half: ascii(half[0])[1:-1], json.dumps(content, ensure_ascii=not unicode)))
