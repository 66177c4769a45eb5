"""Users whom training never saw: what a model learns of each user is fitted to what a new one said, all else frozen.

The vectors of a new user are the most probable ones (maximum a posteriori) where they are thought to be drawn from the
normal distribution, with mean and covariance, of those that training found: without a message the mean, with few of
them near it, and only ever changed in the ways in which users differ. That is parametric empirical Bayes (Morris,
Journal of the American Statistical Association 78, 1983). The tensor-factorization paper leaves new users open.

Letters: J users of training, R features of a user's vector, Z the smaller of both.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from personae.nn.name_table import NameTable
from personae.nn.personalization import Personalization
from personae.nn.speakers import Speakers
from personae.nn.user_writer import UserWriter
from personae.types import Example, InputError

STEPS, RATE = 60, 0.2
"""Of Adam, and at what rate it begins; it falls to zero evenly."""

AT_ONCE = 64
"""At most so many messages are looked at in a step; where there are more, others in the next."""


def tables(model: nn.Module) -> dict[str, NameTable]:
    """What a model has learnt of each user, by the names of its parts: the vectors beside words, and the factors."""
    found = {}
    for name, part in model.named_modules():
        if isinstance(part, Speakers):
            found[f"{name}.table"] = part.table
        elif isinstance(part, Personalization):
            found[f"{name}.users"] = part.users
    return found


def memory(model: nn.Module) -> dict[str, tuple[str, ...]] | None:
    """Where a model keeps what each user said, None where it keeps nothing."""
    parts = (part for part in model.modules() if isinstance(part, UserWriter) and part.memories)
    return next((part.histories for part in parts), None)


def fit(model: Any, user: str, examples: Sequence[Example], *, steps: int = STEPS) -> tuple[float, float]:
    """Takes a new user, or one taken before anew, whose messages are the targets of `examples`. Gives the mean
    log-likelihood of a message's token to the mean user and to this one. InputError where nothing is learnt of
    users."""
    learnt = list(tables(model).values())
    if not learnt:
        raise InputError("nothing is learnt of users in this model that could be fitted; take one with a tensor")
    priors = [_prior(table) for table in learnt]
    for table, (mean, _) in zip(learnt, priors, strict=True):
        table.add(user, mean)
    if not examples:
        return 0.0, 0.0
    device = learnt[0].weight.device
    batches = [batch.to(device) for batch in _batches(model, examples)]
    before = _likelihood(model, batches)
    away = [nn.Parameter(mean.new_zeros(ways.shape[1])) for mean, ways in priors]  # (Z,), in standard deviations
    optimizer = torch.optim.Adam(away, lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    weights = [table.weight for table in learnt]
    with _frozen(model, weights):
        for step in range(steps):
            sums, _ = model.log_likelihood(batches[step % len(batches)])
            loss = -sums.sum() * (len(examples) / len(sums))
            gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
            for table, gradient, place, (_, ways) in zip(learnt, gradients, away, priors, strict=True):
                place.grad = gradient[table.names[user]] @ ways + place.detach()
            optimizer.step()
            schedule.step()
            for table, place, (mean, ways) in zip(learnt, away, priors, strict=True):
                table.add(user, mean + ways @ place.detach())
    return before, _likelihood(model, batches)


def _batches(model: Any, examples: Sequence[Example]) -> list[Any]:
    """The model's input as in training, where no message is among what its user is remembered to have said."""
    training, parts = model.training, -(-len(examples) // AT_ONCE)
    try:
        model.train()
        return [model.collate(examples[part::parts]) for part in range(parts)]
    finally:
        model.train(training)


def _prior(table: NameTable) -> tuple[Tensor, Tensor]:
    """The mean (R,) of the vectors of training, and the ways (R, Z) in which they differ, of one standard deviation
    each."""
    mean = table.mean().detach()
    apart = table.weight.detach()[: table.learnt] - mean
    _, sizes, rows = torch.linalg.svd(apart, full_matrices=False)
    return mean, rows.t() * (sizes / max(1, table.learnt - 1) ** 0.5)


@torch.no_grad()
def _likelihood(model: Any, batches: Sequence[Any]) -> float:
    """The mean log-likelihood of a token."""
    sums, tokens = zip(*(model.log_likelihood(batch) for batch in batches), strict=True)
    return float(torch.cat(sums).sum() / torch.cat(tokens).sum())


@contextmanager
def _frozen(model: nn.Module, weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Only these weights have gradients, and nothing is dropped out."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    training = model.training
    model.eval().requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        model.train(training)
        for weight in trained:
            weight.requires_grad_(True)
