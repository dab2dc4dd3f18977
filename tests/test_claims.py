"""Claims: paired repeats, an interval, a verdict that follows from it; killed and resumed, the same numbers."""

import re
import statistics
from collections import Counter

import numpy as np
import pytest

from distill_lib import experiments, figures, records
from distill_lib.core.errors import UserError
from distill_lib.core.settings import replace
from distill_lib.evaluation import effects
from distill_lib.experiments import claims, engine, fill, registry
from distill_lib.experiments.claims import Arm, Claim, Scale, against, more_than
from distill_lib.experiments.papers import claims_dgs, claims_skd, claims_slfd, claims_uvit
from distill_lib.methods import random_real
from distill_lib.records import Record, reported
from distill_lib.tables import claims as tables

SCALE = Scale("digits", "vico_noaug@2ep", num_eval=2, network="MLP", stand_in="digits")
PAPERS = {"skd": claims_skd, "slfd": claims_slfd, "dgs": claims_dgs, "uvit": claims_uvit}
EVERY = [pytest.param(p, c, id=f"{p} {c.name}") for p, module in PAPERS.items() for c in module.CLAIMS]


def arm(ipc, name=""):
    return Arm("Random", random_real.Config(ipc=ipc), name)


def claim(name="more images", ours=2, theirs=1, n=4, **changes):
    given = {
        "name": name,
        "sentence": "More images are better.",
        "source": "nowhere",
        "printed": "nothing",
        "scale": SCALE,
        "arms": against(arm(ours), arm(theirs)),
        "n": n,
    }
    return Claim(**given | changes)


# --- the numbers ------------------------------------------------------------------------------------------------------
def test_the_interval_and_p_value_are_those_of_a_paired_t_test():
    scipy_stats = pytest.importorskip("scipy.stats")
    differences = [0.8, 1.1, 0.4, 0.9, -0.2]
    effect = effects.paired(differences, delta=0.5)
    test = scipy_stats.ttest_1samp(differences, 0.0)
    low, high = test.confidence_interval(0.95)
    assert (effect.mean, effect.low, effect.high) == pytest.approx((0.6, low, high))
    assert effect.p_value == pytest.approx(test.pvalue)


def test_holm_s_correction_by_hand():
    # sorted 0.005, 0.01, 0.03, 0.04; times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, and the last is raised to 0.06
    assert effects.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert effects.holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("differences", "adjusted", "word"),
    [
        ([0.8, 1.0, 1.2], 0.01, "holds"),
        ([-0.8, -1.0, -1.2], 0.01, "reversed"),
        ([0.8, 1.0, 1.2], 0.2, "undecided"),  # the interval is above zero, but not after the correction
        ([0.1, 0.2, 0.3], 0.2, "no effect larger than δ"),
        ([-0.1, 0.0, 0.1], 1.0, "no effect larger than δ"),
        ([-3.0, 0.0, 3.0], 1.0, "undecided"),
        ([1.0], 1.0, "undecided"),
        ([], 1.0, "not run"),
    ],
)
def test_the_verdict_follows_from_the_interval(differences, adjusted, word):
    assert effects.verdict(effects.paired(differences, delta=0.5), adjusted) == word


@pytest.mark.parametrize(("centre", "spread"), [(1.0, 1.0), (0.2, 0.6), (0.0, 2.0)])
def test_the_repeats_that_would_decide_are_the_fewest(centre, spread):
    n = effects.needed(centre, spread, delta=0.5)

    def decides(count):
        half = effects.half_width(spread, count)
        return abs(centre) > half or abs(centre) + half < 0.5

    assert decides(n) and (n == 2 or not decides(n - 1))


@pytest.mark.parametrize(
    ("differences", "says"),
    [
        ([3.0, 3.1, 3.2], "holds"),
        ([0.4, 0.6, 0.8], "holds, perhaps by less than δ"),
        ([-0.1, -0.11, -0.12], "reversed, by less than δ"),
        ([-1.0, 1.0, 0.5], "undecided"),  # three repeats do not tell how many would decide
        ([-1.0, 1.0, 0.5, 0.0, 0.3], r"undecided \(about 21 repeats in all would decide\)"),
        ([0.0, 900.0, -900.0, 500.0, -510.0], "undecided .more than 10000 repeats would decide."),
    ],
)
def test_a_verdict_says_of_an_effect_whether_it_matters_and_of_none_how_many_repeats_would_do(differences, says):
    effect = effects.paired(differences, delta=0.5)
    word = effects.verdict(effect, 0.001)
    found = claims.Finding(claim(n=3), effect, 0.001, word, provisional=False)
    assert re.fullmatch(says, found.verdict)


def test_what_holm_s_correction_leaves_open_says_how_many_repeats_would_bring_it_inside_the_margin():
    effect = effects.paired([0.1, 0.3, 0.5, 0.2, 0.2, 0.8, 0.5], delta=0.5)
    found = claims.Finding(claim(n=7), effect, 0.2, effects.verdict(effect, 0.2), provisional=False)
    n = effect.needed_inside
    assert f"; about {n} repeats in all would put it inside ±δ)" in found.verdict
    assert effect.mean + effects.half_width(effect.std, n) < 0.5 <= effect.mean + effects.half_width(effect.std, n - 1)
    assert effects.paired([0.7, 0.9, 0.8], delta=0.5).needed_inside is None


def test_seconds_are_the_processors_where_a_set_was_distilled_on_one():
    metrics = {"distill_seconds": [9.0, 8.0], "distill_cpu_seconds": [4.0, 2.0]}
    record = Record(next(iter(claim("seconds").cells("toy/claims"))), [50.0, 50.0], [0, 1], {}, metrics)
    assert claims.QUANTITIES["doublings of seconds"](record) == {0: 2.0, 1: 1.0}
    record.metrics.pop("distill_cpu_seconds")
    assert claims.QUANTITIES["seconds"](record) == {0: 9.0, 1: 8.0}


def key_of(of, cell):
    return of.task(cell, of.parameters(profile="small")).key


def measured(paper, pilot):
    """The median deviation between paired sets, in points, of a paper's claims with at least ten repeats, or a pilot's
    where there is none; the repeats and the margin that they plan."""
    found = [f for f in claims.findings(experiments.experiment(f"{paper}/claims"), "small") if f.claim.unit == "points"]
    planned = Counter((f.claim.n, f.claim.delta) for f in found).most_common(1)[0][0]
    some = [f.effect.std for f in found if f.effect.n >= 10 and (f.claim.n, f.claim.delta) == planned]
    return statistics.median(some or [pilot]), *planned


@pytest.mark.parametrize(("paper", "pilot"), [("slfd", 0.6), ("dgs", 1.5)])
def test_known_effects_get_the_right_verdict_through_the_whole_chain(paper, pilot, monkeypatch):
    """Records with effects of 0, +1 and -1 points between sets that spread as measured, 500 draws."""
    spread, n, delta = measured(paper, pilot)
    want = {0: "no effect larger than δ", 1: "holds", -1: "reversed"}
    three = [claim(f"effect {e:+d}", ours=10 + e, theirs=20 + e, n=n, delta=delta) for e in want]
    of = claims.experiment_of("toy/claims", "Toy", three)
    rng, right, draws = np.random.default_rng(0), dict.fromkeys(want, 0), 500

    keys = {cell: key_of(of, cell) for c in three for cell in c.cells(of.name)}

    def record(cell, sets):
        values = np.clip(sets[:, None] + rng.normal(0, 0.4, (n, 2)), 0, 100)  # two networks a set
        metrics = {"train_loss": [0.01] * (2 * n)}
        return Record(cell, values.flatten().tolist(), np.repeat(np.arange(n), 2).tolist(), keys[cell], metrics)

    per_set = np.sqrt(max(spread**2 - 0.4**2, 0.01) / 2)  # of an arm: two arms and their networks make the spread
    for _ in range(draws):
        found = {}
        for effect, c in zip(want, three, strict=True):
            shared = 60 + rng.normal(0, 1.0, n)  # of the seed, which both arms have
            for cell, weight in c.cells(of.name).items():
                found[cell] = record(cell, shared + rng.normal(0, per_set, n) + effect * (weight > 0))
        monkeypatch.setattr(records, "load", lambda cell, profile, found=found: found.get(cell))
        for f, effect in zip(claims.findings(of, "small"), want, strict=True):
            assert not f.provisional and f.effect.n == n
            right[effect] += f.word == want[effect]
    assert all(count >= 0.93 * draws for count in right.values()), right


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({}, ""),
        ({"train_loss": [2.3, 2.3]}, "networks are not trained: MLP at a training loss of 2.30"),
        ({"stage 1": [[{"class_accuracy_pct": 11.2}]]}, "the generator is not trained: .* recognises 11.2 %"),
        (  # a mean over architectures keeps no accuracy by class
            {"stage 1": [[{"class_accuracy_pct": 11.2}]], "per_class_accuracy_pct": None},
            "the generator is not trained: .* recognises 11.2 %",
        ),
        ({"stage 1": [[{"class_accuracy_pct": 80.0}]]}, ""),
    ],
)
def test_without_trained_networks_and_generators_there_is_no_verdict(metrics, says, monkeypatch):
    c = claim(n=3)
    of = claims.experiment_of("toy/claims", "Toy", [c])
    values = {2: [70.0, 70.1, 70.2], 1: [60.0, 60.2, 60.1]}
    kept = {"train_loss": [0.01] * 3, "per_class_accuracy_pct": [[60.0] * 10] * 3} | metrics

    def load(cell, profile):
        metrics = {k: v for k, v in kept.items() if v is not None}
        return Record(cell, values[cell.ipc], [0, 1, 2], key_of(of, cell), metrics)

    monkeypatch.setattr(records, "load", load)
    (found,) = claims.findings(of, "small")
    assert re.match(says, found.why) if says else found.why == ""
    assert found.word == ("undecided" if says else "holds")


@pytest.mark.parametrize(
    ("key", "metrics", "says"),
    [
        ({}, {}, ""),
        ({"seed": 7, "code": {"Random": 99}}, {}, "a record of other settings .*code.Random: 99 -> .*seed: 7"),
        ({"data_sha256": {"train": "0"}}, {}, "the arms were made from different pixels or labels"),
        ({}, {"FID-Inception-200": [9.0] * 3}, "measured differently: FID-ConvNetW32-200 and FID-Inception-200"),
    ],
)
def test_arms_that_do_not_share_all_but_the_idea_are_not_compared(key, metrics, says, monkeypatch):
    of = claims.experiment_of("toy/claims", "Toy", [claim("FID", n=3, quantity="FID")])

    def load(cell, profile):
        theirs = {"FID-ConvNetW32-200": [float(cell.ipc)] * 3}
        changed = {**key_of(of, cell), **key} if cell.ipc == 1 else key_of(of, cell)
        return Record(cell, [50.0] * 3, [0, 1, 2], changed, metrics if metrics and cell.ipc == 1 else theirs)

    monkeypatch.setattr(records, "load", load)
    (found,) = claims.findings(of, "small")
    assert re.match(f".*{says}", found.why) if says else not found.why
    assert found.effect.n == (0 if says else 3) and (not says or found.word == "not run")
    assert says or tables.arms([found])["IPC"].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("ours", "device", "says"),
    [
        ([2.0, 3.0, 3.9], "here", ""),
        ([2.0, 5.0, 3.0], "here", "took longer than .* in 1 of 3 sets"),
        ([2.0, 3.0, 3.9], "elsewhere", "timed on different machines: elsewhere and here"),
        (None, "here", "seconds of the arms' sets are not known"),
    ],
)
def test_a_set_that_takes_longer_than_it_may_is_not_compared(ours, device, says, monkeypatch):
    of = claims.experiment_of("toy/claims", "Toy", [claim("quick", n=3, in_no_more_seconds=True)])

    def load(cell, profile):
        values, where = (ours, device) if cell.ipc == 2 else ([4.0] * 3, "here")
        seconds = {"distill_cpu_seconds": values} if values else {}
        return Record(cell, [50.0 + cell.ipc] * 3, [0, 1, 2], key_of(of, cell), seconds, made_by={"device": where})

    monkeypatch.setattr(records, "load", load)
    (found,) = claims.findings(of, "small")
    assert re.search(says, found.why) if says else not found.why
    assert found.effect.n == (0 if says else 3)


# --- definitions ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "a, b"}, "a name without commas"),
        ({"source": ""}, "needs a sentence, its source"),
        ({"arms": against(arm(1), arm(1))}, "at least two arms, all different"),
        ({"arms": ((arm(1), 1.0), (arm(2), -0.5))}, r"got \[1.0, -0.5\]"),
        ({"arms": ((arm(1), 1.0), (arm(2), 1.0))}, "below to -1"),
        ({"arms": against(Arm("DMM", random_real.Config()), arm(1))}, "unknown method 'DMM'"),
        ({"n": 2}, "at least 3"),
        ({"delta": 0.0}, "delta 0.0: above zero"),
        ({"quantity": "beauty"}, "unknown quantity 'beauty'"),
        ({"quantity": "spread over networks", "scale": replace(SCALE, num_eval=1)}, "at least two on each set"),
        ({"quantity": "spread over architectures"}, "at least two of them"),
    ],
)
def test_a_definition_that_makes_no_comparison_is_refused(changes, says):
    with pytest.raises(UserError, match=says):
        claim(**changes)


def test_two_claims_of_one_name_or_two_arms_of_one_cell_are_refused():
    with pytest.raises(UserError, match="one name twice: more images"):
        claims.experiment_of("toy/claims", "Toy", [claim(), claim()])
    other = replace(SCALE, num_eval=3)
    with pytest.raises(UserError, match="name them apart"):
        claims.experiment_of("toy/claims", "Toy", [claim("a"), claim("b", scale=other)])


def test_a_difference_of_differences_by_hand(monkeypatch):
    four = [arm(i) for i in (1, 2, 3, 4)]
    c = claim(arms=more_than((four[3], four[0]), (four[2], four[1])), n=3)
    values = {1: [10.0, 11.0], 2: [20.0, 20.0], 3: [25.0, 26.0], 4: [30.0, 32.0]}
    found = {cell: Record(cell, values[cell.ipc], [0, 1], {}) for cell in c.cells("toy/claims")}
    assert claims.paired_differences(c, found, "toy/claims") == [(30 - 10) - (25 - 20), (32 - 11) - (26 - 20)]


def test_repeats_are_paired_by_their_number_and_networks_are_averaged_within_a_set():
    c = claim(n=3)
    ours, theirs = c.cells("toy/claims")
    found = {
        ours: Record(ours, [70.0, 72.0, 60.0, 62.0], [0, 0, 2, 2], {}),
        theirs: Record(theirs, [50.0, 52.0, 40.0, 40.0], [2, 2, 1, 1], {}),
    }
    assert claims.paired_differences(c, found, "toy/claims") == [61.0 - 51.0]  # set 2 alone is in both


NO_NUMBER = r"no number|no such|not measured|lost in the source|no other number|a drawing|about 9 hours in total"


def printed_pairs(paper, of):
    """What the paper prints of a claim's two arms, or of what stands nearest to them: pairs of cells as text."""

    def pair(table, methods, *axes):
        return tuple(reported.lookup(f"{paper}/{table}", method, *axes)["text"] for method in methods)

    def variants(table, ipc, *names):
        cell = (f"{paper}/{table}", "DGS", "ImageWoof", ipc, "ResNetAP-10")
        return tuple(reported.lookup(*cell, name)["text"] for name in names)

    methods, ipc = [arm.method for arm, _ in of.arms], of.arms[0][0].config.ipc
    if paper == "skd" and of.quantity == "accuracy" and not any(arm.name for arm, _ in of.arms):
        if of.scale.networks:
            return [pair("table2_cross_architecture", methods, "CIFAR10", 10, on) for on in ("AlexNet", "VGG11")]
        return [pair("table1_accuracy", methods, of.scale.dataset, ipc)]
    if paper == "dgs" and of.name.startswith(("difficulty over chance: ", "difficulty over the first")):
        return [pair("table1_imagewoof", ("DGS", "Minimax"), "ImageWoof", ipc, "ResNetAP-10")]
    if paper == "dgs" and (target := re.match(r"scale over (\w+)", of.name)):
        target = f"distribution={target[1].capitalize()}"
        return [variants("table3_distributions", ipc, "distribution=Scale", target)]
    if paper == "dgs" and (times := re.match(r"a pool of 5 over (\d)", of.name)):
        return [variants("table4_pool_size", ipc, "pool=5xIPC", f"pool={times[1]}xIPC")]
    if of.name == "easy at IPC 10 and hard at IPC 50":
        easy_and_hard = "distribution=Cliff", "distribution=Hill"
        return [variants("table3_distributions", ipc, *easy_and_hard) for ipc in (10, 50)]
    return []


@pytest.mark.parametrize(("paper", "of"), EVERY)
def test_what_a_claim_says_was_printed_is_printed_of_that_setting(paper, of):
    wanted = printed_pairs(paper, of)
    assert re.findall(r"([\d.]+ ± [\d.]+) against ([\d.]+ ± [\d.]+)", of.printed) == wanted
    assert len(re.findall(r"\d ± \d", of.printed)) == 2 * len(wanted)
    assert wanted or re.search(NO_NUMBER, of.printed)


def test_deviations_over_table_2_follow_from_its_means():
    def deviation(method, networks):
        cells = [reported.lookup("skd/table2_cross_architecture", method, "CIFAR10", 10, on) for on in networks]
        return f"{statistics.stdev(cell['value'] for cell in cells):.1f}"

    printed = claims_skd.SPREADS["steadier over architectures"]
    for networks in (["ResNet18", "AlexNet", "VGG11"], ["ConvNet", "ResNet18", "AlexNet", "VGG11"]):
        assert f"{deviation('SKD', networks)} against {deviation('DiM', networks)}" in printed


def leaves(value, at=""):
    """Settings in settings by their way: config.module.rank."""
    if not isinstance(value, dict):
        return {at: repr(value)}
    return {k: v for name, part in value.items() for k, v in leaves(part, f"{at}.{name}" if at else name).items()}


IDEAS = {  # how the name of a claim starts -> the settings that its arms share and in which they differ
    "SKD over DiM": ["target", "weight"],
    "steadier": ["target", "weight"],
    "standardised logits": ["standardise"],
    "pool over one network": ["matching.pool"],
    "low rank": ["module.rank"],
    "rank 10": ["module.rank"],
    "20 samples": ["module.samples"],
    "samples that vary": [f"module.{name}" for name in claims_slfd.NEVER],
    "difficulty over": ["rule"],
    "scores over": ["rule"],
    "held-out scorer": ["rule", "scoring.folds", "scoring.scorer"],
    "the logarithm": ["sampler.transform"],
    "scale over": ["sampler.target"],
    "a pool of 5": ["pool"],
    "easy at": ["ipc", "sampler.target"],
    "generated images are easier": ["source"],
    "more images": ["ipc"],
    "generation over": ["ipc"],
    "seconds of D": ["ipc"],
    "sampler steps": ["steps"],
}


@pytest.mark.parametrize(("paper", "of"), EVERY)
def test_arms_of_a_claim_differ_in_the_idea_alone(paper, of):
    """Their tasks are the same but for the method, its own settings, and of shared settings those of the idea."""
    experiment = experiments.experiment(f"{paper}/claims")
    cells = list(of.cells(experiment.name))
    keys = [leaves(key_of(experiment, cell)) for cell in cells]
    shared = set.intersection(*map(set, keys))
    differ = {name for name in shared if len({key[name] for key in keys}) > 1}
    idea = next((names for start, names in IDEAS.items() if of.name.startswith(start)), [])
    assert differ == {f"config.{name}" for name in idea}
    assert idea or len({cell.method for cell in cells}) > 1
    own = set.union(*map(set, keys)) - shared
    assert all(name.startswith(("config.", "code.")) or name == "scores.version" for name in own)
    if len({cell.method for cell in cells}) == 1:
        assert not own - {"scores.version"}


def test_the_distance_that_a_sentence_names_is_that_of_the_records():
    found = claims.findings(experiments.experiment("uvit/claims"), "small")
    measured = [f for f in found if f.claim.quantity == "FID" and f.arms]
    assert measured and all(f.unit == claims_uvit.FID and f.unit in f.claim.sentence for f in measured)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("SKD over DiM: FashionMNIST at IPC 10", "SKD over DiM, FashionMNIST at 10 images per class"),
        ("generated over real: IPC 1", "generated over real, 1 image per class"),
        ("a pool of 5 over 2 x IPC: IPC 10", "a pool of 5 over 2 times the images kept, 10 images per class"),
    ],
)
def test_figures_and_lists_say_the_images_per_class_in_words(name, says):
    assert tables.title(claim(name)) == says and tables.title(claim(name, title="other: IPC 1")).startswith("other, 1")


# --- computing them ---------------------------------------------------------------------------------------------------
@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Three claims on the digits, of which two share an arm."""
    for name in ("RESULTS", "RUNS", "CACHE"):
        monkeypatch.setenv(f"DISTILL_{name}", str(tmp_path / name.lower()))
    three = [claim("two over one", 2, 1, n=3), claim("four over one", 4, 1, n=4), claim("eight over two", 8, 2, n=3)]
    of = claims.experiment_of("toy/claims", "Toy", three)
    monkeypatch.setattr(registry, "experiments", lambda: {"toy/claims": of})
    return of


def numbers(of):
    cells = {cell for c in of.claims for cell in c.cells(of.name)}
    return {cell.stem: (r.sets, r.test_accuracy_pct) for cell in cells if (r := records.load(cell, "small"))}


def fill_all():
    return fill.run(fill.plan("small")[0], say=lambda line: None)


def test_killed_at_any_repeat_and_started_again_it_gives_the_numbers_of_an_unbroken_run(toy, tmp_path, monkeypatch):
    fill_all()
    unbroken, verdicts = numbers(toy), [f.word for f in claims.findings(toy, "small")]
    assert {len(set(sets)) for sets, _ in unbroken.values()} == {3, 4}
    jobs, run = sum(len(set(sets)) for sets, _ in unbroken.values()), engine.run
    for stop in (1, jobs // 2, jobs - 1):
        monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path / f"results{stop}"))
        left = iter(range(stop))

        def killed(*args, left=left, **options):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return run(*args, **options)

        monkeypatch.setattr(engine, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            fill_all()
        assert sum(len(set(sets)) for sets, _ in numbers(toy).values()) == stop
        monkeypatch.setattr(engine, "run", run)
        fill_all()
        assert numbers(toy) == unbroken
        assert [f.word for f in claims.findings(toy, "small")] == verdicts


def test_more_planned_repeats_keep_those_that_are_done(toy, monkeypatch):
    fill_all()
    before = numbers(toy)
    more = claims.experiment_of("toy/claims", "Toy", [replace(c, n=c.n + 1) for c in toy.claims])
    monkeypatch.setattr(registry, "experiments", lambda: {"toy/claims": more})
    assert all(f.provisional for f in claims.findings(more, "small"))
    assert len(fill.plan("small")[0]) == 4  # one further set for each of four arms
    fill_all()
    after = numbers(more)
    assert all(after[stem][1][: len(values)] == values for stem, (_, values) in before.items())


def test_the_claim_with_the_least_left_to_compute_comes_first_and_shared_work_counts_once(toy):
    cells = {cell.ipc: cell for c in toy.claims for cell in c.cells(toy.name)}
    seconds = {(cells[ipc], n): {1: 1.0, 2: 1.0, 4: 9.0, 8: 2.0}[ipc] for ipc in cells for n in (1, 2, 3)}
    ranks = claims.order(toy, "small", seconds)
    jobs = sorted(ranks, key=ranks.get)
    assert [(cell.ipc, n) for cell, n in jobs[:6]] in (  # 6 seconds for two over one, repeat by repeat
        [(2, 1), (1, 1), (2, 2), (1, 2), (2, 3), (1, 3)],
        [(1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (2, 3)],
    )
    assert [cell.ipc for cell, _ in jobs[6:]] == [8] * 3 + [4] * 3  # 6 seconds are left of one, 27 of the other


def test_a_claim_that_is_clear_comes_after_one_that_is_undecided(toy, monkeypatch):
    words = {"two over one": "holds", "four over one": "undecided", "eight over two": "not run"}

    def found(of, profile):
        empty = effects.paired([], 0.5)
        return [claims.Finding(c, empty, 1.0, words[c.name], True) for c in of.claims]

    monkeypatch.setattr(claims, "findings", found)
    cells = {cell.ipc: cell for c in toy.claims for cell in c.cells(toy.name)}
    seconds = {(cells[ipc], 1): 1.0 for ipc in cells} | {(cells[8], 2): 5.0}
    ranks = claims.order(toy, "small", seconds)
    assert {cell.ipc for cell, _ in sorted(ranks, key=ranks.get)[:2]} == {1, 4}
    assert set(ranks) == set(seconds)


def test_pages_show_what_is_recorded_and_what_is_missing(toy):
    assert {f.verdict for f in claims.findings(toy, "recorded")} == {"not run"}
    fill.run([job for job in fill.plan("small")[0] if job.sets < 3], say=lambda line: None)
    found = claims.findings(toy, "recorded")
    assert all(f.provisional and f.verdict.startswith("provisional") for f in found)
    table = tables.table(found)
    assert list(table["repeats"]) == ["2 of 3", "2 of 4", "2 of 3"]
    assert list(table["IPC"]) == ["2 and 1", "4 and 1", "8 and 2"] and set(table["δ"]) == {"0.5 points"}
    assert list(table["p after Holm"]) == [f"{f.adjusted:.3f}" for f in found]
    assert set(table["scale"]) == {"digits, vico_noaug@2ep, 2 networks a set: MLP"}
    assert len(tables.sentences(found)) == 3 and all("2 of" in s for s in tables.sentences(found))
    (axis,) = figures.forest(tables.points(found)).axes
    assert sum(text.get_text().startswith("provisional: ") for text in axis.texts) == 3


def test_workers_of_a_cluster_compute_the_same_repeats(tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="needs dask.distributed")
    from distill_lib.experiments import cluster

    name = "slfd/claims"
    params = experiments.check_parameters(name, {"profile": "smoke"})
    of = experiments.experiment(name)
    cells = [c for c in of.cells(params) if not isinstance(of.task(c, params), experiments.Skip)]
    assert len(cells) == 2
    found = []
    for i, run in enumerate((cluster.run, engine.run)):
        monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / f"runs{i}"))
        run(name, params, cells, say=lambda line: None, **({"workers": 2} if run is cluster.run else {}))
        found.append({c: records.load(c, "smoke").test_accuracy_pct for c in cells})
    assert found[0] == found[1] and all(len(values) == 4 for values in found[0].values())
