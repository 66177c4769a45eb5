from collections.abc import Callable
from typing import Any

import pytest
import torch

from personae.nn.embedding import WordEmbedding
from personae.nn.encoder_decoder import EncoderDecoder, Sizes
from personae.nn.name_table import NameTable
from personae.nn.words import Words

SAID = ["bread and fish", "fish and bread"]

PARTS: dict[str, Callable[[], Any]] = {
    "words": lambda: Words(task=4, unseen=2),
    "embedding": lambda: WordEmbedding(width=4, min_count=1, dropout=0.0, others=3),
    "encoder-decoder": lambda: EncoderDecoder(sizes=Sizes(width=4, hidden=4, layers=1, min_count=1)),
    "names": lambda: NameTable(width=4),
}


@pytest.mark.parametrize("name", PARTS)
def test_weights_are_loaded_whatever_size_they_had(name: str) -> None:
    trained, other = PARTS[name](), PARTS[name]()
    trained.prepare(SAID)
    state = trained.state_dict()
    sizes = {key: weight.shape for key, weight in state.items() if isinstance(weight, torch.Tensor)}
    assert sizes != {key: weight.shape for key, weight in other.state_dict().items() if key in sizes}
    other.load_state_dict(state)
    assert other.get_extra_state() == trained.get_extra_state()
    for key in sizes:
        assert torch.equal(other.state_dict()[key], state[key]), key


@pytest.mark.parametrize("name", PARTS)
def test_loading_what_has_the_size_already_draws_nothing(name: str) -> None:
    trained, other = PARTS[name](), PARTS[name]()
    trained.prepare(SAID)
    other.prepare(SAID)
    held = list(other.parameters())
    before = torch.get_rng_state()
    other.load_state_dict(trained.state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(one is another for one, another in zip(other.parameters(), held, strict=True))
