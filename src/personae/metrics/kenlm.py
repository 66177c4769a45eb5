"""N-gram language models of many users by KenLM: a trigram model of each, by its program `lmplz`.

K. Heafield and others, Scalable Modified Kneser-Ney Language Model Estimation, ACL 2013,
https://aclanthology.org/P13-2121. The models are those of `ngram`, which needs neither the program nor its package:
they are here so that numbers can be had from the tool that others use, and so that ours can be held to it. The two
differ in two things, both rare. Where the word that `lmplz` meets last is said more often than after different words,
it takes the last n-grams by their occurrences in the counts of counts (at the end of its adjust_counts.cc): of 500
users of Persona-Chat that is one, whose perplexities it moves by up to a hundredth, but of users of five messages by
up to two fifths. And where the discount of pairs or triples comes out as exactly 0, so that after some word no other
one were possible, `ngram` takes the discounts of small data.

`lmplz` is looked for on the PATH, then beside the Python that runs, where `make kenlm` puts it. It is given a number in
place of each word, so that no text can be taken for a mark or be split. Each model is read once, from the text that
`lmplz` writes, so there is no binary to make.
"""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from personae.types import InputError

Floats = NDArray[np.float64]

ORDER = 3
"""Words of the longest n-gram."""

NEVER = b"-99"
"""The logarithm of nothing, as KenLM reads it."""

UNKNOWN = "<unk>"
"""What stands for a word that no user said."""


def program() -> str:
    """Where `lmplz` is. InputError where it is not."""
    found = shutil.which("lmplz") or shutil.which("lmplz", path=str(Path(sys.executable).parent))
    if found is None:
        raise InputError(
            "scorer kenlm: there is no lmplz on the PATH or beside Python: run `make kenlm` in a checkout of personae, "
            "or take --scorer ngram, whose models are the same"
        )
    return found


def package() -> Any:
    """The module `kenlm`. InputError where it is not installed."""
    try:
        return importlib.import_module("kenlm")
    except ImportError:
        raise InputError(
            "scorer kenlm: the package that reads its models is not installed: run `pip install ufal-kenlm`, or take "
            "--scorer ngram, whose models are the same"
        ) from None


class KenlmModels:
    """A model of each user of what that user said: for each of U users, sentences of words. InputError where there is
    no user, one said nothing, or KenLM is not there."""

    def __init__(self, said: Sequence[Sequence[Sequence[str]]]) -> None:
        if not said:
            raise InputError("there is no user whose language could be modelled: give at least one")
        silent = [number for number, each in enumerate(said) if not any(each)]
        if silent:
            raise InputError(f"user {silent[0]}, counted from 0, said no word that could be modelled: leave them out")
        lmplz, kenlm = program(), package()
        known = dict.fromkeys(word for each in said for sentence in each for word in sentence)
        self.numbers = {word: str(number) for number, word in enumerate(known)}
        config = kenlm.Config()
        config.show_progress = False
        config.arpa_complain = kenlm.ARPALoadComplain.NONE
        with TemporaryDirectory(prefix="personae-kenlm-") as folder, ThreadPoolExecutor(os.cpu_count()) as pool:

            def made(user: int) -> Any:
                text = "".join(self._line(sentence) + "\n" for sentence in said[user])
                return kenlm.Model(str(_estimated(lmplz, text, Path(folder) / str(user))), config)

            self.models = list(pool.map(made, range(len(said))))

    def log_probabilities(self, sentences: Sequence[Sequence[str]]) -> Floats:
        """The natural logarithm of the probability that each user's model gives each sentence and its end: (sentences,
        U)."""
        lines = [self._line(sentence) for sentence in sentences]
        found = [[model.score(line, bos=True, eos=True) for line in lines] for model in self.models]
        return np.array(found).reshape(len(self.models), len(lines)).T * np.log(10)

    def perplexities(self, sentences: Sequence[Sequence[str]]) -> Floats:
        """The perplexity of each sentence under each user's model, per word with the end as one: (sentences, U)."""
        lengths = np.array([len(sentence) + 1 for sentence in sentences])
        return np.exp(-self.log_probabilities(sentences) / lengths[:, None])

    def _line(self, sentence: Sequence[str]) -> str:
        return " ".join(self.numbers.get(word, UNKNOWN) for word in sentence)


def _estimated(lmplz: str, text: str, folder: Path) -> Path:
    """The file, in the ARPA form, of the model of a text, a sentence a line. InputError where `lmplz` ends with an
    error."""
    folder.mkdir()
    path = folder / "model.arpa"
    ended = subprocess.run(  # noqa: S603 - a program that the user installed, and no shell
        [lmplz, "-o", str(ORDER), "-S", "64M", "-T", f"{folder}/", "--discount_fallback", "--arpa", str(path)],
        input=text.encode(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    if ended.returncode:
        last = (ended.stderr.decode(errors="replace").strip() or "without a message").splitlines()[-1]
        raise InputError(f"scorer kenlm: {lmplz} failed, {last}: mend that, or take --scorer ngram")
    written = path.read_bytes()
    if b"-inf" in written:  # the weight of what never follows, where a discount is 0: KenLM does not read its own word
        path.write_bytes(written.replace(b"-inf", NEVER))
    return path
