"""Every shipped recipe fits the signatures that it is for, and what is wrong with another is said."""

from pathlib import Path

import pytest
import yaml

from personae import catalogue, published, recipes, run
from personae.types import InputError, Paper

SHIPPED = sorted(recipes.shipped())
RECIPE = "selection/imn-toy-ra"
FILES = "{class_path: personae.data.files.Files, init_args: {valid: x.jsonl}}"


def test_the_shipped_recipes() -> None:
    on_personachat = {
        f"selection/{model}-personachat-{fusion}"
        for model in ("hre", "imn")
        for fusion in ("ca", "cra", "na", "none", "ra")
    }
    assert set(SHIPPED) >= {*on_personachat, RECIPE}


def test_every_model_that_is_trained_has_recipes_and_no_other() -> None:
    counts = {model["name"]: len(model["recipes"]) for model in catalogue.models()}
    assert {"hre": 10, "imn": 16, "dim": 2, "minilm": 0, "tfidf": 0}.items() <= counts.items()
    for model in catalogue.models():
        assert model["trained"] == bool(model["recipes"])
        if model["families"][0] == "selection":
            assert model["trained"] == any(name.endswith("-gpu") for name in model["recipes"])
        for name in model["recipes"]:
            assert name.startswith(f"{model['families'][0]}/{model['name']}-")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_fits_its_signatures_and_its_model_is_built(name: str, tmp_path: Path) -> None:
    settings = run._settings(run._parser(), name, {})
    arguments = recipes.read(name)
    arguments["task"]["init_args"]["model"].get("init_args", {}).pop("backbone", None)  # of the hub: MiniLM instead
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(arguments), encoding="utf-8")
    task = run.build(str(tmp_path / "recipe.yaml"))
    made = settings.task.init_args.model
    assert f"{type(task.model).__module__}.{type(task.model).__name__}" == made.class_path
    if "fusion" in made.init_args:
        assert (task.model.persona == "none") == (made.init_args.fusion == "none")
        assert f"-{made.init_args.fusion}" in name
    assert recipes.find(name).read_text(encoding="utf-8").startswith("# ")  # what it is
    if "paper" in recipes.read(name):
        assert published.lookup(Paper(**recipes.read(name)["paper"])) is not None


def test_a_recipe_may_name_where_its_system_is_published() -> None:
    paper = {"name": "persona-fusion", "table": "table4", "row": "IMN-RA", "column": "self hits@1"}
    settings = run._settings(run._parser(), RECIPE, {f"paper.{key}": value for key, value in paper.items()})
    assert vars(settings.paper) == paper
    with pytest.raises(
        InputError, match=r"^--paper: paper\.rows: Paper takes no rows, did you mean row\? It takes name, "
    ):
        run._settings(run._parser(), RECIPE, {"paper": "{name: dim, table: table4, rows: DIM}"})


def test_recipes_are_read_from_files_too(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 3\ntask: {}\n")
    assert recipes.read(str(path)) == {"seed": 3, "task": {}}
    assert recipes.find(str(path)) == path
    assert recipes.find(RECIPE).is_file()


def test_changes_reach_into_the_arguments_of_classes() -> None:
    arguments = {"task": {"class_path": "a.Task", "init_args": {"model": {"class_path": "a.Model"}}}, "seed": 1}
    recipes.change(
        arguments,
        {
            "task.model.hidden": "64",
            "task.batches": "1e-3",
            "seed": "2",
            "trainer.callbacks": "[a, b]",
            "x.y.z": "null",
        },
    )
    model = {"class_path": "a.Model", "init_args": {"hidden": 64}}
    assert arguments == {
        "task": {"class_path": "a.Task", "init_args": {"model": model, "batches": "1e-3"}},
        "seed": 2,
        "trainer": {"callbacks": ["a", "b"]},
        "x": {"y": {"z": None}},
    }


def edited(edit: str, to: Path) -> Path:
    """The shipped recipe with `old -> new` replaced, or another text."""
    old, arrow, new = edit.partition(" -> ")
    text = recipes.find(RECIPE).read_text()
    assert not arrow or text.count(old) == 1
    to.write_text(text.replace(old, new) if arrow else edit)
    return to


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            "fusion: ra -> fusoin: ra",
            r"recipe\.yaml: task\.model\.fusoin: IMN takes no fusoin, did you mean fusion\? It takes words, f",
        ),
        ("batch_size: -> batchsize:", r"task\.batchsize: Selection takes no batchsize, did you mean batch_size\?"),
        (
            "accelerator: -> acelerator:",
            r"trainer\.acelerator: Trainer takes no acelerator, did you mean accelerator\?",
        ),
        (
            "trainer: -> trainr:",
            r"a recipe takes no trainr, did you mean trainer\? It takes task, corpus, trainer, seed, ",
        ),
        (
            "trainer: -> resume: true\ntrainer:",
            "resume: a recipe takes no resume; it takes task, .*, init_from, paper$",
        ),
        ("fusion: ra -> fusion: xa", r"task\.model\.fusion: one of none, na, .* is wanted, not xa"),
        ("hidden: 32 -> hidden: many", r"task\.model\.hidden: a whole number is wanted, not many"),
        ("selection.imn.IMN -> selection.imn.INM", "has no attribute 'INM'"),
        ("selection.imn.IMN -> selection.nowhere.IMN", "has no attribute 'nowhere'"),
        (
            "personae.models.selection.imn.IMN -> personae.data.toy.Selection",
            r"task\.model: .*does not implement protocol Scorer",
        ),
        ("personae.data.toy.Selection -> lightning.Trainer", r"corpus: .*does not implement protocol Corpus"),
        ("max_epochs: -> max_time: 10\n    max_epochs:", r"recipe\.yaml: trainer\.max_time: days, hours, minutes"),
        ("accelerator: cpu -> accelerator: abacus", "invalid accelerator name"),
        ("just text", "a recipe is a mapping with the keys task, corpus and trainer"),
        ("- a list", "a recipe is a mapping with the keys task, corpus and trainer"),
        ("", "a recipe is a mapping with the keys task, corpus and trainer"),
        ("task: [", "cannot be read as YAML"),
        ("seed: 0", "the following arguments are required: task, corpus, trainer"),
    ],
)
def test_a_recipe_with_a_mistake_is_refused(edit: str, message: str, tmp_path: Path) -> None:
    recipe = edited(edit, tmp_path / "recipe.yaml")
    with pytest.raises(InputError, match=message) as refused:
        run.train(str(recipe), {}, out=tmp_path / "run")
    assert str(recipe) in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": "-1"}, "seed: -1 is not between 0 and 4294967295"),
        ({"save_every": "0"}, "save_every: 0 is not at least 1"),
        ({"task.batch_size": "0"}, "batch_size must be at least 1, not 0"),
        (
            {"task.negatives": "{class_path: personae.tasks.negatives.Drawn, init_args: {candidates: 1}}"},
            "candidates must be between 2 and pool",
        ),
        ({"corpus.dialogues": "0"}, "dialogues: 0 is not between 1 and 50000"),
        ({"trainer.val_check_interval": "99"}, "trainer.val_check_interval: 99 is more than the 1 batches of an epoch"),
        (
            {"trainer.val_check_interval": "1", "trainer.check_val_every_n_epoch": "3", "trainer.max_epochs": "1"},
            "trainer: training ends after 1 steps, before dev is measured for the first time, after 3",
        ),
        (
            {"trainer.val_check_interval": "2", "corpus.dialogues": "40", "trainer.limit_train_batches": "1"},
            "trainer.val_check_interval: 2 is more than the 1 batches of an epoch",
        ),
        ({"task.optimization.cooldown": "2"}, r"task\.optimization\.cooldown: 2\.0 is not between 0 and 1"),
        (
            {
                "task.optimization.warmup": "0",
                "task.optimization.cooldown": "1",
                "trainer.max_epochs": "-1",
                "trainer.max_time": "'00:00:00:09'",
                "trainer.val_check_interval": "1",
            },
            r"task\.optimization\.cooldown: needs trainer\.max_steps or trainer\.max_epochs",
        ),
        (
            {"task.model.words.longest": "2"},
            r"words\.windows: \[3, 4, 5\] must be some, from 1 to words\.longest",
        ),
        ({"task.modle.hidden": "8"}, r"^--task\.modle\.hidden: Selection takes no modle, did you mean model\?"),
        ({"task.model.zzz": "8"}, r"^--task\.model\.zzz: IMN takes no zzz; it takes words, fusion, .*, limits$"),
        ({"seed": "1", "task.model.limits.line": "8"}, r"^--task\.model\.limits\.line: Limits takes no line, did"),
        ({"task.model.hidden": "many"}, r"^--task\.model\.hidden: a whole number is wanted, not many$"),
        ({"task.optimization.muon": "x"}, r"^--task\.optimization\.muon: a number or null is wanted, not x$"),
        ({"task.objective.kind": "x"}, r"^--task\.objective\.kind: one of listwise, .* is wanted, not x$"),
        ({"task.negatives": "InBatch"}, r"^--task\.negatives: Expected a dot import path string: InBatch$"),
        (
            {"corpus": FILES, "corpus.train": "x.jsonl"},
            r"^--corpus\.train: a list is wanted, .*: write '\[x\.jsonl\]'$",
        ),
        *(
            ({"trainer.max_time": time}, r"^--trainer\.max_time: days, hours, minutes and seconds are wanted, such")
            for time in ("10", "10m", "00:10:00", "1:00:00:00")
        ),
        ({"trainer.accelerator": "abacus"}, "^--trainer.accelerator: .* invalid accelerator name"),
        ({"task.model.hidden.size": "8"}, "--task.model.hidden.size: leads through 32, which has no parts"),
        ({"task.model.hidden": "[1"}, r"--task\.model\.hidden: '\[1' cannot be read as YAML"),
    ],
)
def test_a_change_that_cannot_be_is_refused(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run.train(RECIPE, {"corpus.dialogues": "8", **changes}, out=tmp_path / "run")


def test_a_model_without_a_loss_is_not_trained(tmp_path: Path) -> None:
    model = "{class_path: personae.models.selection.tfidf.TfIdf}"
    with pytest.raises(InputError, match=r"task\.model: TfIdf needs no training; evaluate it by its name"):
        run.train(RECIPE, {"task.model": model, "corpus.dialogues": "8"}, out=tmp_path / "run")


def test_a_recipe_that_is_nowhere_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"nowhere\.yaml: no such recipe; give a YAML file, or one of: .*selection/imn-toy"
    ):
        run.train(str(tmp_path / "nowhere.yaml"), {}, out=tmp_path / "run")
    with pytest.raises(InputError, match=r"^dim-personachat: .*; did you mean selection/dim-personachat\?$"):
        run.train("dim-personachat", {}, out=tmp_path / "run")
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(InputError, match=r"/nine\.yaml: no such recipe; did you mean .*/mine\.yaml\?$"):
        run.train(str(tmp_path / "nine.yaml"), {}, out=tmp_path / "run")
    with pytest.raises(InputError, match="--config: name a recipe"):
        run.train(None, {}, out=tmp_path / "run")
