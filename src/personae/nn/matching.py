"""Cross-attention between sentences and candidates, word by word, as IMN and DIM do it (Gu et al., CIKM 2019 and EMNLP
2019): what each word finds on the other side is laid beside it, and read by a BiLSTM.

That BiLSTM reads [a; a~; a - a~; a * a~], and almost all of the work is its input weight; here that weight is split in
four, so that the share of a is computed once, that of a~ goes through the attention, and only a * a~ is multiplied for
each pair.

Letters: B cases, M sentences of a case, N candidates, U sentences of all cases, T words of all distinct sentences, H
hidden units a direction; C words of one case's sentences, R of its longest candidate.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.recurrent import BiLSTM, Packing, pack, pool
from personae.nn.words import Sentences
from personae.types import Attention, Read


def unpacked(packed: Tensor, packing: Packing) -> Tensor:
    """Packed tokens (T, ...) back in the order of the sentences."""
    rows = packing.rows
    return packed[torch.empty_like(rows).scatter_(0, rows, torch.arange(len(rows), device=rows.device))]


def match(
    layer: BiLSTM, tokens: Tensor, sentences: Sentences, chosen: Tensor, candidates: Tensor, dropout: nn.Module
) -> tuple[Tensor, Tensor, Tensor]:
    """Matches the `chosen` sentences of each case, taken as one sequence, with each candidate.

    `tokens` (T, 2H) are the encoded words; `chosen` (B, M), at least one a case, and `candidates` (B, N) are numbers of
    sentences, -1 where there is none. Gives the chosen sentences after matching and pooling, (N * U, 4H); where they
    lie for each candidate and case, (N * B, M), -1 where there is none; and the candidates, (B, N, 4H).
    """
    cases, number = candidates.shape
    case, place = (chosen >= 0).nonzero(as_tuple=True)  # of each sentence
    said, replies = chosen[case, place], candidates.clamp(min=0).flatten()
    words, length = places(sentences, said), sentences.lengths[said]  # of all cases, (U,)
    reply_words, reply_length = places(sentences, replies), sentences.lengths[replies]  # of all candidates, (B * N,)
    real = torch.arange(int(reply_length.max()), device=tokens.device) < reply_length[:, None]  # (B * N, R)
    padded = torch.zeros_like(real, dtype=torch.long).masked_scatter_(real, reply_words)
    size = length.new_zeros(cases).index_add_(0, case, length)  # words of each case
    in_cases, in_replies = size.tolist(), reply_length.view(cases, number).sum(1).tolist()

    of_a, of_other, of_difference, of_product = layer.input.chunk(4, 1)  # (8H, 2H) each
    shared = F.linear(tokens, of_a + of_difference, layer.bias)  # (T, 8H): the share of a
    crossing = F.linear(tokens, of_other - of_difference)  # (T, 8H): the share of a~, before attention
    of_chosen: list[Tensor] = []  # the gates; a case at a time, so that nothing is padded to the longest
    of_replies: list[Tensor] = []
    for a, a_shared, a_crossing, b, b_shared, b_padded, b_crossing, there in zip(
        *(each[words].split(in_cases) for each in (tokens, shared, crossing)),
        *(each[reply_words].split(in_replies) for each in (tokens, shared)),
        *(each[padded].split(number) for each in (tokens, crossing)),
        real.split(number),
        strict=True,
    ):
        similarity = (a @ b_padded.flatten(0, 1).t()).unflatten(1, there.shape)  # (C, N, R)
        least = torch.finfo(similarity.dtype).min
        to_reply = similarity.masked_fill(~there, least).softmax(2).transpose(0, 1)  # (N, C, R)
        to_chosen = similarity.flatten(1).t()[there.flatten()].softmax(1)  # (words of the replies, C)
        gates = F.linear(a * (to_reply @ b_padded), of_product)  # (N, C, 8H); the other shares are added in place
        of_chosen.append(gates.add_(to_reply @ b_crossing).add_(a_shared).flatten(0, 1))
        gates = F.linear(b * (to_chosen @ a), of_product)
        of_replies.append(gates.add_(to_chosen @ a_crossing).add_(b_shared))

    start = length.cumsum(0) - length + (size.cumsum(0) - size)[case] * (number - 1)
    start = start + torch.arange(number, device=tokens.device)[:, None] * size[case]  # (N, U)
    reply_start = number * len(words) + reply_length.cumsum(0) - reply_length
    packing = pack(
        torch.cat([start.flatten(), reply_start]), torch.cat([length.expand(number, -1).flatten(), reply_length])
    )
    states = dropout(layer(of_chosen + of_replies, packing))
    matched, response = dropout(pool(states, packing)).split([start.numel(), len(replies)])  # (..., 4H)

    there = chosen >= 0
    rows = there.flatten().cumsum(0).view_as(there) - 1  # of each sentence in those of all cases
    rows = rows + torch.arange(number, device=tokens.device)[:, None, None] * len(case)  # (N, B, M)
    return matched, rows.masked_fill(~there, -1).flatten(0, 1), response.unflatten(0, (cases, number))


def attention(
    tokens: Tensor, sentences: Sentences, chosen: Tensor, candidates: Tensor, *, to: Read
) -> list[list[Attention]]:
    """For each case and each of its candidates, where the words of the candidate look among those of the `chosen`
    sentences, by the softmax of dot products by which `match` lays words beside them (equation 9 of DIM). Arguments as
    there; `to` says what the chosen sentences are."""
    found = []
    for those, offered in zip(chosen, candidates, strict=True):
        said = those[those >= 0]
        spelt, others = tuple(map(sentences.spelt, said.tolist())), tokens[places(sentences, said)]
        of_case = []
        for reply in offered[offered >= 0]:
            weights = (tokens[places(sentences, reply[None])] @ others.t()).softmax(1).tolist()
            of_case.append(Attention(to, sentences.spelt(int(reply)), spelt, tuple(map(tuple, weights))))
        found.append(of_case)
    return found


def places(sentences: Sentences, chosen: Tensor) -> Tensor:
    """The words of the `chosen` sentences, one after the other, as places among all words."""
    lengths, starts = sentences.lengths[chosen], sentences.starts[chosen]
    behind = starts - (lengths.cumsum(0) - lengths)
    return behind.repeat_interleave(lengths) + torch.arange(int(lengths.sum()), device=chosen.device)
