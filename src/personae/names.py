"""Names that are not known, and those that were probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], *, alike: float = 0.65) -> str | None:
    """The known name that is most like `name`, whatever their case; None where none is so much `alike`, between 0 and
    1."""
    folded = {one.casefold(): one for one in known}
    near = get_close_matches(name.casefold(), folded, n=1, cutoff=alike)
    return folded[near[0]] if near else None


def hint(name: str, known: Iterable[str], otherwise: str) -> str:
    """What to say of a name that is not known: the nearest one, or the shortest that holds it, else what to do
    `otherwise`."""
    known = list(known)
    near = nearest(name, known) or min((one for one in known if name in one), key=len, default=None)
    return f"did you mean {near}?" if near else otherwise
