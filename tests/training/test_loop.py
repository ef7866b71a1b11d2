from __future__ import annotations

import math
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from discs import TinyNet, make_discs
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import omnifed.training.loop as loop
from omnifed.distill.omnikd import OmniKD
from omnifed.distill.spec import DistillSpec
from omnifed.errors import OmniFedError
from omnifed.models.base import BOTTLENECK, Out
from omnifed.progress import Progress
from omnifed.states import StateFile
from omnifed.training.batch import Batch
from omnifed.training.loop import fit
from omnifed.training.objectives import Distilled, distilled, supervised, teacher_objective, with_proximal
from omnifed.training.spec import TrainSpec

SPEC = TrainSpec(steps=12, batch_size=4, lr=1e-2, validate_every=3, precision="fp32")
KEY = bytes(range(32))


def same(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(value, other[name]) for name, value in a.state_dict().items())


class Stop(BaseException):
    """Ends a fit at once, as a killed process would: nothing of ours catches it."""


def stop_at(step: int) -> Progress:
    def progress(done: int, total: int, text: str) -> None:
        if done == step:
            raise Stop

    return progress


class WithTeacher(Distilled):
    """Distils from what the image shows, so that projector and scales change at each step."""

    def forward(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        small = nn.functional.avg_pool2d(batch.image, 4)
        batch.teacher = Out(torch.cat([-small, small], 1), {BOTTLENECK: torch.cat([small, small.square()], 1)})
        return super().forward(model, batch, step)


def with_teacher() -> WithTeacher:
    return WithTeacher(OmniKD(DistillSpec(calibration_steps=4), {BOTTLENECK: 8}, {BOTTLENECK: 2}))


def test_it_learns_and_reports() -> None:
    net, data = TinyNet(), make_discs(12)
    seen: list[tuple[int, int, str]] = []
    result = fit(
        net,
        data,
        make_discs(6, seed=1),
        SPEC.model_copy(update={"steps": 60, "validate_every": 20}),
        supervised(),
        progress=lambda *x: seen.append(x),
    )
    assert result.dice > 0.9
    assert result.steps == 60
    assert [step for step, _ in result.history] == [20, 40, 60]
    assert set(result.loss) == {"total", "ce", "dice"}
    assert result.loss["total"] == pytest.approx(result.loss["ce"] + result.loss["dice"])
    assert (result.stopped_early, result.precision.dtype, net.training) == (False, "fp32", False)
    assert seen[-1][:2] == (60, 60)
    assert "Dice" in seen[-1][2]
    assert result.seconds > 0


def test_the_same_call_gives_the_same_weights() -> None:
    nets = [TinyNet(), TinyNet()]
    for net in nets:
        torch.rand(5)  # the global random state plays no part
        fit(net, make_discs(), None, SPEC, supervised())
    assert same(*nets)


def test_the_best_state_is_kept() -> None:
    net, states = TinyNet(), []
    dices = iter([0.3, 0.8, 0.5, 0.6])

    def validate(model: nn.Module) -> float:
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(dices)

    result = fit(net, make_discs(), None, SPEC, supervised(), validate=validate)
    assert (result.dice, result.best_step, result.stopped_early) == (0.8, 6, False)
    assert all(torch.equal(v, states[1][k]) for k, v in net.state_dict().items())


def test_patience_stops_early() -> None:
    dices = iter([0.3, 0.8, 0.5, 0.6, 0.7])
    spec = SPEC.model_copy(update={"steps": 100, "patience": 2})
    result = fit(TinyNet(), make_discs(), None, spec, supervised(), validate=lambda _: next(dices))
    assert (result.steps, result.stopped_early, result.best_step) == (12, True, 6)


def test_without_validate_every_the_last_state_is_scored_once() -> None:
    net = TinyNet()
    spec = SPEC.model_copy(update={"validate_every": 0})
    result = fit(net, make_discs(), make_discs(4, seed=1), spec, supervised())
    assert [step for step, _ in result.history] == [12]
    assert result.best_step == 12
    assert 0 <= result.dice <= 1


@pytest.mark.parametrize("val", [None, make_discs(3, labelled=0), make_discs(0)])
def test_without_masks_to_validate_on_there_is_no_dice(val: object) -> None:
    result = fit(TinyNet(), make_discs(), val, SPEC, supervised())  # type: ignore[arg-type]
    assert math.isnan(result.dice)
    assert result.history == []


def test_one_image_and_a_batch_of_one() -> None:
    data = make_discs(1)
    assert fit(TinyNet(), data, data, SPEC, supervised()).steps == 12
    assert fit(TinyNet(), data, data, SPEC.model_copy(update={"batch_size": 1}), supervised()).steps == 12


def test_no_labels_and_no_teacher_is_an_error() -> None:
    with pytest.raises(OmniFedError, match="OF402"):
        fit(TinyNet(), make_discs(4, labelled=0), None, SPEC, supervised())


def test_frozen_parameters_stay_and_the_objectives_are_trained() -> None:
    net, objective = TinyNet(), with_teacher()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.body.requires_grad_(False)
    assert objective.omnikd.projector is not None
    projector = objective.omnikd.projector.weight.detach().clone()
    result = fit(net, make_discs(), None, SPEC, objective)
    assert torch.equal(net.body[0].weight, before["body.0.weight"])
    assert not torch.equal(net.head.weight, before["head.weight"])
    assert not torch.equal(objective.omnikd.projector.weight, projector)
    assert "exp_avg/objective.omnikd.projector.weight" in result.optimizer_state
    assert "exp_avg/body.0.weight" not in result.optimizer_state
    assert {"kd_logits", "kd_features", "kd_attention", "kd_relation", "kd_context"} < set(result.loss)
    assert objective.omnikd.frozen


def test_distilled_without_a_teacher_is_supervised() -> None:
    nets = [TinyNet(), TinyNet()]
    fit(nets[0], make_discs(), None, SPEC, supervised())
    fit(nets[1], make_discs(), None, SPEC, distilled(OmniKD(DistillSpec(), {BOTTLENECK: 8}, {BOTTLENECK: 2})))
    assert same(*nets)


def test_proximal_by_hand_and_its_pull() -> None:
    net = TinyNet()
    anchor = {name: p.detach() + 1 for name, p in net.named_parameters()}
    count = sum(p.numel() for p in net.parameters())
    batch = loop.Batches(make_discs(), SPEC).batch(0)
    loss, _ = supervised()(net, batch, 0)
    held, parts = with_proximal(supervised(), anchor, 0.5)(net, batch, 0)
    assert float(parts["proximal"]) == pytest.approx(0.25 * count, rel=1e-4)
    assert float((held - loss).detach()) == pytest.approx(0.25 * count, rel=1e-4)
    free, tight = TinyNet(), TinyNet()
    start = {name: p.detach().clone() for name, p in free.named_parameters()}
    fit(free, make_discs(), None, SPEC, supervised())
    fit(tight, make_discs(), None, SPEC, with_proximal(supervised(), start, 10.0))

    def moved(net: nn.Module) -> float:
        return sum(float((p.detach() - start[n]).square().sum()) for n, p in net.named_parameters())

    assert moved(tight) < 0.5 * moved(free)


def test_a_teachers_smaller_logits_meet_a_smaller_label() -> None:
    class Small(TinyNet):
        def forward(self, x: Tensor, condition: Tensor | None = None) -> Out:
            return Out(nn.functional.avg_pool2d(super().forward(x).logits, 4))

    net = Small()
    result = fit(net, make_discs(), None, SPEC.model_copy(update={"steps": 40}), teacher_objective())
    assert result.loss["total"] == pytest.approx(0.2 * result.loss["ce"] + 0.8 * result.loss["dice"])
    assert result.loss["dice"] < 0.5


def test_rounds_that_hand_on_the_optimiser_equal_one_fit() -> None:
    whole, parts = TinyNet(), TinyNet()
    spec = SPEC.model_copy(update={"validate_every": 0})
    fit(whole, make_discs(), None, spec, supervised())
    state = None
    for first in (0, 4, 8):
        piece = spec.model_copy(update={"steps": 4, "total_steps": 12, "first_step": first})
        state = fit(parts, make_discs(), None, piece, supervised(), optimizer_state=state).optimizer_state
    assert same(whole, parts)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_keeps_the_last_good_state(where: str) -> None:
    def poisoned(model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        if step < 5:
            return supervised()(model, batch, step)
        if where == "loss":
            batch.image[0, 0, 0, 0] = math.nan
            return supervised()(model, batch, step)
        out = model(batch.image).logits
        return (out * 0).sqrt().sum(), {}

    net, good = TinyNet(), TinyNet()
    fit(good, make_discs(), None, SPEC.model_copy(update={"steps": 5, "total_steps": 12}), supervised())
    with pytest.raises(OmniFedError, match="OF401") as error:
        fit(net, make_discs(), None, SPEC, poisoned)
    assert "step 5" in error.value.seen
    assert same(net, good)


def test_gradients_are_clipped() -> None:
    def steep(model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = supervised()(model, batch, step)
        return loss * 1e6, parts

    net = TinyNet()
    norms: list[float] = []

    def watch(optimiser: torch.optim.Optimizer, *args: object) -> None:
        grads = [p.grad for g in optimiser.param_groups for p in g["params"] if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in grads]).norm()))

    hook = register_optimizer_step_pre_hook(watch)
    try:
        fit(net, make_discs(), None, SPEC.model_copy(update={"steps": 3}), steep)
    finally:
        hook.remove()
    assert norms == pytest.approx([1.0] * 3, rel=1e-3)


@pytest.mark.parametrize("step", [1, 3, 7, 11])
def test_a_fit_cut_off_at_any_step_ends_in_the_same_weights(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 1.0)
    path, val = tmp_path / "fit.ckpt", make_discs(4, seed=1)
    file = StateFile(path)
    whole, whole_objective = TinyNet(), with_teacher()
    expected = fit(whole, make_discs(), val, SPEC, whole_objective)
    with pytest.raises(Stop):
        fit(TinyNet(), make_discs(), val, SPEC, with_teacher(), checkpoint=file, progress=stop_at(step))
    assert path.exists()
    assert path.stat().st_mode & 0o777 == 0o600
    net, objective, seen = TinyNet(), with_teacher(), []
    result = fit(net, make_discs(), val, SPEC, objective, checkpoint=file, progress=lambda *x: seen.append(x[0]))
    assert seen[0] == step + 1  # it went on, it did not start again
    assert same(net, whole)
    assert same(objective, whole_objective)
    assert (result.loss, result.dice, result.history) == (expected.loss, expected.dice, expected.history)
    assert all(torch.equal(v, expected.optimizer_state[k]) for k, v in result.optimizer_state.items())
    assert not path.exists()


KILLED = """
import os, signal, sys
import torch
sys.path.insert(0, {here!r})
torch.set_num_threads(1)
import omnifed.training.loop as loop
loop.CHECKPOINT_SECONDS, loop.CHECKPOINT_SHARE = 0.0, 1.0
from pathlib import Path
from discs import TinyNet, make_discs
from test_loop import KEY, SPEC, StateFile, with_teacher

def progress(done, total, text):
    if done == 8:
        os.kill(os.getpid(), signal.SIGKILL)

file, val = StateFile(Path({path!r}), KEY, 'x'), make_discs(4, seed=1)
loop.fit(TinyNet(), make_discs(), val, SPEC, with_teacher(), checkpoint=file, progress=progress)
"""


def test_kill_9_and_resume_in_another_process_from_a_sealed_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "fit.sealed"
    file = StateFile(path, KEY, "x")
    script = KILLED.format(here=str(Path(__file__).parent), path=str(path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    net, whole, val = TinyNet(), TinyNet(), make_discs(4, seed=1)
    first: list[int] = []
    fit(net, make_discs(), val, SPEC, with_teacher(), checkpoint=file, progress=lambda *x: first.append(x[0]))
    fit(whole, make_discs(), val, SPEC, with_teacher())
    assert first[0] == 9
    assert same(net, whole)


def test_a_checkpoint_of_another_fit_or_a_damaged_one_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    path = tmp_path / "fit.ckpt"
    file = StateFile(path)
    with pytest.raises(Stop):
        fit(TinyNet(seed=1), make_discs(), None, SPEC, supervised(), checkpoint=file, progress=stop_at(3))
    net, whole = TinyNet(), TinyNet()
    fit(whole, make_discs(), None, SPEC, supervised())
    fit(net, make_discs(), None, SPEC, supervised(), checkpoint=file)
    assert "another fit" in caplog.text
    assert same(net, whole)
    path.write_bytes(b"half of a file")
    net = TinyNet()
    fit(net, make_discs(), None, SPEC, supervised(), checkpoint=file)
    assert "cannot be read" in caplog.text
    assert same(net, whole)


def test_a_sealed_checkpoint_that_does_not_open_stops_the_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the work so far would be given up silently."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    file = StateFile(tmp_path / "fit.sealed", KEY, "x")
    with pytest.raises(Stop):
        fit(TinyNet(), make_discs(), None, SPEC, supervised(), checkpoint=file, progress=stop_at(3))
    kept = file.path.read_bytes()
    for other in (StateFile(file.path, bytes(32), "x"), StateFile(file.path, KEY, "y")):
        with pytest.raises(OmniFedError, match="OF875"):
            fit(TinyNet(), make_discs(), None, SPEC, supervised(), checkpoint=other)
    assert file.path.read_bytes() == kept
    file.path.write_bytes(kept[:-1])
    with pytest.raises(OmniFedError, match="OF875"):
        fit(TinyNet(), make_discs(), None, SPEC, supervised(), checkpoint=file)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 1.0)
    path = tmp_path / "fit.ckpt"
    file = StateFile(path)
    before: list[bytes] = []

    def fill(done: int, total: int, text: str) -> None:
        if done == 5:
            before.append(path.read_bytes())
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OmniFedError, match="OF103"):
            fit(TinyNet(), make_discs(), None, SPEC, supervised(), checkpoint=file, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before[0]
    assert os.listdir(tmp_path) == [path.name]
    net, whole = TinyNet(), TinyNet()
    fit(net, make_discs(), None, SPEC, supervised(), checkpoint=file)
    fit(whole, make_discs(), None, SPEC, supervised())
    assert same(net, whole)


def test_a_resumed_fit_keeps_the_precision_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    path = tmp_path / "fit.ckpt"
    file = StateFile(path)
    spec = SPEC.model_copy(update={"precision": "auto"})
    monkeypatch.setattr(loop, "choose", lambda *_: loop.Precision("bf16", True, "first"))
    with pytest.raises(Stop):
        fit(TinyNet(), make_discs(), None, spec, supervised(), checkpoint=file, progress=stop_at(3))
    monkeypatch.setattr(loop, "choose", lambda *_: loop.Precision("fp32", False, "second"))
    assert fit(TinyNet(), make_discs(), None, spec, supervised(), checkpoint=file).precision.why == "first"


def test_bf16_in_channels_last_learns_and_leaves_a_plain_model() -> None:
    net = TinyNet()
    spec = SPEC.model_copy(update={"steps": 60, "validate_every": 0, "precision": "bf16"})
    result = fit(net, make_discs(), make_discs(6, seed=1), spec, supervised())
    assert result.precision.channels_last
    assert result.dice > 0.85
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in net.parameters())
