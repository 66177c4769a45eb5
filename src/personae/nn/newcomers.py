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

from personae.nn.causal import Causal
from personae.nn.name_table import NameTable
from personae.nn.personalization import Personalization
from personae.nn.processor import fastest
from personae.nn.speakers import Speakers
from personae.nn.user_writer import UserWriter
from personae.types import Example, InputError

STEPS = 12
"""Some so many times all messages are looked at, at most."""

AT_ONCE = 64
"""So many messages are computed at once."""

LATEST, OF_A_TRANSFORMER = 500, 64
"""So many of the messages of a new user are read, the latest ones: as many as take a processor seconds."""


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


def latest(model: nn.Module) -> int:
    """How many messages of a new user are read."""
    return OF_A_TRANSFORMER if _is_transformer(model) else LATEST


def fit(model: Any, user: str, examples: Sequence[Example], *, steps: int = STEPS) -> tuple[float, float]:
    """Takes a new user, or one taken before anew, whose messages are the targets of `examples`, and searches for their
    vectors by L-BFGS (Liu and Nocedal, Mathematical Programming 45, 1989), for which it looks at all messages some
    `steps` times at most. A transformer computes in 16 bits where the processor is faster by it. Gives the mean
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
    away = [nn.Parameter(mean.new_zeros(ways.shape[1])) for mean, ways in priors]  # (Z,), in standard deviations
    weights = [table.weight for table in learnt]

    def take() -> None:
        for table, place, (mean, ways) in zip(learnt, away, priors, strict=True):
            table.add(user, mean + ways @ place.detach())

    def loss() -> Tensor:
        """The negative logarithm of the posterior, but for a constant, with its gradients."""
        take()
        found = sum((place.detach().square().sum() / 2 for place in away), torch.zeros((), device=device))
        for place in away:
            place.grad = place.detach().clone()
        for batch in batches:
            lost = -model.log_likelihood(batch)[0].sum()
            gradients = torch.autograd.grad(lost, weights, materialize_grads=True)
            for table, gradient, place, (_, ways) in zip(learnt, gradients, away, priors, strict=True):
                assert place.grad is not None
                place.grad += gradient[table.names[user]] @ ways
            found = found + lost.detach()
        return found

    half = _is_transformer(model) and (device.type != "cpu" or fastest() == "bf16-mixed")
    search = torch.optim.LBFGS(away, max_iter=steps, max_eval=steps, line_search_fn="strong_wolfe")
    with _frozen(model, weights), torch.autocast(device.type, torch.bfloat16, enabled=half):
        before = _likelihood(model, batches)
        search.step(loss)
        take()
        return before, _likelihood(model, batches)


def _is_transformer(model: nn.Module) -> bool:
    return any(isinstance(part, Causal) for part in model.modules())


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
