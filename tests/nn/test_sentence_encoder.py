import shutil
from pathlib import Path

import pytest

from personae.nn.sentence_encoder import SentenceEncoder
from personae.types import InputError


@pytest.mark.parametrize("damage", ["missing", "empty", "weights"])
def test_what_is_no_sentence_encoder_is_refused(damage: str, backbone: str, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    if damage == "empty":
        folder.mkdir()
    elif damage == "weights":
        shutil.copytree(backbone, folder)
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=rf"^{folder}: no sentence encoder, give the folder or the hub id of one"):
        SentenceEncoder(str(folder))


def test_each_text_is_encoded_once_and_alone(backbone: str) -> None:
    """Beside others or not, in any order."""
    texts = ["a cat", "the dog is here and there", "", "half a pair: \ud83d"]
    together, apart = SentenceEncoder(backbone), SentenceEncoder(backbone)
    together.encode(texts)
    for text in reversed(texts):
        apart.encode([text])
    for text in texts:
        assert float(together.vectors[text].norm()) == pytest.approx(1, abs=1e-5)
        assert together.vectors[text].tolist() == pytest.approx(apart.vectors[text].tolist(), abs=1e-5)
    kept = together.vectors["a cat"]
    together.encode(["a cat"])
    assert together.vectors["a cat"] is kept
