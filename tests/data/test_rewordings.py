from collections.abc import Iterable
from pathlib import Path

import pytest

from personae.data import rewordings
from personae.data.files import Files
from personae.data.read import read
from personae.text import line_key
from personae.types import Dialogue, InputError


def test_a_table_tells_a_line_in_other_words(tmp_path: Path) -> None:
    hidden = rewordings.digest("I cook!")
    path = tmp_path / "table.tsv"
    path.write_text(
        f"i sail.\tMy boat is red.\tI am a yachtsman.\n\n{hidden}\tI stand at the stove.\n", encoding="utf-8"
    )
    found = rewordings.read(str(path))
    assert found[rewordings.digest("I SAIL")] == ("My boat is red.", "I am a yachtsman.")
    assert found[rewordings.digest("i cook")] == ("I stand at the stove.",)
    assert len(found) == 2


@pytest.mark.parametrize("row", ["i sail.", "i sail.\t", "\tMy boat is red.", "i sail.\tMy boat is red.\t "])
def test_a_row_that_says_nothing(tmp_path: Path, row: str) -> None:
    path = tmp_path / "table.tsv"
    path.write_text(f"i cook.\tI stand at the stove.\n{row}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"table\.tsv:2: is not a line and its rewordings, with a tab"):
        rewordings.read(str(path))


def test_those_of_the_package() -> None:
    found = rewordings.read()
    assert len(found) > 4000
    assert {len(others) for others in found.values()} == {1, 2}
    assert all(len({line_key(one) for one in others}) == len(others) for others in found.values())


def test_those_of_the_package_are_of_training_lines_alone(corpora: Path) -> None:
    def lines(dialogues: Iterable[Dialogue]) -> set[str]:
        return {fact for dialogue in dialogues for speaker in dialogue.speakers for fact in speaker.persona.facts}

    folder = corpora / "personachat"
    files = Files(train=[str(folder / "train_partial.jsonl")], valid=str(folder / "valid_both_original.txt"))
    trained = {rewordings.digest(line) for line in lines(files.split("train"))}
    others = [*read(folder / "valid_both_revised.txt"), *read(corpora / "spc" / "spc_valid.jsonl")]
    held = lines([*files.split("dev"), *files.split("valid"), *others])
    found = rewordings.read()
    assert trained <= set(found)
    assert set(found) & {rewordings.digest(line) for line in held} <= trained
    assert not {line_key(line) for line in held} & {line_key(other) for each in found.values() for other in each}
