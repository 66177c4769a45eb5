import json
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from personae.metrics.compare import (
    Interval,
    McNemar,
    compare,
    interval,
    mcnemar,
    paired,
    pearson,
    ratio,
    t_test,
    wilcoxon,
)
from personae.metrics.ranking import metrics
from personae.types import InputError, Row


def named(sizes: Sequence[int]) -> list[str]:
    """Group names, as many of each as its size."""
    return [f"d{group}" for group, size in enumerate(sizes) for _ in range(size)]


def clustered(generator: np.random.Generator, dialogues: int = 80) -> tuple[np.ndarray, list[str]]:
    """Values of mean 0 in dialogues of 4 to 12 replies; half the variance lies between dialogues."""
    sizes = generator.integers(4, 13, dialogues)
    between = np.repeat(generator.normal(size=dialogues), sizes)
    return between + generator.normal(size=len(between)), named(sizes.tolist())


def random_rows(seed: int, number: int = 200, candidates: int = 20, lift: float = 0.0) -> list[Row]:
    """Random scores in dialogues of eight; every target's score is raised by `lift`."""
    scores = np.random.default_rng(seed).random((number, candidates))
    targets = np.random.default_rng(99).integers(candidates, size=number)  # the same ones for every seed
    scores[np.arange(number), targets] += lift
    return [
        Row(id=f"d{i // 8}#{i % 8}", dialogue=f"d{i // 8}", scores=tuple(scores[i].tolist()), target=int(targets[i]))
        for i in range(number)
    ]


def test_interval_by_hand() -> None:
    """Two groups: a draw has both (mean 1/4) with probability 1/2, only the first (0) or only the second (1/2)."""
    found = interval([0, 0, 0, 1], ["a", "a", "b", "b"], resamples=500)
    assert found == Interval(value=0.25, low=0.0, high=0.5, n=4)
    assert interval([0, 0, 0, 1], ["a", "a", "b", "b"], level=0.4) == Interval(value=0.25, low=0.25, high=0.25, n=4)


def test_larger_groups_weigh_more() -> None:
    values, groups = [1.0] * 9 + [0.0], ["long"] * 9 + ["short"]
    found = interval(values, groups)
    assert found.value == pytest.approx(0.9)
    assert (found.low, found.high) == (0.0, 1.0)  # draws of one group alone
    assert interval(values, groups, level=0.4).low == pytest.approx(0.9)


def test_interval_agrees_with_scipy_where_every_group_is_one_example() -> None:
    values = np.random.default_rng(0).random(200)
    ours = interval(values.tolist(), named([1] * 200), resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.002)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    simulations = 500
    covered = {"dialogues": 0, "examples": 0, "half": 0}
    for _ in range(simulations):
        values, groups = clustered(generator)
        for what, by, level in (
            ("dialogues", groups, 0.95),
            ("examples", named([1] * len(values)), 0.95),
            ("half", groups, 0.5),
        ):
            found = interval(values.tolist(), by, resamples=300, level=level)
            assert found.low is not None
            assert found.high is not None
            covered[what] += found.low <= 0 <= found.high
    assert 0.92 <= covered["dialogues"] / simulations <= 0.97
    assert 0.43 <= covered["half"] / simulations <= 0.57
    assert covered["examples"] / simulations < 0.75  # why dialogues are drawn, not examples


def test_difference_under_no_effect_is_rarely_significant_and_a_real_one_is_found() -> None:
    generator = np.random.default_rng(1)
    null, effect = [], []
    for _ in range(300):
        noise, groups = clustered(generator)
        base = generator.normal(size=len(noise))
        null.append(paired((base + noise).tolist(), base.tolist(), groups, resamples=300))
        effect.append(paired((base + noise + 1).tolist(), base.tolist(), groups, resamples=300))
    assert 0.02 <= np.mean([found.p is not None and found.p < 0.05 for found in null]) <= 0.09
    assert 0.4 <= np.mean([found.p is not None and found.p < 0.5 for found in null]) <= 0.6
    assert np.mean([found.p is not None and found.p < 0.05 for found in effect]) > 0.95
    for found in null + effect:
        assert found.p is not None
        assert found.low is not None
        assert found.high is not None
        assert found.low < found.value < found.high
        if abs(found.p - 0.05) > 0.02:  # p and interval are two readings of the same draws
            assert (found.p < 0.05) == (not found.low <= 0 <= found.high)


def test_pairing_removes_what_both_models_share() -> None:
    generator = np.random.default_rng(2)
    difficulty, groups = clustered(generator)
    a = difficulty + 0.1 + 0.01 * generator.normal(size=len(groups))
    found = paired(a.tolist(), difficulty.tolist(), groups)
    alone = interval(a.tolist(), groups)
    assert found.value == pytest.approx(0.1, abs=0.01)
    assert found.low is not None
    assert found.high is not None
    assert alone.low is not None
    assert alone.high is not None
    assert found.high - found.low < (alone.high - alone.low) / 20
    assert found.p == pytest.approx(2 / 2001)


def test_swapping_the_models_turns_the_difference_round() -> None:
    a, groups = clustered(np.random.default_rng(3))
    b = np.random.default_rng(4).normal(size=len(a))
    forth, back = paired(a.tolist(), b.tolist(), groups), paired(b.tolist(), a.tolist(), groups)
    assert forth.value == pytest.approx(-back.value)
    assert forth.p == back.p
    assert forth.low is not None
    assert forth.low == pytest.approx(-(back.high or 0))


def test_the_seed_decides_the_draws() -> None:
    values, groups = clustered(np.random.default_rng(0))
    assert interval(values.tolist(), groups, seed=1) == interval(values.tolist(), groups, seed=1)
    assert interval(values.tolist(), groups, seed=1) != interval(values.tolist(), groups, seed=2)


def test_draws_in_several_parts_are_as_good_as_in_one() -> None:
    values = np.random.default_rng(0).normal(size=5000)
    groups = named([1] * 5000)
    found = interval(values.tolist(), groups, resamples=500)  # 200 draws of 5,000 groups at a time
    assert found != interval(values.tolist(), groups, resamples=600)  # the last part is not filled up
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 5000**0.5, rel=0.1)


def test_one_group_has_a_mean_but_no_interval() -> None:
    assert interval([0, 1], ["d", "d"]) == Interval(value=0.5, low=None, high=None, n=2)
    found = paired([1, 1], [0, 1], ["d", "d"])
    assert (found.value, found.low, found.high, found.p) == (0.5, None, None, None)


def test_mcnemar_by_hand() -> None:
    # five examples that only a got right, one that only b did: 2 (1 + 6) / 2^6
    found = mcnemar([1] * 5 + [0] + [1, 0], [0] * 5 + [1] + [1, 0])
    assert (found.only_a, found.only_b) == (5, 1)
    assert found.p == pytest.approx(14 / 64)
    assert mcnemar([0, 1, 1], [0, 1, 1]) == McNemar(only_a=0, only_b=0, p=1.0)
    assert mcnemar([0, 1], [1, 0]).p == 1.0


@pytest.mark.parametrize("number", [10, 100, 7801])
def test_mcnemar_agrees_with_statsmodels_and_scipy(number: int) -> None:
    generator = np.random.default_rng(number)
    a, b = (generator.random(number) < 0.6).astype(int), (generator.random(number) < 0.58).astype(int)
    table = [[int(((a == i) & (b == j)).sum()) for j in (1, 0)] for i in (1, 0)]
    found = mcnemar(a.tolist(), b.tolist())
    assert (found.only_a, found.only_b) == (table[0][1], table[1][0])
    assert found.p == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue)
    assert found.p == pytest.approx(stats.binomtest(found.only_a, found.only_a + found.only_b).pvalue)


@pytest.mark.parametrize("number", [2, 10, 7801])
def test_t_test_agrees_with_scipy(number: int) -> None:
    generator = np.random.default_rng(number)
    a, b = generator.random(number), generator.random(number)
    assert t_test(a.tolist(), b.tolist()) == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_t_test_of_a_constant_difference() -> None:
    assert t_test([0.1] * 7, [0.1] * 7) == 1.0
    assert t_test([0.3] * 7, [0.2] * 7) == 0.0
    assert t_test([0.3], [0.2]) is None


@pytest.mark.parametrize("number", [60, 2000])
def test_wilcoxon_agrees_with_scipy(number: int) -> None:
    generator = np.random.default_rng(number)
    for a, b in (
        (generator.random(number), generator.random(number) ** 1.2),
        (generator.integers(0, 2, 3 * number), (generator.random(3 * number) < 0.4).astype(int)),
    ):
        theirs = stats.wilcoxon(a, b, zero_method="wilcox", method="asymptotic").pvalue
        assert wilcoxon(a.tolist(), b.tolist()) == pytest.approx(theirs)


def test_wilcoxon_of_few_differences_is_exact() -> None:
    """Of hits it is then the sign test, however many examples have no difference."""
    a, b = [1.0] * 8 + [0.0] + [1.0] * 500, [0.0] * 8 + [1.0] + [1.0] * 500
    assert wilcoxon(a, b) == pytest.approx(stats.binomtest(1, 9).pvalue)
    assert wilcoxon(a, b) == pytest.approx(mcnemar(a, b).p)


def test_wilcoxon_sees_that_differences_of_rates_are_equal() -> None:
    a, b = [0.6, 0.4, 1.0, 0.2, 0.2], [0.4, 0.2, 0.8, 0.0, 0.4]  # as floats, 0.6 - 0.4 is less than 0.4 - 0.2
    assert wilcoxon(a, b) == pytest.approx(stats.binomtest(1, 5).pvalue)


def test_wilcoxon_without_a_difference() -> None:
    assert wilcoxon([1, 0, 1], [1, 0, 1]) == 1.0
    assert wilcoxon([0.1 + 0.2, 0.5], [0.3, 0.5]) == 1.0
    assert wilcoxon([1], [0]) is None


def hits(systems: int, groups: Sequence[str], seed: int) -> tuple[list[list[float]], list[list[float]]]:
    """Of several systems by two scorers, who agree in part; replies of one group are hits together."""
    generator = np.random.default_rng(seed)
    names, group = np.unique(groups, return_inverse=True)
    level = np.linspace(-1, 0, systems)[:, None] + 0.5 * generator.normal(size=(2, 1, len(names)))[:, :, group]
    level += 0.4 * np.random.default_rng(0).normal(size=(2, systems, 1))  # what each scorer makes of a system
    shared, own = generator.normal(size=(1, systems, len(groups))), generator.normal(size=(2, systems, len(groups)))
    x, y = (level + shared + own > 0).astype(float)
    return x.tolist(), y.tolist()


def test_pearson_is_of_means_and_its_interval_leaves_out_a_group_at_a_time() -> None:
    groups = named([3, 1, 5, 4, 2, 6, 3])
    x, y = hits(5, groups, seed=0)
    found = pearson(x, y, groups)
    assert (found.value, found.n) == (pytest.approx(stats.pearsonr(np.mean(x, 1), np.mean(y, 1)).statistic), 5)
    left = [np.array(groups) != group for group in sorted(set(groups))]
    without = np.array(
        [stats.pearsonr(np.array(x)[:, some].mean(1), np.array(y)[:, some].mean(1)).statistic for some in left]
    )
    error = np.sqrt(6 / 7 * ((without - without.mean()) ** 2).sum())
    assert found.low == pytest.approx(found.value - 1.959964 * error)
    assert found.high == pytest.approx(min(1, found.value + 1.959964 * error))
    half = pearson(x, y, groups, level=0.5)
    assert half.low == pytest.approx(found.value - 0.6744898 * error)


def test_pearson_holds_what_other_groups_have_as_often_as_it_says() -> None:
    groups = named([5] * 50)
    found = [pearson(*hits(12, groups, seed), groups) for seed in range(1, 301)]
    expected = np.mean([each.value for each in found])
    held = [each.low <= expected <= each.high for each in found if each.low is not None and each.high is not None]
    assert len(held) == 300
    assert 0.91 <= np.mean(held) <= 0.98


def test_pearson_of_measures_that_tell_the_same_twice_is_no_surer() -> None:
    """As a system's Per-Hits@k for several k do, and Fisher's interval is."""
    groups = named([4] * 30)
    x, y = hits(6, groups, seed=1)
    once, often = pearson(x, y, groups), pearson(8 * x, 8 * y, groups)
    assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high))
    assert (once.n, often.n) == (6, 48)


def test_pearson_of_few_measures() -> None:
    two = named([1, 1])
    found = pearson([[1, 1], [2, 2], [3, 3]], [[-2, -2], [-4, -4], [-6, -6]], two)
    assert (found.value, found.low, found.high) == pytest.approx((-1, -1, -1))
    for groups, x in ((["d0", "d0"], [[1, 1], [2, 2], [3, 3]]), (two, [[1, 0], [1, 3], [1, 5]])):
        found = pearson(x, x, groups)  # of one group, or without the second all are alike
        assert (found.value, found.low, found.high) == (pytest.approx(1), None, None)
    assert pearson([[1], [2], [3]], [[2], [1], [4]], ["d0"]).value == pytest.approx(6 / (2 * 42) ** 0.5)
    with pytest.raises(InputError, match=r"the second measure is 0\.5 everywhere"):
        pearson([[1, 1], [2, 2]], [[0.5, 0.5], [0, 1]], two)
    with pytest.raises(InputError, match="the first measure is 1 everywhere"):
        pearson([[1]], [[2]], ["d0"])
    with pytest.raises(InputError, match="2 values cannot be paired with 1"):
        pearson([[1], [2]], [[2]], ["d0"])
    with pytest.raises(InputError, match="value 1, counted from 0, is nan"):
        pearson([[1.0, float("nan")], [1, 1]], [[2, 3], [3, 3]], two)
    with pytest.raises(InputError, match="2 values have 1 groups"):
        pearson([[1, 2], [2, 2]], [[2, 3], [1, 1]], ["d0"])
    with pytest.raises(InputError, match="level is 95"):
        pearson([[1, 2], [2, 2]], [[2, 3], [1, 1]], two, level=95)


def test_compare() -> None:
    better, worse = random_rows(1, lift=0.3), random_rows(2)
    found = compare(better, worse, seed=3, resamples=400)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert {key: found[key] for key in ("n", "dialogues", "level", "resamples", "seed")} == {
        "n": 200,
        "dialogues": 25,
        "level": 0.95,
        "resamples": 400,
        "seed": 3,
    }
    assert list(found["metrics"]) == ["hits@1/20", "hits@5/20", "mrr/20"]
    for name, measured in found["metrics"].items():
        a, b = metrics(better)[name], metrics(worse)[name]
        dialogues = [row.dialogue for row in better]
        alone = interval(a, dialogues, seed=3, resamples=400)
        assert measured["a"] == {"value": alone.value, "low": alone.low, "high": alone.high, "n": 200}
        assert measured["difference"]["value"] == pytest.approx(measured["a"]["value"] - measured["b"]["value"])
        assert measured["difference"]["low"] > 0
        assert measured["difference"]["p"] < 0.05
        test = measured["t_test"] if name == "mrr/20" else measured["mcnemar"]
        assert test["p"] == (t_test(a, b) if name == "mrr/20" else mcnemar(a, b).p)


def test_compare_matches_examples_by_id() -> None:
    a, b = random_rows(1), random_rows(2)
    assert compare(a, b[::-1], resamples=50) == compare(a, b, resamples=50)
    same = compare(a, a[::-1], resamples=50)["metrics"]["mrr/20"]
    assert same["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "n": 200}


def test_compare_refuses_what_cannot_be_compared() -> None:
    rows = random_rows(1, number=16)
    with pytest.raises(InputError, match=r"3 are missing from the second \(first: d0#1\)"):
        compare(rows, [rows[0], *rows[4:]])
    with pytest.raises(InputError, match=r"1 are missing from the second .*d0#0.*2 .* first .*first: d9#0"):
        compare(rows, [*rows[1:], replace(rows[0], id="d9#0"), replace(rows[0], id="d9#1")])
    with pytest.raises(InputError, match=r"2 examples differ .*first: d0#1: target \d+ of 20 against target \d+ of 19"):
        compare(rows, [rows[0], *(replace(row, scores=row.scores[:19]) for row in rows[1:3]), *rows[3:]])
    with pytest.raises(InputError, match=r"1 examples differ in their target"):
        compare(rows, [*rows[:-1], replace(rows[-1], target=(rows[-1].target + 1) % 20)])
    with pytest.raises(InputError, match="first results repeat 1 example ids"):
        compare([*rows, rows[0]], rows)
    with pytest.raises(InputError, match="second results repeat 16 example ids"):
        compare(rows, rows + rows)
    with pytest.raises(InputError, match="no scored example"):
        compare([], [])


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="2 values have 1 groups"):
        interval([1, 0], ["d"])
    with pytest.raises(InputError, match="no value"):
        interval([], [])
    with pytest.raises(InputError, match="value 1, counted from 0, is nan"):
        interval([1, float("nan")], ["d", "e"])
    with pytest.raises(InputError, match="level is 95"):
        interval([1, 0], ["d", "e"], level=95)
    with pytest.raises(InputError, match="resamples is 0"):
        interval([1, 0], ["d", "e"], resamples=0)
    with pytest.raises(InputError, match="2 values cannot be paired with 1"):
        paired([1, 0], [1], ["d", "e"])
    with pytest.raises(InputError, match="0 and 1"):
        mcnemar([1, 0.5], [1, 0])


def test_a_whole_validation_set_takes_less_than_a_second() -> None:
    values = np.random.default_rng(0).random(7801)
    groups = [f"d{i % 1000}" for i in range(7801)]
    begin = time.process_time()
    found = interval(values.tolist(), groups)
    assert time.process_time() - begin < 1
    assert found.low is not None
    assert found.low < found.value


def test_a_ratio_is_of_the_means_and_its_interval_of_the_same_draws_of_users() -> None:
    generator = np.random.default_rng(0)
    groups = [f"u{user}" for user in range(80) for _ in range(3)]
    below = generator.random(240)
    found = ratio((3 * below).tolist(), below.tolist(), groups)
    assert found is not None
    assert (found.value, found.low, found.high, found.n) == pytest.approx((3.0, 3.0, 3.0, 240))  # in every draw
    above = (generator.random(240) < 0.4).astype(float)
    hits = (generator.random(240) < 0.1).astype(float)
    wide = ratio(above.tolist(), hits.tolist(), groups)
    assert wide is not None
    assert wide.value == pytest.approx(above.mean() / hits.mean())
    assert None not in (wide.low, wide.high)
    assert (wide.low or 0) < wide.value < (wide.high or 0)
    assert ratio(above.tolist(), hits.tolist(), ["u"] * 240) == Interval(wide.value, None, None, 240)


def test_a_ratio_to_nothing_has_no_end() -> None:
    groups = [f"u{user}" for user in range(12)]
    above = [1.0, 0.0, 1.0] * 4
    assert ratio(above, [0.0] * 12, groups) is None
    rare = ratio(above, [1.0] + [0.0] * 11, groups)  # a third of the draws have none
    assert rare is not None
    assert rare.value == pytest.approx(8)
    assert rare.high is None
    with pytest.raises(InputError, match="2 values cannot be paired with 1"):
        ratio([1.0, 2.0], [1.0], ["a", "b"])
