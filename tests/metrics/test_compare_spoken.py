import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats

from personae.metrics.compare import paired, t_test, wilcoxon
from personae.metrics.compare_spoken import compare_spoken
from personae.metrics.text import corpus, measure, per_reply
from personae.types import InputError, Spoken

CORPUS = ["bleu-4/corpus", "distinct-1/corpus", "distinct-2/corpus", "perplexity/word"]
HITS = [*(f"per-hits@{k}/20" for k in range(1, 6)), "per-hits-avg/20"]


def system(
    seed: int, *, right: float = 0.5, rare: float = 0.0, surprise: float = 0.0, hit: float = 0.0, users: int = 40
) -> list[Spoken]:
    """Three replies to each user: the words of the reference, each `right` or not, and of the wrong ones so many rare.
    References, and how hard they are, are the same for every seed."""
    real, generator = np.random.default_rng(99), np.random.default_rng(seed)
    found = []
    for user in range(users):
        level = real.normal(3, 0.3)
        for number in range(3):
            reference = (900 * real.random(8) ** 3).astype(int)
            wrong = (900 * generator.random(8) ** 3).astype(int) + 900 * (generator.random(8) < rare)
            text = np.where(generator.random(8) < right, reference, wrong)
            rank = 1.0 if generator.random() < hit else float(generator.integers(1, 21))
            found.append(
                Spoken(
                    id=f"{user}#{number}",
                    user=f"u{user}",
                    text=" ".join(f"w{word}" for word in text),
                    reference=" ".join(f"w{word}" for word in reference),
                    nll=9 * (level + surprise + generator.normal(0, 0.05)),
                    tokens=9,
                    rank=rank,
                    real=1.0,
                    users=20,
                )
            )
    return found


def test_every_metric_has_both_values_a_difference_and_a_test() -> None:
    a, b = system(0), system(1)
    found = compare_spoken(a, b, tokens="word", seed=3, resamples=300)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert {key: found[key] for key in found if key != "metrics"} == {
        "n": 120,
        "users": 40,
        "level": 0.95,
        "resamples": 300,
        "seed": 3,
    }
    alone_a, alone_b = (measure(each, tokens="word", seed=3, resamples=300) for each in (a, b))
    assert list(found["metrics"]) == [*CORPUS, "f1", "distinct-1/reply", "distinct-2/reply", "length", *HITS]
    users = [reply.user for reply in a]
    means_a, means_b = per_reply(a), per_reply(b)
    for name, row in found["metrics"].items():
        assert (row["a"], row["b"]) == (asdict(alone_a[name]), asdict(alone_b[name]))
        assert row["difference"]["value"] == pytest.approx(row["a"]["value"] - row["b"]["value"])
        if name in CORPUS:
            continue
        x, y = means_a[name], means_b[name]
        assert row["difference"] == asdict(paired(x, y, users, seed=3, resamples=300))
        kind, test = ("wilcoxon", wilcoxon) if name in HITS else ("t_test", t_test)
        assert {key: row[key] for key in row if key not in ("a", "b", "difference")} == {kind: {"p": test(x, y)}}


def test_numbers_of_the_corpus_are_compared_by_what_each_user_adds() -> None:
    a, b = system(0), system(1)
    found = compare_spoken(a, b, tokens="word", resamples=50)["metrics"]
    whole_a, whole_b = corpus(a, tokens="word"), corpus(b, tokens="word")
    for name in CORPUS:
        x, y = (np.array(list(whole[name].pseudo.values())) for whole in (whole_a, whole_b))
        row = found[name]
        assert row["difference"]["p"] is None  # nothing is drawn
        assert row["t_test"]["p"] == pytest.approx(stats.ttest_rel(x, y).pvalue)
        assert row["difference"]["low"] == pytest.approx((x - y).mean() - 1.959964 * stats.sem(x - y), abs=1e-6)
        assert row["difference"]["high"] == pytest.approx((x - y).mean() + 1.959964 * stats.sem(x - y), abs=1e-6)
        assert row["difference"]["n"] == 120


def test_a_better_system_is_found_better() -> None:
    good, bad = system(0, right=0.7, rare=0.6, hit=0.3), system(1, surprise=0.1)
    found = compare_spoken(good, bad, tokens="word", resamples=400)["metrics"]
    for name in ("bleu-4/corpus", "distinct-1/corpus", "f1", "per-hits@1/20", "per-hits-avg/20"):
        assert found[name]["difference"]["low"] > 0, name
    assert found["perplexity/word"]["difference"]["high"] < 0
    for name in ("bleu-4/corpus", "distinct-1/corpus", "perplexity/word", "f1"):
        assert found[name]["t_test"]["p"] < 0.001, name
    assert found["per-hits@1/20"]["wilcoxon"]["p"] < 0.001


def test_a_constant_difference_is_found_whole() -> None:
    """Perplexities whose logarithms differ by 0.1 everywhere, though users differ by more."""
    base = system(0)
    found = compare_spoken(
        [replace(reply, nll=reply.nll + 0.1 * reply.tokens) for reply in base], base, tokens="word", resamples=50
    )["metrics"]["perplexity/word"]
    assert found["a"]["value"] == pytest.approx(found["b"]["value"] * np.exp(0.1))
    difference = found["difference"]
    assert found["t_test"]["p"] < 1e-6
    assert (
        difference["high"] - difference["low"] < (found["a"]["high"] - found["a"]["low"]) / 5
    )  # pairing removes users


def test_equal_systems_rarely_differ() -> None:
    systems = [corpus(system(seed), tokens="word") for seed in range(300)]
    for name in CORPUS:
        users = [list(each[name].pseudo.values()) for each in systems]
        ps = np.array([t_test(a, b) for a, b in zip(users[::2], users[1::2], strict=True)], dtype=float)
        assert np.mean(ps < 0.05) <= 0.1, name
        assert 0.3 <= np.mean(ps < 0.5) <= 0.65, name


def test_replies_are_matched_by_id() -> None:
    a, b = system(0, users=5), system(1, users=5)
    assert compare_spoken(a, b[::-1], tokens="word", resamples=20) == compare_spoken(a, b, tokens="word", resamples=20)
    for name, row in compare_spoken(a, a[::-1], tokens="word", resamples=20)["metrics"].items():
        assert row["difference"]["value"] == 0, name
        assert row.get("t_test", row.get("wilcoxon"))["p"] == 1.0, name


def test_what_only_one_has_is_left_out() -> None:
    a, b = system(0, users=5), system(1, users=5)
    names = set(compare_spoken(a, b, tokens="word", resamples=20)["metrics"])
    unranked = [replace(reply, rank=None) for reply in b]
    found = compare_spoken(a, unranked, tokens="word", resamples=20)["metrics"]
    assert names - set(found) == set(HITS)
    other = [*b[:-1], replace(b[-1], tokens=8)]  # another tokenizer, so another unit
    found = compare_spoken(a, other, tokens="word", resamples=20)["metrics"]
    assert names - set(found) == {"perplexity/word"}


def test_a_single_user_has_no_interval() -> None:
    found = compare_spoken(system(0, users=1), system(1, users=1), tokens="word")["metrics"]
    for row in found.values():
        assert (row["difference"]["low"], row["difference"]["high"], row["difference"]["p"]) == (None, None, None)
    assert found["bleu-4/corpus"]["t_test"]["p"] is None


def test_mistakes_are_named() -> None:
    replies = system(0, users=3)
    with pytest.raises(InputError, match=r"2 are missing from the second \(first: 0#1\)"):
        compare_spoken(replies, [replies[0], *replies[3:]], tokens="word")
    with pytest.raises(InputError, match="first results repeat 1 example ids"):
        compare_spoken([*replies, replies[0]], replies, tokens="word")
    for changed in (replace(replies[4], reference="other"), replace(replies[4], user="other")):
        with pytest.raises(InputError, match=r"1 examples differ in their user or reference \(first: 1#1\)"):
            compare_spoken(replies, [*replies[:4], changed, *replies[5:]], tokens="word")
    with pytest.raises(InputError, match="no reply"):
        compare_spoken([], [], tokens="word")
