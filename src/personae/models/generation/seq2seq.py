"""Sequence to sequence: an encoder reads the question, a decoder with attention writes a reply; with a tensor, it
starts from what this user is likely to answer to this question.

Yuwei Wu, Xuezhe Ma, Diyi Yang. Personalized Response Generation via Tensor Factorization. GEM 2021.
https://aclanthology.org/2021.gem-1.5 (sections 3.2 and 4.2)

Not stated in the paper: the form of attention (see `nn/encoder_decoder.py`), features of a word, dropout, and on which
layers the embedding has its share; here on both, on hidden and cell states alike. The weights of the output are those
of the words. Beyond the paper: more than one utterance may be read, and a question may be encoded, not looked up.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from personae.nn.decoding import Decoding
from personae.nn.encoder_decoder import Sizes
from personae.nn.personalization import Factorization
from personae.nn.user_writer import Addressed, UserWriter
from personae.types import Dialogue, Example


class Seq2Seq(nn.Module):
    """An LSTM encoder-decoder with attention, with or without a `tensor`."""

    tokens = "word"

    def __init__(self, *, sizes: Sizes = Sizes(), tensor: Factorization | None = None) -> None:  # noqa: B008 - frozen
        super().__init__()
        self.writer = UserWriter(sizes=sizes, tensor=tensor)

    def prepare(self, dialogues: Sequence[Dialogue]) -> None:
        """Learns the vocabulary, and who answers what."""
        self.writer.prepare(dialogues)

    def collate(self, examples: Sequence[Example]) -> Addressed:
        """The model's input."""
        return self.writer.collate(examples)

    def size(self, example: Example) -> int:
        """How many words are read and written."""
        return self.writer.words.size(example)

    def loss(self, batch: Addressed) -> Tensor:
        """The mean negative log-likelihood of a word."""
        return self.writer.loss(batch)

    def log_likelihood(self, batch: Addressed) -> tuple[Tensor, Tensor]:
        """The log-likelihoods of replies, in nats, and how many words they have, the end among them: both (B,)."""
        return self.writer.log_likelihood(batch)

    def generate(self, batch: Addressed, decoding: Decoding) -> list[list[str]]:
        """Of each case so many replies as `decoding` says, the best first."""
        return self.writer.generate(batch, decoding)

    def stream(self, batch: Addressed, decoding: Decoding) -> Iterator[str]:
        """The reply to one case, piece by piece."""
        return self.writer.stream(batch, decoding)
