import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from personae.nn import speakers as module
from personae.nn.speakers import SCALE, Speakers, factors_of
from personae.types import Dialogue, InputError, Speaker, Turn

HISTORIES = {f"user-{number}": tuple(f"text {number * place}" for place in range(1, number + 2)) for number in range(8)}


class Encoder:
    """Stands for MiniLM: a random unit vector of 16 features for each text, always the same."""

    def __init__(self, *, field: str) -> None:
        assert field.startswith("task.model.speakers")
        self.vectors: dict[str, torch.Tensor] = {}

    def encode(self, texts: Sequence[str]) -> None:
        for text in texts:
            drawn = torch.randn(16, generator=torch.Generator().manual_seed(sum(text.encode())))
            self.vectors[text] = drawn / drawn.norm()


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SentenceEncoder", Encoder)


def answered(histories: dict[str, tuple[str, ...]]) -> list[Dialogue]:
    return [
        Dialogue(f"{user}-{number}", (Speaker("asker"), Speaker(user, history=said)), (Turn(0, "?"), Turn(1, "!")))
        for user, said in histories.items()
        for number in range(2)
    ]


def prepared(histories: dict[str, tuple[str, ...]] = HISTORIES, **arguments: object) -> Speakers:
    torch.manual_seed(0)
    speakers = Speakers(**arguments)  # type: ignore[arg-type]
    speakers.prepare(answered(histories))
    return speakers


def means(histories: dict[str, tuple[str, ...]]) -> np.ndarray:
    encoder = Encoder(field="task.model.speakers")
    encoder.encode([text for said in histories.values() for text in said])
    return np.stack([np.mean([encoder.vectors[text].numpy() for text in said], 0) for said in histories.values()])


def test_histories_are_reduced_to_their_principal_components() -> None:
    speakers = prepared(width=4, start="history")
    vectors = means(HISTORIES)
    centred = vectors - vectors.mean(0)
    values, directions = np.linalg.eigh(centred.T @ centred)
    wanted = centred @ directions[:, np.argsort(-values)[:4]]
    wanted *= SCALE / np.sqrt((wanted**2).mean())
    found = speakers.table.weight.detach().numpy()
    assert list(speakers.table.names) == list(HISTORIES)
    signs = np.sign((found * wanted).sum(0))  # a component's is arbitrary
    assert np.allclose(found, wanted * signs, atol=1e-5)
    assert np.allclose(found @ found.T, wanted @ wanted.T, atol=1e-5)


def test_random_vectors_are_as_large() -> None:
    histories: dict[str, tuple[str, ...]] = {f"user-{number}": () for number in range(300)}
    speakers = prepared(histories, width=30, start="random")
    assert speakers.width == 30
    assert float(speakers.table.weight.detach().square().mean().sqrt()) == pytest.approx(SCALE, rel=0.05)


def test_users_with_the_same_history_begin_alike_and_one_message_is_a_history() -> None:
    histories = {**HISTORIES, "twin": HISTORIES["user-5"], "brief": ("one message",)}
    table = prepared(histories, width=3, start="history").table
    vectors = table.weight.detach()
    torch.testing.assert_close(vectors[table.names["twin"]], vectors[table.names["user-5"]])
    assert vectors.isfinite().all()


@pytest.mark.parametrize("users", [1, 2, 5])
def test_where_all_users_said_the_same_all_vectors_are_finite(users: int) -> None:
    speakers = prepared({f"user-{number}": ("one", "two") for number in range(users)}, width=1, start="history")
    assert speakers.table.weight.detach().abs().max() < 0.01


def run_with_factors(folder: Path, users: Sequence[str], width: int = 5) -> torch.Tensor:
    """A run of a model with a tensor, as far as it is read; its factors."""
    torch.manual_seed(1)
    factors = torch.randn(len(users), width)
    folder.mkdir()
    state = {"writer.personal.users._extra_state": {"names": list(users)}}
    (folder / "config.json").write_text(json.dumps({"state": state}))
    save_file({"writer.personal.users.weight": factors}, folder / "model.safetensors")
    return factors


def test_factors_of_a_run_are_taken_by_name(tmp_path: Path) -> None:
    others = ["stranger", *reversed(HISTORIES)]
    factors = run_with_factors(tmp_path / "run", others)
    wanted = torch.stack([factors[others.index(user)] for user in HISTORIES])
    wanted = wanted * SCALE / wanted.square().mean().sqrt()
    alone = prepared(start="tf-u", factors=str(tmp_path / "run"), factor_width=5)
    assert alone.width == 5
    torch.testing.assert_close(alone.table.weight.detach(), wanted)
    both = prepared(start="history+tf-u", width=4, factors=str(tmp_path / "run"), factor_width=5)
    assert both.width == 9
    torch.testing.assert_close(both.table.weight[:, 4:].detach(), wanted)
    torch.testing.assert_close(both.table.weight[:, :4], prepared(width=4, start="history").table.weight)
    assert factors_of(tmp_path / "run").keys() == set(others)


def test_mistakes_are_named(tmp_path: Path) -> None:
    field = r"task\.model\.speakers\."
    with pytest.raises(InputError, match=field + "start: 'name' is none of the choices random, history, tf-u, history"):
        Speakers(start="name")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=field + "factors: start is tf-u; name the run of a model with a tensor"):
        Speakers(start="tf-u")
    with pytest.raises(InputError, match=field + "factors: start is random; leave it out, or let start be tf-u"):
        Speakers(start="random", factors="run")
    with pytest.raises(InputError, match=field + r"width: 9 is more than the 8 users can tell apart"):
        prepared(width=9, start="history")
    with pytest.raises(InputError, match=field + r"start: history wants a history, and user 'mute' has none; give"):
        prepared({**HISTORIES, "mute": ()}, width=3, start="history")
    run_with_factors(tmp_path / "run", ["user-0"])
    with pytest.raises(InputError, match=field + r"factors: .*run has no factor of user 'user-1'"):
        prepared(start="tf-u", factors=str(tmp_path / "run"), factor_width=5)
    with pytest.raises(InputError, match=field + r"factor_width: .*run has factors of 5 features"):
        prepared({"user-0": ()}, start="tf-u", factors=str(tmp_path / "run"), factor_width=6)
    for damage in ("{", '{"state": {}}', '{"state": {"personal.users._extra_state": {"names": ["a", "b"]}}}'):
        (tmp_path / "run" / "config.json").write_text(damage)
        with pytest.raises(InputError, match=field + r"factors: .*run holds no factors of users"):
            factors_of(tmp_path / "run")
    with pytest.raises(InputError, match=field + r"factors: .*nowhere holds no factors of users"):
        factors_of(tmp_path / "nowhere")


def test_users_whose_factors_are_nothing_begin_at_nothing(tmp_path: Path) -> None:
    factors = run_with_factors(tmp_path / "run", list(HISTORIES))
    save_file({"writer.personal.users.weight": torch.zeros_like(factors)}, tmp_path / "run" / "model.safetensors")
    found = prepared(start="tf-u", factors=str(tmp_path / "run"), factor_width=5)
    assert not found.table.weight.any()
