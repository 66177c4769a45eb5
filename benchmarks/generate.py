"""New tokens a second of a language model: ours against transformers' `generate` with the same weights.

Both go on from the same contexts of dialogues with so many tokens, the most probable one each time, on the same threads
in the same type, without gradients. The end of text is not allowed on either side, so that all rows are equally long.
In 32-true both must write the same; with eight bits, where logits are often equal, ours is asked what it would choose
after each token of theirs.
Contexts are given as padded tokens, at the left to transformers, which asks for it, at the right to ours. Ours copies
the weights once; that is not timed, and neither is a first run of each side.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import command
import torch
from torch import Tensor, nn

from personae.data.candidates import examples
from personae.nn.causal import Causal, load, packaged
from personae.nn.decoding import Decoding, decode
from personae.results import environment
from personae.types import Dialogue, InputError

TYPES = {"32-true": torch.float32, "bf16-true": torch.bfloat16}
LONGEST = 64
"""So many tokens of a context are read at most."""


def ours(model: Causal, rows: Sequence[Tensor], new: int) -> Tensor:
    """What ours adds to rows of tokens: (rows, new)."""
    tokens = nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=model.end)
    lengths = torch.tensor(list(map(len, rows)))
    names = list(map(str, range(len(rows))))
    decoding = Decoding("greedy", longest=new, shortest=new)
    logits, place = model.begin(model.embed(tokens), lengths, None, new)
    found = decode(logits, place, model.step, names=names, end=model.end, forbidden=(), decoding=decoding)
    return torch.tensor([reply.tokens for (reply,) in found])


def theirs(model: Any, end: int, rows: Sequence[Tensor], new: int) -> Tensor:
    """What transformers adds to rows of tokens: (rows, new)."""
    tokens = nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=end, padding_side="left")
    there = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
    found: Tensor = model.generate(
        tokens, attention_mask=there, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=end
    )
    return found[:, tokens.shape[1] :]


def agreement(model: Causal, rows: Sequence[Tensor], others: Tensor) -> float:
    """The share of the tokens that transformers chose which ours chooses too, after the same tokens."""
    tokens = nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=model.end)
    logits, place = model.begin(model.embed(tokens), torch.tensor(list(map(len, rows))), None, others.shape[1])
    same = []
    for column in others.t():
        logits[:, model.end] = -torch.inf
        same.append((logits.argmax(1) == column).float())
        logits, place = model.step(column, place)
    return float(torch.stack(same).mean())


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """The seconds that it takes, and what it gives."""
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


@torch.inference_mode()
def measure(
    dialogues: Sequence[Dialogue],
    *,
    backbone: str | None,
    tokens: int,
    batches: list[int],
    runs: int,
    precision: str,
    seed: int,
) -> dict[str, Any]:
    """The result that `--json` prints. InputError where the dialogues have too few examples."""
    source = backbone or packaged()
    model = Causal(source, field="--backbone").to(TYPES[precision]).eval()
    _, other = load(source, "--backbone")
    other = other.to(TYPES[precision]).eval()
    contexts = [example.context.turns for example in examples(dialogues)]
    if len(contexts) < max(batches):
        raise InputError(f"--batches: {max(batches)} are more than the file's {len(contexts)} examples: ask for fewer")
    known = model.tokens(turn.text for turns in contexts for turn in turns)
    every = [[token for turn in turns for token in (*known[turn.text], model.end)][-LONGEST:] for turns in contexts]
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed)).tolist()
    every = [every[place] for place in order]
    measured: dict[int, dict[str, Any]] = {}
    for size in batches:
        pairs, same = [], []
        for run in range(runs + 1):
            first = run * size % (len(every) - size + 1)
            rows = list(map(torch.tensor, every[first : first + size]))
            a, mine = timed(lambda rows=rows: ours(model, rows, tokens))  # type: ignore[misc]
            b, found = timed(lambda rows=rows: theirs(other, model.end, rows, tokens))  # type: ignore[misc]
            exact = precision == "32-true"
            same.append(float((mine == found).float().mean()) if exact else agreement(model, rows, found))
            if run:
                pairs.append((a, b))
                print(f"batch {size}, run {run}: {a:.2f} s, transformers {b:.2f} s", file=sys.stderr)
        measured[size] = {
            "ratio": statistics.median(b / a for a, b in pairs),
            "ours": size * tokens / statistics.median(a for a, _ in pairs),
            "theirs": size * tokens / statistics.median(b for _, b in pairs),
            "ratios": [b / a for a, b in pairs],
            "agreement": statistics.mean(same),
        }
    worst = min(measured.values(), key=lambda one: one["ratio"])
    least = 1.0 if precision == "32-true" else 0.95
    return {
        "what": f"{tokens} new tokens by {backbone or 'SmolLM2-135M'}, {precision}, in batches of {batches}",
        **{key: worst[key] for key in ("ratio", "ours", "theirs")},
        "unit": "tokens a second",
        "runs": runs,
        "equal": all(one["agreement"] >= least for one in measured.values()),
        "machine": {**environment(torch.device("cpu")), "cores": os.cpu_count()},
        "batches": measured,
    }


def _said(result: dict[str, Any]) -> str:
    return "\n".join(
        f"batch {size}: {one['ours']:.1f} tokens a second, transformers {one['theirs']:.1f}, {one['ratio']:.2f} times "
        f"as fast; {one['agreement']:.1%} of the tokens are the same"
        for size, one in result["batches"].items()
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its result; the exit code is 2 after a mistake of the user's."""
    parser = command.parser(__doc__ or "", built=False)
    parser.add_argument("--backbone", help="a folder or a hub id; SmolLM2's package if not given")
    parser.add_argument("--tokens", type=command.positive, default=32, help="new tokens a context")
    parser.add_argument("--batches", type=command.positive, nargs="+", default=[1, 16], help="contexts at a time")
    parser.add_argument("--runs", type=command.positive, default=5, help="pairs of each batch, each side in turn")
    parser.add_argument("--precision", choices=TYPES, default="32-true", help="of weights and of all else")
    return command.run(parser, arguments, measure, _said)


if __name__ == "__main__":
    sys.exit(main())
