"""Reranking on Persona-Chat's validation set: the persona reranker against sentence-transformers' CrossEncoder.

Both sides have the same weights: the peer's are what `personae export` makes of ours. Each side is a process of its
own, with as many threads, and is given the texts of so many cases of 20 candidates at a time, in turn with the others;
what is timed goes from texts to scores. The peer is timed in single precision and in bfloat16, and on its ONNX backend
as it is and in eight bits; `ratio` is against the fastest of these. A plain MiniLM with one output, which is not
trained, is timed beside them, to show what the peer's own kind of model takes.

With --order dialogues the cases follow one another as in the file, so that ours reads what they share once; with
--order random they have nothing in common. Then each side ranks one case at a time, of dialogues that it has not met,
for the latency; ours also the turns of such dialogues one after another, as in chat.

sentence-transformers' ONNX backend needs optimum-onnx, which needs transformers before 5. --peer names the Python of an
environment that has them; without it, that backend is left out.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import command
import torch
from rerank_peer import SIDES, megabytes

from personae import lend
from personae.agent import Agent
from personae.data.candidates import examples, offered
from personae.nn.pretrained import packaged
from personae.results import environment
from personae.types import Dialogue, Example, InputError

PLAIN = "a plain MiniLM, torch, bfloat16"
OURS = "ours"
ROUND = 32
"""So many cases a side takes at a time."""


class Side:
    """A process that scores cases. InputError where it cannot."""

    def __init__(self, name: str, arguments: Sequence[str | Path]) -> None:
        self.name = name
        self.megabytes = 0.0
        self.complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.complaints}
        self.process = subprocess.Popen([*map(str, arguments)], text=True, **pipes)
        try:
            told = self._read()
            if "error" in told:
                raise InputError(f"{name}: {told['error']}")
        except InputError:
            self.close()
            raise

    def score(self, requests: Sequence[dict[str, Any]]) -> tuple[float, list[list[float]]]:
        """How long it takes for cases, and their scores."""
        assert self.process.stdin is not None
        request = {key: [one[key] for one in requests] for key in ("case", "pairs")}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        told = self._read()
        self.megabytes = told["megabytes"]
        return told["seconds"], told["scores"]

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            ended = self.process.wait()
            self.complaints.seek(0)
            said = self.complaints.read().strip().rpartition("\n")[2]
            raise InputError(f"{self.name}: ended with {ended}: {said}")
        told: dict[str, Any] = json.loads(line)
        return told

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()
        self.complaints.close()


def serve(model: str, threads: str, precision: str) -> None:
    """Our side, in its process."""
    torch.set_num_threads(int(threads))
    agent = Agent.load(model, precision=precision)  # type: ignore[arg-type]
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        cases = json.loads(line)["case"]
        start = time.perf_counter()
        found = list(agent.rank_many(cases)) if len(cases) > 1 else [agent.rank(**cases[0])]
        seconds = time.perf_counter() - start
        rows = []
        for ranked in found:
            if isinstance(ranked, InputError):
                raise ranked
            rows.append([one.score for one in sorted(ranked, key=lambda one: one.index)])
        print(json.dumps({"seconds": seconds, "scores": rows, "megabytes": megabytes()}), flush=True)


def request(agent: Agent, example: Example) -> dict[str, Any]:
    """A case as either side is given it."""
    case = {
        "persona": example.facts("self"),
        "partner": example.facts("partner"),
        "context": [turn.text for turn in example.context.turns],
        "candidates": example.target.candidates,
    }
    return {"case": case, "pairs": lend.pairs(agent.task.model, example)}


def measure(
    dialogues: Sequence[Dialogue],
    *,
    model: str,
    precision: str,
    cases: int,
    single: int,
    order: str,
    peer: str | None,
    seed: int,
) -> dict[str, Any]:
    """The result that `--json` prints. InputError where the dialogues have too few examples, or there is no peer."""
    agent = Agent.load(model, precision="32-true")
    drawn = random.Random(seed)
    mixed = [list(turns) for _, turns in groupby(examples(offered(dialogues)[0]), lambda one: one.context.id)]
    drawn.shuffle(mixed)
    kept = -(-len(mixed) // 5)  # dialogues for the latency
    found, rest = [one for turns in mixed[kept:] for one in turns], mixed[:kept]
    if len(found) < cases:
        raise InputError(f"--cases: {cases} are more than the {len(found)} that four of five dialogues have")
    sample = drawn.sample(found, cases) if order == "random" else found[:cases]
    threads = str(torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        places = {"torch": Path(folder) / "torch", "onnx": Path(folder) / "onnx"}
        for kind, place in places.items():
            lend.write(agent.task.model, place, name=model, graph=kind == "onnx")
        worker = Path(__file__).with_name("rerank_peer.py")

        def start(name: str, python: str, *arguments: str | Path) -> Side:
            side = Side(name, [python, *arguments])
            opened.callback(side.close)
            return side

        ours = sys.executable, __file__, "--serve", model, threads, precision
        started = {OURS: start(OURS, *ours)}
        for name in SIDES:
            source = packaged() if name == PLAIN else places[name.partition(",")[0]]
            python = (peer if "onnx" in name else None) or sys.executable
            try:
                started[name] = start(name, python, worker, name, source, threads)
            except InputError as error:
                print(error, file=sys.stderr)
        if set(started) <= {OURS, PLAIN}:
            raise InputError("there is no peer: install sentence-transformers, or name an environment that has it")
        result = _measured(agent, sample, started, drawn=drawn, what=order)
        started[OURS] = start(OURS, *ours)  # which has met no reply
        return {**result, "milliseconds": _alone(agent, started, rest, single, drawn)}


def _measured(
    agent: Agent, sample: Sequence[Example], sides: dict[str, Side], *, drawn: random.Random, what: str
) -> dict[str, Any]:
    """What all sides take for a sample, some cases at a time."""
    requests = [request(agent, one) for one in sample]
    times: dict[str, list[float]] = {name: [] for name in sides}
    scores: dict[str, list[list[float]]] = {name: [] for name in sides}
    for side in sides.values():
        side.score(requests[:2])  # the first time, kernels are picked
    rounds = [requests[start : start + ROUND] for start in range(0, len(requests), ROUND)]
    for number, some in enumerate(rounds):
        for name in drawn.sample(list(sides), len(sides)):
            seconds, rows = sides[name].score(some)
            times[name].append(seconds)
            scores[name] += rows
        said = "; ".join(f"{name} {len(some) / taken[-1]:.4g}" for name, taken in times.items())
        print(f"round {number + 1} of {len(rounds)}, cases a second: {said}", file=sys.stderr)
    hits = {name: [_right(one, row) for one, row in zip(sample, rows, strict=True)] for name, rows in scores.items()}
    rates = {
        name: statistics.median(len(some) / taken for some, taken in zip(rounds, all_, strict=True))
        for name, all_ in times.items()
    }
    peers = [name for name in sides if name not in (OURS, PLAIN)]
    fastest = max(peers, key=lambda name: rates[name])
    ratios = [theirs / ours for ours, theirs in zip(times[OURS], times[fastest], strict=True)]
    changed = sum(hits[OURS]) - sum(hits[fastest])
    return {
        "what": f"cases of {len(sample[0].target.candidates)} candidates a second, {agent.name}, order: {what}",
        "ratio": statistics.median(ratios),
        "ours": rates[OURS],
        "theirs": rates[fastest],
        "unit": "cases a second",
        "runs": len(rounds),
        "equal": abs(changed) <= max(0.003 * len(sample), 1),
        "machine": {**environment(torch.device("cpu")), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "cases": len(sample),
        "ratios": ratios,
        "taken": fastest,
        "variants": rates,
        "hits@1": {name: sum(hit) / len(hit) for name, hit in hits.items() if name != PLAIN},
        "megabytes": {name: side.megabytes for name, side in sides.items()},
    }


def _alone(
    agent: Agent, sides: dict[str, Side], dialogues: Sequence[Sequence[Example]], count: int, drawn: random.Random
) -> dict[str, dict[str, float]]:
    """The milliseconds of single cases of dialogues that no side has met, half of which take less (`p50`), or 19 in 20
    (`p95`)."""
    others, some = dialogues[::2], dialogues[1::2]
    cases = [one for turns in some for one in turns]
    sides[OURS].score([request(agent, one) for one in others[-1][:2]])  # the first time, kernels are picked
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for one in drawn.sample(cases, min(count, len(cases))):
        for name in drawn.sample(list(sides), len(sides)):
            taken[name].append(1000 * sides[name].score([request(agent, one)])[0])
    in_chat: list[float] = []
    for turns in others:
        in_chat += [1000 * sides[OURS].score([request(agent, one)])[0] for one in turns][1:]
        if len(in_chat) >= count:
            break
    named = taken | ({f"{OURS}, the next turn of a chat": in_chat} if len(in_chat) > 1 else {})
    return {
        name: {"p50": statistics.median(all_), "p95": statistics.quantiles(all_, n=20)[-1]}
        for name, all_ in named.items()
        if len(all_) > 1
    }


def _right(case: Example, scores: Sequence[float]) -> bool:
    best = max(range(len(scores)), key=lambda place: scores[place])
    return case.target.candidates[best] == case.target.text


def _said(result: dict[str, Any]) -> str:
    peer = f"sentence-transformers {result['theirs']:.1f} ({result['taken']}), {result['ratio']:.2f} times as fast"
    lines = [f"{result['what']}, {result['cases']} cases: {result['ours']:.1f}, {peer}"]
    for name, rate in result["variants"].items():
        hits = f", hits@1 {result['hits@1'][name]:.4f}" if name in result["hits@1"] else ""
        lines.append(f"  {name}: {rate:.2f} cases a second{hits}, {result['megabytes'][name]:.0f} MB")
    for name, taken in result["milliseconds"].items():
        lines.append(f"  one case, {name}: p50 {taken['p50']:.1f} ms, p95 {taken['p95']:.1f} ms")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its result; the exit code is 2 after a mistake of the user's."""
    parser = command.parser(__doc__ or "", built=False)
    parser.set_defaults(threads=os.cpu_count() or 1)
    parser.add_argument("--model", default="persona-reranker", help="a run folder, or a shipped model, of the reranker")
    parser.add_argument("--precision", default="auto", help="of ours: auto, 32-true, bf16-mixed or int8")
    parser.add_argument("--cases", type=command.positive, default=320, help="how many are scored")
    parser.add_argument("--single", type=command.positive, default=40, help="how many are scored one at a time")
    parser.add_argument("--order", choices=("dialogues", "random"), default="random", help="of the cases")
    parser.add_argument("--peer", help="the Python of an environment with sentence-transformers and optimum-onnx")
    return command.run(parser, arguments, measure, _said)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        sys.exit(main())
