"""The model that CONTRIBUTING.md writes is one file and one recipe, and nothing else has to be touched."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def block(language: str, start: str) -> str:
    """The one fenced block of the page that starts so."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^```{language}\n({re.escape(start)}.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return str(found)


LISTS = (
    "test_the_models",
    "test_every_model_that_is_trained_has_recipes_and_no_other",
    "test_what_is_said_to_be_published_is_what_is_trained",
)
"""The tests that say which models and recipes there are, to which one of a paper is added."""


@pytest.mark.slow
def test_the_model_of_the_page_keeps_every_promise(tmp_path: Path) -> None:
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    package = tmp_path / "src" / "personae"
    (package / "models" / "selection" / "average.py").write_text(block("python", '"""Average'))
    (package / "recipes" / "selection" / "average-toy.yaml").write_text(block("yaml", "# Average"))
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "not slow", "tests/models", "tests/recipes"]
    ended = subprocess.run(
        [*command, "-k", f"not equations and not {' and not '.join(LISTS)}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "src")},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-3000:]
    listed = subprocess.run(
        [sys.executable, "-c", "from personae.cli import main; main(['models'])"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert "average" in listed.stdout
    assert "selection/average-toy" in listed.stdout
