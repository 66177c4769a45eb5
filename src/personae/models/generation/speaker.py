"""Speaker: an encoder-decoder that reads a vector of the user beside every word that it writes.

Jiwei Li, Michel Galley, Chris Brockett, Georgios P. Spithourakis, Jianfeng Gao, Bill Dolan. A Persona-Based Neural
Conversation Model. ACL 2016. https://aclanthology.org/P16-1094 (section 4.1), as in Yuwei Wu, Xuezhe Ma, Diyi Yang.
Personalized Response Generation via Tensor Factorization. GEM 2021. https://aclanthology.org/2021.gem-1.5 (section 5.2,
and 5.6 for what the vectors begin as)

Otherwise as Seq2Seq, and with or without its tensor.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from personae.nn.decoding import Decoding
from personae.nn.encoder_decoder import Sizes
from personae.nn.personalization import Factorization
from personae.nn.speakers import Speakers
from personae.nn.user_writer import Addressed, UserWriter
from personae.types import Dialogue, Example


class Speaker(nn.Module):
    """An LSTM encoder-decoder with a vector of each user, by default of `Speakers`' own, with or without a `tensor`."""

    tokens = "word"

    def __init__(
        self,
        *,
        sizes: Sizes = Sizes(),  # noqa: B008 - frozen
        speakers: Speakers | None = None,
        tensor: Factorization | None = None,
    ) -> None:
        super().__init__()
        self.writer = UserWriter(sizes=sizes, speakers=speakers or Speakers(), tensor=tensor)

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
