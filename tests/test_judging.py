"""`personae perhits`, on responses that anybody wrote."""

import json
import random
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from tiny_backbone import write as write_backbone

from personae import judging
from personae.cli import main
from personae.metrics import kenlm
from personae.types import InputError

TOPICS = {"ann": "boat sail wind sea harbour", "bob": "soup pot salt stove spoon", "cid": "dog lead walk park bone"}


def write(path: Path, messages: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(message) + "\n" for message in messages), encoding="utf-8")
    return str(path)


def said(user: str, seed: int) -> str:
    return " ".join(["i", *random.Random(f"{user}{seed}").choices(TOPICS[user].split(), k=5)])


@pytest.fixture
def histories(tmp_path: Path) -> str:
    each = [{"user": user, "text": said(user, seed)} for user in TOPICS for seed in range(20)]
    more = [{"user": "ann", "history": ["i sail .", "my boat ."]}, {"user": "mum", "history": ["", ""]}]
    return write(tmp_path / "histories.jsonl", [*each, *more])


def skip_without_kenlm() -> None:
    try:
        kenlm.program(), kenlm.package()
    except InputError as error:
        pytest.skip(str(error))


def measured(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["perhits", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_own_words_hit_and_those_of_others_do_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, histories: str
) -> None:
    own = write(tmp_path / "own.jsonl", [{"user": user, "text": said(user, 99)} for user in TOPICS])
    moved = dict(zip(TOPICS, ["bob", "cid", "ann"], strict=True))
    others = write(tmp_path / "others.jsonl", [{"user": user, "text": said(moved[user], 99)} for user in TOPICS])
    found = measured(capsys, "--responses", others, "--histories", histories, "--real", own, "-k", "1")
    assert {name: row["value"] for name, row in found["real"].items()} == {"per-hits@1/3": 1, "per-hits-avg/3": 1}
    assert found["metrics"]["per-hits@1/3"]["value"] == 0
    assert found["chance"] == {"per-hits@1/3": pytest.approx(1 / 3), "per-hits-avg/3": pytest.approx(1 / 3)}
    assert (found["n"], found["users"], found["scorer"], found["remarks"]) == (3, 3, "ngram-3", {})


def test_a_table_says_what_was_left_out(capsys: pytest.CaptureFixture[str], tmp_path: Path, histories: str) -> None:
    responses = [{"user": user, "text": said(user, 3)} for user in TOPICS]
    path = write(
        tmp_path / "responses.jsonl", [*responses, {"user": "ann", "text": ""}, {"user": "bob", "text": " \n"}]
    )
    assert main(["perhits", "--responses", path, "--histories", histories, "--users", "2", "-k", "2"]) == 0
    out = capsys.readouterr().out
    assert "4 responses, 2 users, scorer ngram-3" in " ".join(out.split())
    assert f"2 of {path} are empty: they are ranked by how likely each user says nothing" in out
    assert f"1 of {path} left out: their users are none of the 2 with the most messages" in out
    assert f"2 of {path} stand in their users' histories, word for word" in out


def test_users_with_the_same_history_share_their_ranks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    histories = write(tmp_path / "h.jsonl", [{"user": user, "text": "my boat is red"} for user in ("ann", "bob")])
    responses = write(tmp_path / "r.jsonl", [{"user": "ann", "text": "my red boat"}, {"user": "bob", "text": "?"}])
    found = measured(capsys, "--responses", responses, "--histories", histories, "-k", "2")
    assert {name: row["value"] for name, row in found["metrics"].items()} == {
        "per-hits@1/2": 0,
        "per-hits@2/2": 1,
        "per-hits-avg/2": 0.5,
    }


def test_kenlm_gives_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    skip_without_kenlm()
    each = [{"user": user, "text": said(user, seed)} for user in TOPICS for seed in range(20)]
    last = [{"user": user, "history": ["and", "so", "to bed"]} for user in TOPICS]  # a last word, with and without what
    histories = write(tmp_path / "h.jsonl", [*each, *last])  # is held out, that is said once
    texts = [(user, said(other, 99)) for user in TOPICS for other in TOPICS]
    odd = [("ann", ""), ("bob", "unheard of"), ("cid", "?"), ("ann", "wind wind <s> <unk>")]
    path = write(tmp_path / "r.jsonl", [{"user": user, "text": text} for user, text in [*texts, *odd]])
    ours, theirs = (
        measured(capsys, "--responses", path, "--histories", histories, "-k", "3", "--scorer", scorer)
        for scorer in ("ngram", "kenlm")
    )
    assert (ours.pop("scorer"), theirs.pop("scorer")) == ("ngram-3", "kenlm-3")
    assert ours == theirs


def test_a_language_model_with_an_adapter_of_each_user(
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    histories: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = write_backbone(tmp_path / "backbone", "llama")
    monkeypatch.setenv("PERSONAE_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(judging.USERS, "lm", 3)
    texts = [(user, said(user, 99)) for user in TOPICS] + [("ann", ""), ("bob", "unheard words only")]
    path = write(tmp_path / "r.jsonl", [{"user": user, "text": text} for user, text in texts])
    options = ["--responses", path, "--histories", histories, "-k", "2", "--scorer", "lm", "--backbone", backbone]
    found = measured(capsys, *options)
    assert (found["n"], found["users"], found["scorer"]) == (5, 3, "lm-llama")
    assert found["real"] is None
    assert found["ceiling"].startswith("none: to hold messages out, an adapter of each user")
    assert len(list((tmp_path / "home" / "adapters").iterdir())) == 3
    monkeypatch.setitem(judging.USERS, "lm", 2)
    assert caplog.text == ""
    assert measured(capsys, *options, "--users", "3") == found
    assert "3 users: training takes a processor" in caplog.text


def test_few_and_many_messages(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    many = [said("ann", seed) for seed in range(100_000)]
    rows = [{"user": "ann", "history": many}, {"user": "bob", "text": "my soup is hot"}]
    histories = write(tmp_path / "h.jsonl", [*rows, {"user": "cid", "text": ""}])
    asked = [{"user": "ann", "text": "i sail boat wind"}, {"user": "bob", "text": "hot soup"}]
    own = write(tmp_path / "r.jsonl", asked)
    found = measured(capsys, "--responses", own, "--histories", histories, "-k", "2")
    assert (found["users"], found["n"]) == (2, 2)
    assert found["metrics"]["per-hits@1/2"]["value"] == 1


@pytest.mark.parametrize("text", ["", "unheard words only", "...", "9"])
def test_a_response_of_no_known_word_goes_to_who_said_least(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    """Of a user of n words, each said once, an unknown one has .5 / (n + 2), and the end .5 / (n + 1) + .5 / (n + 2);
    half of these at the start, where one word is known to follow. So the ranks are 1, 2 and 3."""
    histories = {"ann": "boat", "bob": "soup pot", "cid": "dog lead walk"}
    known = write(tmp_path / "h.jsonl", [{"user": user, "text": said} for user, said in histories.items()])
    for rank, user in enumerate(histories, start=1):
        path = write(tmp_path / "r.jsonl", [{"user": user, "text": text}])
        found = measured(capsys, "--responses", path, "--histories", known)
        assert [found["metrics"][f"per-hits@{k}/3"]["value"] for k in (1, 2, 3)] == [k >= rank for k in (1, 2, 3)]


@pytest.mark.parametrize(("users", "most"), [(1, 1), (2, 2), (5, 5), (6, 5)])
def test_k_is_five_at_most_and_the_number_of_users(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, users: int, most: int
) -> None:
    each = [{"user": str(user), "text": f"my word is {user}"} for user in range(users)]
    histories, responses = write(tmp_path / "h.jsonl", each), write(tmp_path / "r.jsonl", [{"user": "0", "text": "hi"}])
    found = measured(capsys, "--responses", responses, "--histories", histories)
    assert list(found["metrics"]) == [*(f"per-hits@{k}/{users}" for k in range(1, most + 1)), f"per-hits-avg/{users}"]


@pytest.mark.parametrize("scorer", ["ngram", "kenlm"])
def test_without_real_responses_messages_are_held_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, histories: str, scorer: str
) -> None:
    """Two messages of each who has twenty and more; mum has empty ones, and eve's nine are not enough."""
    if scorer == "kenlm":
        skip_without_kenlm()
    with Path(histories).open("a", encoding="utf-8") as more:
        print(json.dumps({"user": "eve", "history": [f"my hat is {word}" for word in "abcdefghi"]}), file=more)
    own = write(tmp_path / "own.jsonl", [{"user": user, "text": said(user, 99)} for user in TOPICS])
    arguments = ["--responses", own, "--histories", histories, "--scorer", scorer]
    found = measured(capsys, *arguments)
    assert found["ceiling"].startswith(f"6 messages of 3 users, held out of {histories}; ")
    assert {row["n"] for row in found["real"].values()} == {6}
    assert found["real"]["per-hits@1/4"]["value"] == pytest.approx(5 / 6)  # ann's "my boat ." begins as eve begins
    given = measured(capsys, *arguments, "--real", own)
    assert given["metrics"] == given["real"] == found["metrics"]
    assert given["ceiling"] == f"the real responses of {own}"


def test_no_user_has_enough_messages_for_a_ceiling(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    each = [{"user": user, "text": said(user, seed)} for user in TOPICS for seed in range(9)]
    histories = write(tmp_path / "h.jsonl", each)
    responses = write(tmp_path / "r.jsonl", [{"user": "ann", "text": "a boat"}])
    found = measured(capsys, "--responses", responses, "--histories", histories)
    assert found["real"] is None
    assert found["ceiling"] == (
        f"none: no user of {histories} has ten messages, one of them said once, which could be held out; give real "
        "responses (--real)"
    )
    assert main(["perhits", "--responses", responses, "--histories", histories]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"ceiling: {found['ceiling']}" in out
    assert "ceiling [95 %]" not in out


def test_the_example_of_the_page(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    shown = r"^```sh\n((?:cat > \S+ <<'END'\n.*?^END\n)+)personae (perhits .*?)\n```\n+```text\n(.*?)^```$"
    ((files, command, output),) = re.findall(shown, page, re.DOTALL | re.MULTILINE)
    for name, text in re.findall(r"^cat > (\S+) <<'END'\n(.*?)^END$", files, re.DOTALL | re.MULTILINE):
        Path(name).write_text(text, encoding="utf-8")
    assert main(shlex.split(command)) == 0
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == output.splitlines()


@pytest.mark.parametrize(
    ("lines", "more", "message"),
    [
        ([{"user": "eve", "text": "hi"}], ["-k", "1"], "user 'eve' has a response, but no history in "),
        ([{"user": "mum", "text": "hi"}], ["-k", "1"], "user 'mum' has a response, but no history in "),
        (
            [{"user": "ann", "text": "hi"}],
            ["-k", "1", "--users", "0"],
            "--users: 0 is not at least 1",
        ),
        (
            [{"user": "ann", "text": "hi"}],
            ["-k", "4"],
            "-k: 4 is not between 1 and 3, the number of users; give another -k",
        ),
        ([{"user": "ann", "text": "hi"}], ["-k", "1", "--seed", "-1"], "--seed: -1 is not at least 0"),
        ([{"user": "ann"}], ["-k", "1"], "r.jsonl:1: field text: one message is wanted there"),
        ([{"user": "ann", "text": 3}], ["-k", "1"], "r.jsonl:1: field text: is a number: a text is wanted"),
        ([{"text": "hi"}], ["-k", "1"], "r.jsonl:1: field user: is missing: a text is wanted"),
        ([{"user": "ann", "text": "hi"}], ["-k", "1", "--backbone", "x"], "--backbone: the scorer ngram has none"),
        ([{"user": "cid", "text": "hi"}], ["--users", "2", "-k", "1"], "holds no response of a user who is measured"),
    ],
)
def test_mistakes(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    histories: str,
    lines: list[dict[str, Any]],
    more: list[str],
    message: str,
) -> None:
    responses = write(tmp_path / "r.jsonl", lines)
    assert main(["perhits", "--responses", responses, "--histories", histories, *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
