"""Names that are not known, and those that were probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import PurePath


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
