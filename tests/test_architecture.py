"""Rules of the house that no type checker holds."""

import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from personae import catalogue

ROOT = Path(catalogue.__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "personae").rglob("*.py"))
HEAVY = ("torch", "matplotlib", "lightning", "transformers", "gensim", "scipy", "pyarrow", "numpy")


def test_sources_are_found() -> None:
    assert len(SOURCES) >= 30
    assert ROOT / "src" / "personae" / "models" / "selection" / "imn.py" in SOURCES


def test_imports_point_one_way() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 4 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_a_file_is_short_and_unpickles_nothing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert not {"pickle", "cPickle", "dill", "joblib"} & names(text)
    assert not re.search(r"torch\.(load|save)\(|allow_pickle=True", text)


def names(text: str) -> set[str]:
    """The names in a source, strings and comments left out."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


@pytest.mark.parametrize("module", ["personae.types", "personae.cli", "personae.catalogue", "personae.data.read"])
def test_what_must_start_quickly_imports_nothing_heavy(module: str) -> None:
    program = f"import {module}, sys; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_package_says_what_it_is() -> None:
    packages = [path for path in SOURCES if path.name == "__init__.py"]
    assert len(packages) >= 9
    for path in packages:
        assert path.read_text(encoding="utf-8").startswith('"""'), path
