"""Names that are not known, and those that were probably meant; what a recipe and the command line name otherwise."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import PurePath

from personae.types import InputError


def nearest(name: str, known: Iterable[str], *, alike: float = 0.65) -> str | None:
    """The known name that is most like `name`, whatever their case; None where none is so much `alike`, between 0 and
    1."""
    folded = {one.casefold(): one for one in known}
    near = get_close_matches(name.casefold(), folded, n=1, cutoff=alike)
    return folded[near[0]] if near else None


def hint(name: str, known: Iterable[str], otherwise: str) -> str:
    """What to say of a name or a path that is not known: the known one whose last part is nearest, or the shortest that
    holds its own, else what to do `otherwise`."""
    parts, part = {PurePath(one).name: one for one in known}, PurePath(name).name
    near = nearest(part, parts) or min((one for one in parts if part and part in one), key=len, default=None)
    return f"did you mean {parts[near]}?" if near else otherwise


@contextmanager
def as_options(part: str, **given: str) -> Iterator[None]:
    """Has a mistake in an argument of this `part` of a recipe name the command's option of that name, or what was
    `given` by position for it."""

    def option(found: re.Match[str]) -> str:
        return given.get(found[1]) or ("-" if len(found[1]) == 1 else "--") + found[1]

    try:
        yield
    except InputError as error:
        raise InputError(re.sub(rf"\b{part}\.(\w+)", option, str(error))) from None
