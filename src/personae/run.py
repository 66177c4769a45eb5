"""Runs: a recipe is trained into a folder, and a folder is loaded back and measured.

A run folder holds recipe.yaml (every argument, resolved), config.json (version and vocabulary), model.safetensors,
backbone/ (configuration and tokenizer of a pretrained one), training.jsonl (what was measured on the way),
predictions.jsonl and metrics.json of the validation split, environment.json, and checkpoints/ to resume from. Nothing
in it is ever unpickled.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import lightning
import torch
from jsonargparse import ArgumentParser, Namespace
from safetensors import SafetensorError

from personae import __version__, catalogue, checkpoint, recipes, results, training, weights
from personae.data import lines
from personae.data.candidates import examples
from personae.data.read import locate, read
from personae.data.splits import keep_apart
from personae.data.texts import in_standard
from personae.metrics.calibration import Calibration
from personae.nn.pretrained import Pretrained
from personae.published import lookup
from personae.recipes import mistakes
from personae.results import Measured, Precision
from personae.tasks.base import Task
from personae.tasks.generation import Generation
from personae.tasks.selection import Selection
from personae.types import Corpus, Example, InputError, Paper, Whose, check

BACKBONE = "backbone"

Role = Literal["selection", "generation"]
"""What a model is measured at."""

log = logging.getLogger(__name__)


def train(recipe: str | None, changes: Mapping[str, str], *, out: Path, resume: bool = False) -> dict[str, Any]:
    """Fits a recipe, `changes` made to it ("task.model.hidden": "64"), into the folder `out`; see `fit`.

    With `resume`, `recipe` may be None, for the one in `out`. InputError where the recipe is not one, `out` holds a run
    already (without `resume`), or none (with it), or another command is training it.
    """
    kept, last, lock = out / "recipe.yaml", out / "checkpoints" / "last.ckpt", out / ".lock"
    if resume and not kept.exists():
        raise InputError(f"{out}: there is no run to resume; leave --resume out")
    if not resume and out.exists() and (not out.is_dir() or any(file not in (kept, lock) for file in out.iterdir())):
        resumed = "resume its run with --resume, or " if kept.exists() else ""
        raise InputError(f"{out}: is not an empty folder; {resumed}name another")
    source = str(kept) if recipe is None and resume else recipe
    if source is None:
        raise InputError("--config: name a recipe, a file or a shipped one (`personae models` lists them)")
    parser = _parser()
    settings = _settings(parser, source, changes)
    if resume:
        before = _settings(parser, str(kept), {})
        for key in vars(before):
            if key not in ("trainer", "paper") and settings[key] != before[key]:
                raise InputError(f"--resume: {key} is not what it was in {kept}; only the trainer may change")
    if settings.seed is None or settings.save_every is None:
        raise InputError("seed, save_every: a number is wanted, not null")
    if not 0 <= settings.seed < 1 << 32:
        raise InputError(f"seed: {settings.seed} is not between 0 and {(1 << 32) - 1}")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    lightning.seed_everything(settings.seed, verbose=False)
    made = mistakes.checked(lambda: parser.instantiate(settings), source, changes, fit)
    new, earlier = not out.exists(), kept.read_text(encoding="utf-8") if kept.exists() else None
    out.mkdir(parents=True, exist_ok=True)
    busy = f"{out}: another command is training this run"
    with checkpoint.alone(lock, busy) if made["trainer"].is_global_zero else nullcontext():
        if resume and made["trainer"].is_global_zero:
            lines.sweep(out)
        try:
            lines.save([parser.dump(settings, skip_unset=False).rstrip()], kept)
            return fit(out=out, resume=resume and last.exists(), **made)
        except InputError:
            if new and not last.exists():
                shutil.rmtree(out)
            elif earlier is not None:
                lines.save([earlier.rstrip("\n")], kept)
            elif not last.exists():
                kept.unlink(missing_ok=True)
            raise


def fit(
    *,
    task: Task,
    corpus: Corpus,
    trainer: lightning.Trainer,
    out: Path,
    seed: int = 0,
    patience: int | None = None,
    save_every: int = 200,
    init_from: str | None = None,
    paper: Paper | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Trains `task` on the corpus's "train" split, keeps the weights that are best on "dev", measures them on "valid"
    and writes the run to `out`.

    Args:
        task: the model, and how it is trained.
        corpus: named splits of dialogues.
        trainer: Lightning's trainer: epochs, steps, precision, devices, time limit.
        out: the run folder.
        seed: of the weights, of the order of training and of what is drawn.
        patience: stop after so many validations without a better one; never if None.
        save_every: keep the state, to resume from, every so many steps, besides at every validation.
        init_from: a run folder; weights that have a name and a shape in common with its model start as they are there,
            and the words whose vectors it has trained keep them.
        paper: where the system is published.
        resume: go on from the state kept in `out`; the result is that of a run that was never interrupted.

    Returns:
        What is written to metrics.json. Raises KeyboardInterrupt where training was interrupted, its state kept.
    """
    _check_arguments(task, trainer, patience=patience, save_every=save_every, paper=paper)
    if init_from is not None and not resume:
        checkpoint.inherit(task.model, load(init_from).model, init_from)
    training.keep_memory()
    task.seed = seed
    splits = {name: list(corpus.split(name)) for name in ("train", "dev", "valid")}
    dialogues = splits["train"]
    dev, _ = task.cases(splits["dev"], "corpus.dev", sides="both")
    replies = examples(dialogues, sides="both")
    reported, drawn = task.cases(splits["valid"], "corpus.valid")
    if not replies or not dev:
        raise InputError("corpus: no replies to train on, or none held out to select on; give more dialogues")
    for cases, where in ((replies, "train"), (dev, "dev"), (reported, "valid")):
        _check_persona(task, cases, f"corpus.{where}", "task.model.persona")
    known = keep_apart(splits["valid"], "corpus.valid", {"corpus.train": dialogues, "corpus.dev": splits["dev"]})
    if not resume:
        task.prepare(dialogues)
    digest = hashlib.sha256("\n".join(map(repr, [*dialogues, *dev])).encode()).hexdigest()
    keeper = checkpoint.Keeper(out, every=save_every, corpus=digest)
    batches = task.batches(replies, rank=trainer.global_rank, processes=trainer.world_size)
    task.steps = training.steps(trainer, len(batches))
    training.loop(trainer, task, batches, task.held_out(dev), keeper, patience=patience, resume=resume)
    if not trainer.is_global_zero:
        raise SystemExit(0)  # one process is enough for what is left
    if not keeper.best.exists():
        raise InputError("trainer.max_time: is over before dev was measured; give more")
    keeper.clock()
    task.model.load_state_dict(checkpoint.load(keeper.best))
    task.to(trainer.strategy.root_device).eval().remember(replies)
    save(task, out)
    spent = {"seed": seed, "best_step": keeper.step, "steps": trainer.global_step, "cpu_seconds": keeper.cpu_seconds}
    spent["stopped"] = training.out_of_time(trainer)
    learnt = {"sha256": digest, "train": len(replies), "dev": len(dev), "known": known}
    results.write_json(
        {**results.environment(trainer.strategy.root_device), **spent, "corpus": learnt}, out / "environment.json"
    )
    path = getattr(corpus, "valid", None)
    return results.report(
        task,
        reported,
        drawn,
        model=str(out),
        path=path,
        split="valid",
        seed=seed,
        out=out,
        paper=paper,
        precision=trainer.precision,  # type: ignore[arg-type]
    )


def save(task: Task, out: Path) -> None:
    """Writes config.json and model.safetensors; each is complete or untouched. Of a pretrained backbone, its
    configuration and its tokenizer are kept besides, in backbone/."""
    for part in task.model.modules():
        if isinstance(part, Pretrained):
            part.keep(out / BACKBONE)
    state = {name: value for name, value in task.model.state_dict().items() if not isinstance(value, torch.Tensor)}
    config = {"library_name": "personae", "personae_version": __version__, "state": state}
    if task.calibration is not None:
        config["calibration"] = asdict(task.calibration)
    results.write_json(config, out / "config.json")
    weights.write(task.model, out / results.WEIGHTS)


def load(model: str) -> Task:
    """A task with its model, ready to answer. `model` is a run folder, the name of one that is shipped, or the name or
    the recipe of a model that needs no training. InputError where it is none of them, or a file of it is missing or
    damaged."""
    training.keep_memory()
    folder = catalogue.shipped().get(model, Path(model))
    if model in catalogue.shipped() and Path(model).exists():
        log.warning("%s is the model that comes with the package; the folder of that name here is ./%s", model, model)
    if folder.is_dir():
        config, numbers = folder / "config.json", folder / results.WEIGHTS
        missing = [file.name for file in (folder / "recipe.yaml", config, numbers) if not file.is_file()]
        if "recipe.yaml" in missing:
            raise InputError(f"{folder}: is no run folder, it has no recipe.yaml; give the --out of a `personae fit`")
        if missing and any((folder / name).exists() for name in results.RECORDED):
            raise InputError(f"{folder}: is a record of a run, which has no weights; train its recipe.yaml anew")
        if missing:
            raise InputError(
                f"{folder}: no finished run, {' and '.join(missing)} missing; resume its training or name another"
            )
        recipe = str(folder / "recipe.yaml")
        if "seed" not in recipes.read(recipe):  # which is written after the task, the corpus and the trainer
            raise InputError(f"{recipe}: is cut off, copy the run again")
        backbone = folder / BACKBONE
        task = build(recipe, {"task.model.backbone": json.dumps(str(backbone))} if backbone.is_dir() else {})
        try:
            told = json.loads(config.read_text(encoding="utf-8"))
            task.model.load_state_dict({**weights.read(numbers, task.model), **told["state"]})
            task.calibration = Calibration(**told["calibration"]) if "calibration" in told else None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise InputError(
                f"{folder}: {numbers.name} or {config.name} is damaged, copy the run again: {error}"
            ) from None
        return task.eval()
    untrained = catalogue.untrained(model)
    if untrained is not None:
        return Selection(model=untrained()).eval()
    if told := catalogue.missing(model):
        raise InputError(f"{model}: {told}")
    task = build(model)
    if hasattr(task.model, "loss"):
        raise InputError(f"{model}: must be trained first: personae fit --config {model} --out RUN, then give RUN")
    return task.eval()


def reads_standard(model: str) -> bool:
    """Whether the model of a run folder was trained on texts in the standard form (`personae.text.standard`)."""
    recipe = Path(model) / "recipe.yaml"
    corpus = recipes.read(str(recipe)).get("corpus") if recipe.exists() else None
    return isinstance(corpus, dict) and bool(corpus.get("init_args", {}).get("standard", False))


def as_role(task: Task, role: Role, model: str) -> Task:
    """A task of the `model` that measures it as one that chooses replies, or as one that writes them. InputError where
    it is not able to."""
    if role == "selection" and hasattr(task.model, "score"):
        return task if isinstance(task, Selection) else Selection(model=task.model).eval()
    if role == "generation" and hasattr(task.model, "generate"):
        return task if isinstance(task, Generation) else Generation(model=task.model, select="log-likelihood").eval()
    able = {"selection": "chooses no replies", "generation": "writes none"}[role]
    raise InputError(f"--role {role}: {model} {able}; take the other role, or another model")


def aim(task: Task, persona: Whose) -> None:
    """Makes a model read another persona than it was made for. InputError where it was built without any."""
    room = getattr(task.model, "personas", 2)
    if persona != "none" and (getattr(task.model, "persona", "none") == "none" or room == 0):
        raise InputError(f"--persona {persona}: this model was built without personas")
    if persona == "both" and room < 2:
        raise InputError("--persona both: this model was built for one persona; train one with persona: both")
    task.model.persona = persona


def evaluate(
    model: str,
    data: str,
    *,
    split: str | None = None,
    persona: Whose | None = None,
    candidates: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    precision: Measured = "32-true",
    device: str = "cpu",
    role: Role | None = None,
) -> dict[str, Any]:
    """Measures a model on a file of dialogues, computing on `device`; one that both chooses and writes replies in the
    `role` that it was trained for, if None.

    Where the file has no candidates, so many (20 if None), the true reply among them, are drawn for each reply with
    `seed`, and the result names the draw. `split` chooses in a file that has several, and labels the result. `persona`
    makes the model read another persona than it was made for. InputError where `candidates` are asked for and the file
    has its own, where it holds no line of the persona that is read, where `out` holds a result already, which would be
    lost, or where there is no such device.
    """
    check("precision", precision, Measured)
    check("device", device.partition(":")[0], Literal["cpu", "cuda"])
    if persona is not None:
        check("persona", persona, Whose)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {device}: there is no GPU here that torch can use; take cpu")
    if out is not None and (out / "recipe.yaml").exists():
        raise InputError(f"--out {out}: is a run folder, whose own results would be lost; name another")
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder")
    if out is not None and (out / "metrics.json").exists():
        raise InputError(f"--out {out}: holds the results of another evaluation, which would be lost; name another")
    path = f"{data}:{split}" if split and data.endswith(".json") else data
    inside = locate(path)[1]
    if split and inside and split != inside:
        raise InputError(f"--split {split}: {data} names the split {inside} itself; leave one of them out")
    dialogues = read(path)
    task = load(model).to(device)
    if reads_standard(model):
        dialogues = list(map(in_standard, dialogues))
    if role is not None:
        check("role", role, Role)
        task = as_role(task, role, model)
    cases, drawn = task.cases(dialogues, data, n=20 if candidates is None else candidates, seed=seed)
    if candidates is not None and (drawn is None or drawn.name == "official"):
        why = f"{data} has candidates of its own" if drawn else f"{model} is given none"
        raise InputError(f"--candidates {candidates}: {why}; leave the option out")
    if persona is not None:
        aim(task, persona)
    if precision == "int8":
        if not hasattr(task.model, "compute_in"):
            raise InputError(f"--precision int8: {model} cannot compute in it; choose another")
        task.model.compute_in("int8")
    _check_persona(task, cases, data, "--persona")
    if not hasattr(task.model, "loss"):
        task.model.prepare(text for case in cases for text in case.target.candidates)
    named = re.search(r"(?<![a-z])(train|valid|test)(?![a-z])", Path(data).stem)
    label = split or inside or (named[1] if named else "all")
    return results.report(
        task, cases, drawn, model=model, path=path, split=label, seed=seed, out=out, precision=precision
    )


def _check_arguments(
    task: Task, trainer: lightning.Trainer, *, patience: int | None, save_every: int, paper: Paper | None
) -> None:
    """InputError where `fit` cannot use an argument."""
    if not hasattr(task.model, "loss"):
        raise InputError(f"task.model: {type(task.model).__name__} needs no training; evaluate it by its name")
    if paper is not None:
        lookup(paper)
    if patience is not None and patience < 1:
        raise InputError(f"patience: {patience} is not at least 1")
    if save_every < 1:
        raise InputError(f"save_every: {save_every} is not at least 1")
    if trainer.precision not in get_args(Precision):
        raise InputError(f"trainer.precision: {trainer.precision} is none of {', '.join(get_args(Precision))}")


def _check_persona(task: Task, cases: Sequence[Example], where: str, option: str) -> None:
    """InputError where no case has a line of the persona that the model reads."""
    whose: Whose = getattr(task.model, "persona", "none")
    if whose != "none" and not any(case.facts(whose) for case in cases):
        raise InputError(
            f"{where}: holds no line of the persona that is to be read ({option} {whose}); read none, or give "
            "dialogues that have it"
        )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(fit, skip={*recipes.APART}, sub_configs=False)
    return parser


def resolved(recipe: str, changes: Mapping[str, str]) -> dict[str, Any]:
    """Every argument of a recipe, `changes` made to it, by its dotted name. InputError where it is not one."""
    return vars(_settings(_parser(), recipe, changes).as_flat())


def _settings(parser: ArgumentParser, recipe: str, changes: Mapping[str, str]) -> Namespace:
    """A recipe's arguments with changes made, checked against the signatures that they are for."""
    arguments = recipes.read(recipe)
    recipes.change(arguments, changes)
    settings: Namespace = mistakes.checked(lambda: parser.parse_object(arguments), recipe, changes, fit)
    return settings


def build(recipe: str, changes: Mapping[str, str] = MappingProxyType({})) -> Task:
    """The task of a recipe, `changes` made to it, its model untrained."""
    training.keep_memory()
    task: Task = part(recipe, "task", Task, changes)
    return task


def part(recipe: str, name: str, kind: Any, changes: Mapping[str, str] = MappingProxyType({})) -> Any:
    """One argument of `fit`, as a recipe says, `changes` made to it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{name}", type=kind, required=True)
    arguments = recipes.read(recipe)
    recipes.change(arguments, changes)
    arguments = {name: arguments.get(name)}
    return mistakes.checked(lambda: parser.instantiate(parser.parse_object(arguments))[name], recipe, changes, fit)
