import lightning
import pytest

from personae.training import Progress


@pytest.mark.parametrize(("epochs", "described"), [(-1, "Epoch 12"), (20, "Epoch 12/19")])
def test_progress_tells_of_how_many_epochs_there_are(epochs: int, described: str) -> None:
    bar = Progress()
    bar._trainer = lightning.Trainer(
        max_epochs=epochs, callbacks=[bar], accelerator="cpu", logger=False, enable_checkpointing=False
    )
    assert bar._get_train_description(12).strip() == described
