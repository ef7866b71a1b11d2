"""The site's executor through its public interface: real students, real files, a tiny site made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from omnifed.data.prepare import SiteData
from omnifed.data.prepared import Prepared
from omnifed.data.site import IGNORE, Normalisation, SiteConfig
from omnifed.federation.replies import EvaluateReply, FailedReply, FitReply, HelloReply
from omnifed.federation.tasks import EvaluateTask, FitTask, HelloTask
from omnifed.federation.wire import decode, encode, is_coded
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.models.weights import to_state
from omnifed.states import State, strip_prefix
from omnifed.training.spec import TrainSpec
from omnifed_client.executor import SiteExecutor
from omnifed_client.gate import not_worse
from omnifed_client.store import SiteStore

STUDENT = StudentSpec(alpha=0.6, beta=0.5, stem_stride=2)
TRAIN = TrainSpec(steps=2, batch_size=2, lr=1e-3, precision="fp32", seed=3)


def squares(n: int, seed: int, *, labelled: int | None = None) -> Prepared:
    """Bright squares on noise; the last ``n - labelled`` images have no mask."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 0.3, (n, 1, 32, 32)).astype(np.float16)
    masks = np.zeros((n, 32, 32), np.uint8)
    for i in range(n):
        y, x = rng.integers(2, 18, 2)
        images[i, 0, y : y + 12, x : x + 12] += 2
        masks[i, y : y + 12, x : x + 12] = 1
    has_mask = np.arange(n) < (n if labelled is None else labelled)
    masks[~has_mask] = IGNORE
    names = tuple(f"{seed}-{i}" for i in range(n))
    return Prepared(
        SITE.spec, images, masks, has_mask, names, names, names, np.full((n, 2), np.nan, np.float32), np.ones(2, bool)
    )


SITE = SiteConfig(
    name="squares",
    modality="mri",
    labels={0: "background", 1: "square"},
    normalisation=Normalisation(kind="percentile"),
)


@pytest.fixture
def data() -> SiteData:
    return SiteData(SITE, squares(6, 1), squares(3, 2), squares(3, 4), (), ())


def fit_task(round_: int = 0, **changes: object) -> FitTask:
    train = TRAIN.model_copy(update={"first_step": 2 * round_, "total_steps": 4})
    return FitTask(id=f"t.fit.{round_}", arm="a", round=round_, student=STUDENT, train=train, **changes)


def test_hello_counts(data: SiteData, tmp_path: Path) -> None:
    reply, state = SiteExecutor(data, tmp_path).execute(HelloTask(id="h"), {})
    assert isinstance(reply, HelloReply)
    assert (reply.train, reply.unlabelled, reply.val, reply.test, reply.labels) == (
        6,
        0,
        3,
        3,
        ("background", "square"),
    )
    assert state == {}


def test_only_the_global_part_leaves_and_the_gate_adopts_the_first_model(data: SiteData, tmp_path: Path) -> None:
    reply, up = SiteExecutor(data, tmp_path).execute(fit_task(local_layers=("norm", "head")), {})
    assert isinstance(reply, FitReply)
    assert reply.adopted
    groups = build_student(STUDENT, SITE.spec).layer_groups()
    assert set(up) == {key for key, group in groups.items() if group not in ("norm", "head")}
    assert set(SiteExecutor(data, tmp_path).execute(fit_task(1, upload="none"), {})[1]) == set()


def test_a_finished_task_is_answered_from_the_store(data: SiteData, tmp_path: Path) -> None:
    first, up = SiteExecutor(data, tmp_path).execute(fit_task(), {})
    again, up_again = SiteExecutor(data, tmp_path).execute(fit_task(), {})
    assert first == again
    assert all(np.array_equal(up[key], up_again[key]) for key in up)


def test_a_round_repeated_after_a_crash_gives_the_same_weights(data: SiteData, tmp_path: Path) -> None:
    site = SiteExecutor(data, tmp_path)
    _, start = site.execute(fit_task(0), {})
    _, once = site.execute(fit_task(1), start)
    # The state of round 1 was kept but its reply was lost: the coordinator asks again.
    for path in (tmp_path / "replies" / "a").glob("*"):
        path.unlink()
    _, twice = site.execute(fit_task(1), start)
    assert all(np.array_equal(once[key], twice[key]) for key in once)


def test_incoming_weights_replace_global_layers_alone(data: SiteData, tmp_path: Path) -> None:
    site = SiteExecutor(data, tmp_path)
    site.execute(fit_task(0, local_layers=("norm",)), {})
    own = SiteStore(tmp_path).last_model("a")
    ones = {key: np.ones_like(value) for key, value in own.items()}
    task = EvaluateTask(id="e", arm="a", student=STUDENT, split="val", which="global", local_layers=("norm",))
    weights = site._weights(task, ones, site.store)
    groups = build_student(STUDENT, SITE.spec).layer_groups()
    for key, value in weights.items():
        assert np.array_equal(value, own[key] if groups[key] == "norm" else ones[key])


def test_the_gate_keeps_the_better_model(data: SiteData, tmp_path: Path) -> None:
    site = SiteExecutor(data, tmp_path)
    site.execute(fit_task(0), {})
    kept, dice = SiteStore(tmp_path).adopted("a")
    zeros = {key: np.zeros_like(value) for key, value in kept.items()}  # predicts background everywhere: Dice 0
    task = EvaluateTask(id="e", arm="a", student=STUDENT, split="val", which="global", adopt=True)
    reply, _ = site.execute(task, zeros)
    assert isinstance(reply, EvaluateReply)
    adopted, adopted_dice = SiteStore(tmp_path).adopted("a")
    assert adopted_dice == max(dice, 0.0)
    assert np.array_equal(adopted["head.weight"], (zeros if dice == 0 else kept)["head.weight"])


def test_failures_are_replies_with_number_and_rule_alone(data: SiteData, tmp_path: Path) -> None:
    site = SiteExecutor(data, tmp_path)
    unknown = {"no/such/key": np.zeros(2, np.float32)}
    reply, state = site.execute(fit_task(0), unknown)
    assert isinstance(reply, FailedReply)
    assert (reply.code, state) == ("OF318", {})
    assert "no/such/key" not in reply.model_dump_json()
    assert site.execute(HelloTask(id="h", protocol=99, oldest=99), {})[0].code == "OF513"  # type: ignore[union-attr]
    assert site.execute(HelloTask(id="h", protocol=1), {})[0].code == "OF513"  # type: ignore[union-attr]
    # A newer coordinator that still speaks ours works on.
    assert site.execute(HelloTask(id="h", protocol=99), {})[0].kind == "hello"
    evaluate = EvaluateTask(id="e", arm="never", student=STUDENT)
    assert site.execute(evaluate, {})[0].code == "OF514"  # type: ignore[union-attr]
    by_test = EvaluateTask(id="e2", student=STUDENT, split="test", which="given", adopt=True)
    state = to_state(build_student(STUDENT, SITE.spec))
    assert site.execute(by_test, state)[0].code == "OF515"  # type: ignore[union-attr]


def test_old_rounds_are_removed_but_never_the_adopted_model(data: SiteData, tmp_path: Path) -> None:
    store = SiteStore(tmp_path)
    state = {"model/x": np.ones(1, np.float32)}
    store.save_adopted("a", 0, {"x": np.ones(1, np.float32)}, 0.9)
    for round_ in range(5):
        store.save_round("a", round_, state, {"adopted_round": 0, "previous_adopted_round": 0, "adopted_dice": 0.9})
    assert sorted(p.name for p in (tmp_path / "arms" / "a").iterdir()) == [
        "adopted-0000.sealed", "round-0003.sealed", "round-0004.sealed"
    ]  # fmt: skip
    assert store.adopted("a")[1] == 0.9


def test_replies_to_rounds_that_are_long_over_are_removed(data: SiteData, tmp_path: Path) -> None:
    store, state = SiteStore(tmp_path), {"x": np.ones(1, np.float32)}
    reply = FitReply(id="t", site="squares", n=1, steps=1, loss={}, dice=0.5, adopted=True)
    scored = EvaluateTask(id="e", arm="a", student=STUDENT)
    store.finish(scored, EvaluateReply(id="e", site="squares", n=1, scores=()), {})
    for round_ in range(5):
        store.finish(fit_task(round_), reply, state)
    found = [store.finished(fit_task(round_)) for round_ in range(5)]
    assert [kept is not None for kept in found] == [False, False, False, True, True]
    assert store.is_finished(scored)
    assert len(list((tmp_path / "replies" / "a").iterdir())) == 3


def test_a_site_that_missed_a_round_goes_on_from_its_newest_state(data: SiteData, tmp_path: Path) -> None:
    site = SiteExecutor(data, tmp_path)
    site.execute(fit_task(0, local_layers=("norm",)), {})
    own = SiteStore(tmp_path).last_model("a")
    still = TRAIN.model_copy(update={"lr": 1e-12, "weight_decay": 0.0, "steps": 1})
    site.execute(fit_task(2, local_layers=("norm",)).model_copy(update={"train": still}), {})
    late = SiteStore(tmp_path).last_model("a")
    assert np.allclose(late["stem.conv.weight"], own["stem.conv.weight"], atol=1e-6)


def test_cases_weigh_by_their_masks(data: SiteData, tmp_path: Path) -> None:
    mixed = SiteData(SITE, squares(6, 1, labelled=4), data.val, data.test, (), ())
    reply, _ = SiteExecutor(mixed, tmp_path).execute(fit_task(), {})
    assert reply.n == 4  # type: ignore[union-attr]


def test_hello_is_never_answered_from_the_store(data: SiteData, tmp_path: Path) -> None:
    SiteExecutor(data, tmp_path).execute(HelloTask(id="h"), {})
    assert not (tmp_path / "replies").exists()


def test_the_gate_refuses_a_global_part_that_is_worse(data: SiteData, tmp_path: Path) -> None:
    site = SiteExecutor(data, tmp_path)
    good = TRAIN.model_copy(update={"steps": 30, "batch_size": 6, "lr": 5e-3})
    site.execute(fit_task(0).model_copy(update={"train": good}), {})
    own = SiteStore(tmp_path).last_model("a")
    zeros = {key: np.zeros_like(value) for key, value in own.items()}
    still = TRAIN.model_copy(update={"lr": 1e-12, "weight_decay": 0.0, "steps": 1})
    refused, _ = site.execute(fit_task(1, gate=True).model_copy(update={"train": still}), zeros)
    assert refused.accepted is False  # type: ignore[union-attr]
    assert np.abs(SiteStore(tmp_path).last_model("a")["head.weight"]).sum() > 0
    taken, _ = site.execute(fit_task(1).model_copy(update={"train": still}), zeros)
    assert taken.accepted is True  # type: ignore[union-attr]


def test_not_worse_means_within_a_standard_error() -> None:
    old = np.array([0.5, 0.6, 0.7, 0.8])
    assert not_worse(old, old)
    assert not_worse(old + np.array([0.1, -0.11, 0.1, -0.11]), old)  # mean -0.005, standard error 0.061
    assert not not_worse(old - 0.01, old)  # every case is worse
    assert not_worse(np.array([]), np.array([]))


def two_coded_rounds(site: SiteExecutor, start: State) -> tuple[State, State, State]:
    """What the site holds in round 1, and its two uploads as the coordinator decodes them."""
    down = encode(start, "int8-delta")
    _, up = site.execute(fit_task(0, wire="int8-delta", base=-1), down.arrays)
    first = decode(up, "int8-delta", base=down.held)
    change = encode({k: v + np.float32(0.01) if is_coded(v) else v for k, v in first.items()}, "int8-delta",
                    base=down.held)  # fmt: skip
    _, up = site.execute(fit_task(1, wire="int8-delta", base=0), change.arrays)
    return change.held, first, decode(up, "int8-delta", base=change.held)


def test_uploads_travel_as_steps_from_what_the_site_holds(data: SiteData, tmp_path: Path) -> None:
    site, store = SiteExecutor(data, tmp_path), SiteStore(tmp_path)
    start = to_state(build_student(STUDENT, SITE.spec, seed=9))
    held, first, second = two_coded_rounds(site, start)
    kept = [store.load_round("a", round_) for round_ in (0, 1)]
    assert kept[0] is not None
    assert kept[1] is not None
    own, lost = [strip_prefix("model", k[0]) for k in kept], [strip_prefix("lost", k[0]) for k in kept]
    for key, value in first.items():
        if not is_coded(value):
            assert np.array_equal(own[0][key], value)
            continue
        assert np.allclose(own[0][key], value + lost[0][key], atol=1e-6)
        # What the first upload lost went with the second one.
        assert np.allclose(own[1][key] + lost[0][key], second[key] + lost[1][key], atol=1e-6)
        step = np.abs(own[1][key] + lost[0][key] - held[key]).max() / 127
        assert np.abs(lost[1][key]).max() <= 0.501 * step + 1e-7
    mine = store.load_held("a", 1)
    assert mine is not None
    assert all(mine[key].tobytes() == value.tobytes() for key, value in held.items())


def test_a_coded_round_repeated_after_a_crash_gives_the_same_bits(data: SiteData, tmp_path: Path) -> None:
    site = SiteExecutor(data, tmp_path)
    start = to_state(build_student(STUDENT, SITE.spec, seed=9))
    _, _, once = two_coded_rounds(site, start)
    for path in (tmp_path / "replies" / "a").glob("*"):
        path.unlink()
    (tmp_path / "arms" / "a" / "held-0001.sealed").unlink()
    # Only round 1 may be asked again: round 0 is over, and its answer was given.
    down = encode(start, "int8-delta")
    first = decode(SiteExecutor(data, tmp_path / "other").execute(
        fit_task(0, wire="int8-delta", base=-1), down.arrays)[1], "int8-delta", base=down.held)  # fmt: skip
    change = encode({k: v + np.float32(0.01) if is_coded(v) else v for k, v in first.items()}, "int8-delta",
                    base=down.held)  # fmt: skip
    _, up = site.execute(fit_task(1, wire="int8-delta", base=0), change.arrays)
    twice = decode(up, "int8-delta", base=change.held)
    assert all(once[key].tobytes() == value.tobytes() for key, value in twice.items())
    # The same weights sent as a whole lead to the same answer.
    for path in (tmp_path / "replies" / "a").glob("*"):
        path.unlink()
    _, up = site.execute(fit_task(1, wire="int8-delta"), change.held)
    whole = decode(up, "int8-delta", base=change.held)
    assert all(once[key].tobytes() == value.tobytes() for key, value in whole.items())


def test_a_site_without_its_copy_says_so(data: SiteData, tmp_path: Path) -> None:
    site = SiteExecutor(data, tmp_path)
    start = to_state(build_student(STUDENT, SITE.spec, seed=9))
    task = fit_task(1, wire="int8-delta", base=0)
    reply, up = site.execute(task, encode(start, "int8-delta").arrays)
    assert (reply.code, up) == ("OF524", {})  # type: ignore[union-attr]
    (tmp_path / "arms" / "a").mkdir(parents=True)
    (tmp_path / "arms" / "a" / "held-0000.sealed").write_bytes(b"damaged")
    assert site.execute(task, {})[0].code == "OF524"  # type: ignore[union-attr]
    reply, _ = site.execute(task.model_copy(update={"base": None}), start)
    assert isinstance(reply, FitReply)


def test_half_precision_both_ways(data: SiteData, tmp_path: Path) -> None:
    start = to_state(build_student(STUDENT, SITE.spec, seed=9))
    down = encode(start, "bf16")
    reply, up = SiteExecutor(data, tmp_path).execute(fit_task(0, wire="bf16"), down.arrays)
    assert isinstance(reply, FitReply)
    own = SiteStore(tmp_path).last_model("a")
    for key, value in decode(up, "bf16").items():
        assert np.allclose(own[key], value, rtol=2**-8)
    assert sum(v.nbytes for v in up.values()) < 0.52 * sum(v.nbytes for v in own.values())
    assert not list((tmp_path / "arms" / "a").glob("held-*"))
