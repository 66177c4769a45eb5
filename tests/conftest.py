"""What several tests use: the folder of corpora, cases of every shape, and models built tiny."""

import os
import random
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from personae import catalogue
from personae.types import Dialogue, Example, InputError, Persona, Speaker, Turn


def pytest_configure() -> None:
    """Ctrl-C interrupts the tests' processes also where it was ignored, as in a job of the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported: the models are too small to be split

Case = Callable[..., Example]
Build = Callable[..., Any]
FullDisk = Callable[[int], AbstractContextManager[None]]

_WORDS = "a cat dog bird sings and sleeps all day near the old river , i like to swim with my two small brothers !"


@pytest.fixture(scope="session")
def corpora() -> Path:
    if "PERSONAE_DATA" not in os.environ:
        pytest.skip("PERSONAE_DATA does not name a folder of corpora")
    return Path(os.environ["PERSONAE_DATA"])


@pytest.fixture(scope="session")
def case() -> Case:
    """An example: speaker 1 replies, the last utterance is speaker 0's, the first candidate is the true reply."""

    def case(
        *, said: Sequence[str], candidates: Sequence[str], facts: Sequence[str] = (), partner: Sequence[str] = ()
    ) -> Example:
        speakers = (Speaker("partner", Persona(tuple(partner))), Speaker("self", Persona(tuple(facts))))
        turns = tuple(Turn((len(said) - 1 - place) % 2, text) for place, text in enumerate(said))
        return Example(Dialogue(f"case-{len(said)}", speakers, turns), Turn(1, candidates[0], tuple(candidates)))

    return case


@pytest.fixture(scope="session")
def cases(case: Case) -> tuple[Example, ...]:
    """Contexts of 1 to 7 utterances, personas of 0 to 5 lines, sentences of 1 to 24 words; 4 candidates each."""
    rng = random.Random(0)
    words = _WORDS.split()

    def texts(count: int) -> list[str]:
        return [" ".join(rng.choices(words, k=rng.choice((1, 2, 3, 5, 8, 13, 24)))) for _ in range(count)]

    return tuple(
        case(said=texts(utterances), candidates=texts(4), facts=texts(lines), partner=texts(5 - lines))
        for utterances, lines in ((1, 3), (2, 0), (3, 5), (7, 1), (1, 4), (5, 2), (4, 3))
    )


@pytest.fixture(scope="session")
def full_disk() -> FullDisk:
    """A context in which the system refuses to write more than so many bytes into a file."""

    @contextmanager
    def full(room: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random BERT of two layers, and a tokenizer that knows the cases' words and else letters."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("backbone")
    letters = [chr(ord("a") + place) for place in range(26)]
    words = [word for word in dict.fromkeys(_WORDS.split()) if word not in letters]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known = [*special, *words, *letters, *("##" + letter for letter in letters), "?", "."]
    BertTokenizer(vocab={word: number for number, word in enumerate(known)}).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(known), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    torch.manual_seed(0)
    bert = BertModel(config)
    for weight in bert.parameters():  # so that texts are far apart, and no bias is zero
        weight.data += 0.4 * torch.randn_like(weight)
    bert.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def build(cases: Sequence[Example], backbone: str) -> Build:
    """A model by its name, as small as its constructor lets it be, prepared on the cases; ready to answer."""
    import inspect
    from importlib import import_module

    import torch

    from personae.nn.words import Words

    classes = {model["name"]: model["class"] for model in catalogue.models()}

    def build(name: str, *, seed: int = 0, **arguments: Any) -> Any:
        module, _, constructor = classes[name].rpartition(".")
        torch.manual_seed(seed)
        make = getattr(import_module(module), constructor)
        words = Words(glove_size=0, task=8, filters=4)
        pretrained = {"backbone": backbone, "sentence_encoder": backbone}
        small = {"hidden": 8, "features": 8, "words": words, **pretrained, **arguments}
        try:
            model = make(**{key: small[key] for key in inspect.signature(make).parameters if key in small})
        except InputError as error:
            if "not installed" not in str(error):
                raise
            pytest.skip(str(error))
        model.prepare(
            text
            for case in cases
            for text in (*case.facts("both"), *(turn.text for turn in case.context.turns), *case.target.candidates)
        )
        return model.eval()

    return build
