"""The persona reranker as a module of transformers, which needs nothing else of this package: an export holds this
file, and transformers and sentence-transformers read it there (`trust_remote_code=True`).

A case is a pair of texts. The first is everything before the reply, each line and utterance behind the marker of whose
it is; the second is a reply:

    [my persona] i sail . [your persona] i like cars . [you] hello ! [me] hi . [you] what do you do on sundays ?

Lines of personas come first, and what was said in its order. A marker stands where the reranker has the [SEP] that ends
what follows it, and the tokenizer's first [SEP] is the reply's [CLS]: since positions and what is seen are told of each
token, their order means nothing.

Letters: B pairs, L tokens of the longest, R of the longest reply, H hidden units.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

MARKERS = ("[my persona]", "[your persona]", "[me]", "[you]")
"""Their kinds are those of `SELF`, `PARTNER`, `OWN_TURN` and `PARTNER_TURN`, from 1; that of a reply is 0."""

SAID = 3
"""The first of the kinds that are of utterances."""

MOST_WEIGHT = 20.0


class PersonaRerankerConfig(BertConfig):  # type: ignore[no-untyped-call]
    """BERT's, with what `[CLS]`, `[SEP]` and the first of the markers are (`cls_token_id`, `sep_token_id`,
    `first_marker`), after which come the others."""

    model_type = "persona_reranker"


class PersonaRerankerForSequenceClassification(BertPreTrainedModel):  # type: ignore[no-untyped-call]
    """Gives a logit for each pair."""

    config_class = PersonaRerankerConfig

    def __init__(self, config: PersonaRerankerConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.bert = BertModel(config, add_pooling_layer=False)
        self.subtypes = nn.Embedding(1 + len(MARKERS), width)
        self.weight = nn.Linear(width, 1, bias=False)
        self.recent, self.whole = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.alone, self.together = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.output = nn.Linear(width, 1)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **_: object,
    ) -> SequenceClassifierOutput:
        """Logits (B, 1) of pairs (B, L) as the tokenizer gives them, padded at the end. ValueError where there are no
        `token_type_ids`, which tell the two texts of a pair apart, or there are `labels`."""
        if token_type_ids is None or labels is not None:
            raise ValueError("token_type_ids are needed, as the tokenizer gives them, and labels cannot be learnt here")
        there = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        before = (there * (1 - token_type_ids)).sum(1, keepdim=True) - 1  # (B, 1): there the reply begins
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        context, reply = places < before, (places >= before) & there.bool()  # (B, L)
        kinds = (input_ids - self.config.first_marker + 1).clamp(min=0) * context  # of markers, 0 elsewhere
        marked, said = kinds > 0, kinds >= SAID
        segment, part = marked.long().cumsum(1), said.long().cumsum(1)
        same = (segment[:, :, None] == segment[:, None, :]) & context[:, None, :]  # (B, L, L)
        size = same.sum(2)
        of = (same * kinds[:, None, :]).sum(2) * context
        positions = places + torch.where(marked, size - 1, -(segment > 0).long()) * context
        tokens = torch.where(input_ids >= self.config.first_marker, self.config.sep_token_id, input_ids)
        tokens = torch.where(places == before, self.config.cls_token_id, tokens)
        sees = context[:, None, :] & (reply[:, :, None] | (part[:, :, None] >= part[:, None, :]))
        sees = sees | (reply[:, :, None] & reply[:, None, :]) | (places[:, None] == places)
        states = self._states(tokens, of, positions, sees)

        most = (there.sum(1) - before[:, 0]).max()
        here = torch.arange(most, device=input_ids.device)  # type: ignore[call-overload] # (R,)
        index = (before + here).clamp(max=input_ids.shape[1] - 1)
        spoken = reply.gather(1, index) & (before + here < input_ids.shape[1])
        sees = spoken[:, None, :] | (here[:, None] == here)
        apart = self._states(tokens.gather(1, index), torch.zeros_like(index), here.expand_as(index), sees)

        last = context & (part == (part * context).amax(1, keepdim=True))
        weights = self.weight(states).float().clamp(max=MOST_WEIGHT).exp()[..., 0] * context
        vector = self.recent(_mean(states, last)) + self.whole(_mean(states, weights))  # (B, H)
        read = _mean(states, reply)
        vector, alone = F.normalize(vector, dim=1), F.normalize(_mean(apart, spoken), dim=1)
        logits = self.alone.exp() * (vector * alone).sum(1) + self.output(read)[:, 0]
        logits = logits + self.together.exp() * (vector * F.normalize(read, dim=1)).sum(1)
        return SequenceClassifierOutput(logits=logits[:, None])

    def _states(self, tokens: Tensor, kinds: Tensor, positions: Tensor, sees: Tensor) -> Tensor:
        """Of each token (B, L, H), where `sees` (B, L, L) says which others it attends to."""
        embeddings = self.bert.embeddings
        words = embeddings.word_embeddings(tokens) + self.subtypes(kinds)
        states = embeddings(inputs_embeds=words, position_ids=positions, token_type_ids=torch.zeros_like(tokens))
        bias = torch.zeros_like(sees, dtype=states.dtype).masked_fill(~sees, torch.finfo(states.dtype).min)
        return self.bert.encoder(states, attention_mask=bias[:, None]).last_hidden_state


def _mean(states: Tensor, weights: Tensor) -> Tensor:
    """The mean (B, H) of states (B, L, H) with weights (B, L)."""
    weights = weights.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1)
