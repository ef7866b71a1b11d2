"""A round of differentially private training at the site: what is refused, what is booked, and how it is drawn."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from omnifed.data.prepare import SiteData
from omnifed.distill.spec import PUBLIC_SCALES, DistillSpec
from omnifed.errors import OmniFedError
from omnifed.federation.tasks import FitTask
from omnifed.files import write_atomic
from omnifed.models.student import Student
from omnifed.privacy.dp.accounting import epsilon, noise_multiplier
from omnifed.privacy.dp.gradients import PatientGradients, check_network
from omnifed.privacy.dp.ledger import FOLDER, Cost, Ledger, Release
from omnifed.privacy.dp.randomness import KEY_BYTES, SecretDraws
from omnifed.privacy.dp.sampling import PatientBatches, labelled_patients, sampling_rate
from omnifed.privacy.spec import DPSpec
from omnifed.teachers.cache import TeacherCache
from omnifed.teachers.spec import TeacherSpec
from omnifed.training.checkpoint import fingerprint, trained_state
from omnifed.training.spec import TrainSpec
from omnifed.trust import vault
from omnifed_client.store import SiteStore

LARGEST_DELTA = 0.1
"""Delta must be well below 1 / n, or the promise allows to give patients away now and then; below nine it is not."""
CHUNK = 8
"""Patients whose gradients are in memory at a time: 4 bytes a weight each."""
_PURPOSE = "dp release"


@dataclass(frozen=True)
class OpenRelease:
    """A booked release, ready to be trained.

    Attributes:
        spec: the round's settings, in float32: norms of gradients in half precision could exceed the clip.
        batches: Poisson samples of patients.
        gradients: clips and noises them.
        patients: that are labelled; public, as the accounting's figures depend on it.
        key: file of the release's secret key; it must be gone when the reply may be sent.
    """

    spec: TrainSpec
    batches: PatientBatches
    gradients: PatientGradients
    patients: int
    key: Path


def check(task: FitTask, data: SiteData) -> None:
    """Refuses what would void the guarantee; a coordinator may be another release, and know these rules not at all.

    Raises:
        OmniFedError: OF850 for a student with batch norm, or one that learns more of a teacher than the logits of a
            public one; OF851 for a site whose patients are too few for the asked delta, or in two splits.
    """
    if task.student.norm != "group":
        raise OmniFedError(
            "OF850",
            "Differential privacy needs a network without batch statistics: norm = group.",
            seen=f"norm = {task.student.norm}",
            remedy="Set norm = group in the student, or leave dp out.",
        )
    if task.distill is not None:
        _check_teaching(task.distill, task.teacher)
    _check_patients(task.privacy.dp or DPSpec(), data)


def open_release(
    task: FitTask,
    model: Student,
    own: Mapping[str, Tensor],
    meta: Mapping[str, Any] | None,
    data: SiteData,
    store: SiteStore,
    epsilon_limit: float | None = None,
    cache: TeacherCache | None = None,
) -> OpenRelease:
    """Books a round before its first step; one that was begun before and never finished goes on, booked once.

    Args:
        task: what to train; :func:`check` has passed it.
        model: the student as the round begins.
        own: the optimiser's state from the round before.
        meta: what the site noted of its own last state; None before any.
        data: the site's splits.
        store: of the campaign.
        epsilon_limit: of the site's policy, for all campaigns together.
        cache: of the public teacher, where the task distils.

    Raises:
        OmniFedError: OF852 if the round would cost more than is left, OF853 if its cost cannot be accounted for, OF854
            for a damaged ledger, OF855 if the site's own last state was not trained privately.
    """
    dp = task.privacy.dp
    assert dp is not None
    check_network(model)
    if meta is not None and not meta.get("dp"):
        raise OmniFedError(
            "OF855",
            "What a site adds to a private arm was trained privately from the beginning.",
            seen=f"arm {task.arm}: its last round here was not private",
            remedy="Run the private training as another arm or campaign.",
        )
    patients = labelled_patients(data.train)
    start = {**trained_state(model), **{f"optimizer.{name}": value for name, value in own.items()}}
    asked = task.model_dump_json(exclude={"id", "attempt", "protocol"})
    mark = hashlib.sha256(f"{asked}{fingerprint(task.train, data.train, start)}".encode()).hexdigest()
    file = store.fit_checkpoint(task.arm, task.round).with_suffix(".release")
    ledger = Ledger(store.folder / FOLDER)
    begun = _begun(file, mark, ledger, store)
    release, key = begun or _book(task, dp, patients, (file, mark), ledger, store, epsilon_limit)
    draws = SecretDraws(key)
    spec = task.train.model_copy(update={"precision": "fp32"})
    gradients = PatientGradients(
        draws, sigma=release.sigma, clip=dp.clip, expected=release.rate * len(patients), chunk=CHUNK
    )
    return OpenRelease(spec, PatientBatches(data.train, spec, draws, cache), gradients, len(patients), file)


def _begun(file: Path, mark: str, ledger: Ledger, store: SiteStore) -> tuple[Release, bytes] | None:
    """The release that this very round began before, if it did and its key is still there."""
    try:
        noted = json.loads(vault.open(store.vault, _PURPOSE, file.read_bytes()))
    except (FileNotFoundError, OmniFedError):
        return None  # it is booked again: that can only count too much
    release = next((r for r in ledger.releases if r.id == noted["id"]), None)
    # The same noise under another gradient would cancel out between the two.
    return (release, bytes.fromhex(noted["key"])) if release and noted["mark"] == mark else None


def _book(
    task: FitTask,
    dp: DPSpec,
    patients: tuple[str, ...],
    place: tuple[Path, str],
    ledger: Ledger,
    store: SiteStore,
    limit: float | None,
) -> tuple[Release, bytes]:
    rate, delta = sampling_rate(task.train.batch_size, len(patients)), dp.delta_of(len(patients))
    before = ledger.of(patients)
    arm = tuple(r for r in before if (r.campaign, r.arm) == (task.campaign, task.arm))
    allowed = min(dp.epsilon, limit) if limit is not None else dp.epsilon
    ahead = max((task.train.total_steps or 0) - task.train.first_step, task.train.steps)
    sigma = arm[-1].sigma if arm else noise_multiplier(allowed, delta, rate=rate, steps=ahead)
    new = Cost(sigma=sigma, rate=rate, steps=task.train.steps)
    _afford(arm, new, delta, allowed, "this arm")
    if limit is not None:
        # An arm that could not end would spend the patients' privacy on a model that nobody finishes.
        whole = new if arm else new.model_copy(update={"steps": ahead})
        _afford(before, whole, DPSpec().delta_of(len(patients)), limit, "all campaigns together")
    release = ledger.book(
        patients,
        campaign=task.campaign,
        arm=task.arm,
        round=task.round,
        delta=delta,
        clip=dp.clip,
        **new.model_dump(),
    )
    key = secrets.token_bytes(KEY_BYTES)
    file, mark = place
    noted = json.dumps({"id": release.id, "mark": mark, "key": key.hex()}).encode()
    write_atomic(file, vault.seal(store.vault, _PURPOSE, noted), mode=0o600)
    return release, key


def _afford(before: tuple[Release, ...], new: Cost, delta: float, limit: float, what: str) -> None:
    after = epsilon([*before, new], delta)
    if after > limit:
        raise OmniFedError(
            "OF852",
            "A site trains no further when its patients' privacy budget is spent.",
            seen=f"{what}: epsilon {epsilon(before, delta):.3f} of {limit:g} is spent, it would be {after:.3f}",
            remedy="The last round's model stays. `omnifed-client epsilon` says what was spent on what.",
        )


def _check_teaching(distill: DistillSpec, teacher: TeacherSpec | None) -> None:
    if teacher is None or not teacher.public:
        raise OmniFedError(
            "OF850",
            "Differential privacy ends where a student learns from a teacher that was fine-tuned on the same patients.",
            seen="a teacher that is not public",
            remedy="Use a public teacher, train with local, fedavg, fedprox or fedbn, or leave dp out.",
        )
    used = {name for name, weight in distill.weights.items() if weight > 0}
    if not used <= PUBLIC_SCALES.keys() or distill.scales != PUBLIC_SCALES:
        raise OmniFedError(
            "OF850",
            "Differential privacy leaves of OmniKD the logits' term at its published scale.",
            seen=f"terms {', '.join(sorted(used))}, scales {distill.scales}",
            remedy="Upgrade omnifed at the coordinator, or leave dp out.",
        )


def _check_patients(dp: DPSpec, data: SiteData) -> None:
    patients = labelled_patients(data.train)
    count = max(len(patients), 1)
    both = set(patients) & {*data.val.patients, *data.test.patients}
    if both or dp.delta_of(count) >= LARGEST_DELTA or dp.delta_of(count) > DPSpec().delta_of(count):
        raise OmniFedError(
            "OF851",
            "Differential privacy per patient needs 9 training patients, in no other split, and delta at most n^-1.1.",
            seen=f"{len(patients)} training patients, {len(both)} of them in another split, delta {dp.delta:g}",
            remedy="Add patients, split by patient, or leave delta out.",
        )
