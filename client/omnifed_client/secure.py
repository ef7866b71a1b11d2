"""The site's side of private rounds: it trains and keeps its update, then answers three exchanges, each once.

Secrets are on disk, sealed, before the answer that depends on them leaves: a site that was killed answers the same
request with the same words. The rules are those of :mod:`omnifed.privacy.secagg.session`; here are disk and identity.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from omnifed.errors import OmniFedError
from omnifed.federation.aggregation import share_of
from omnifed.federation.replies import FitReply, MaskedReply, Reply, SharesReply, UnmaskReply
from omnifed.federation.tasks import FitTask, MaskedTask, PrivateTask, SharesTask, UnmaskTask
from omnifed.privacy.secagg.errors import refused_request, revealed_before
from omnifed.privacy.secagg.fixed import Layout
from omnifed.privacy.secagg.keys import Session
from omnifed.privacy.secagg.records import sha256
from omnifed.privacy.secagg.session import begin, mask, reveal, share
from omnifed.privacy.spec import least_threshold
from omnifed.states import State
from omnifed.trust.identity import SiteIdentity
from omnifed.trust.signing import canonical
from omnifed_client.private_files import Kept, PrivateFiles
from omnifed_client.store import SiteStore


def fit(
    task: FitTask,
    state: State,
    store: SiteStore,
    identity: SiteIdentity | None,
    train: Callable[[], tuple[FitReply, State]],
) -> tuple[FitReply, State]:
    """A round's training whose update stays at the site.

    Args:
        task: with privacy ``private``.
        state: the global part, as it travelled; may be empty in a further attempt.
        store: of the campaign.
        identity: signs the keys.
        train: does the training; not called if the update of this very fit is there.

    Returns:
        A reply with the signed keys of this attempt, without any figure, and no arrays.

    Raises:
        OmniFedError: OF840 without identity, OF842 if the task contradicts itself or an earlier attempt, OF845 after
            this round was revealed, OF848 if the update cannot be part of a sum, and what ``train`` raises.
    """
    identity = _needed(identity)
    files, about = PrivateFiles(store, task.arm), _about(task)
    _check(task, identity.site, files)
    files.forget(before=task.round)
    kept, session = files.load(task.round), _session(task, identity)
    if kept and kept.task != about:
        raise refused_request("another fit than this round began with")
    if kept and kept.held.session.attempt > task.attempt:
        raise refused_request(f"attempt {task.attempt} is over")
    if files.load_vector(task.round, about) is None:
        if not state:
            raise refused_request("nothing is kept of an earlier attempt")
        files.save_vector(task.round, about, _vector(task, state, train))
    if kept is None or kept.held.session != session:
        privacy = task.privacy
        kept = Kept(task=about, held=begin(session, identity.site, privacy.threshold, privacy.sites, identity.key))
        files.save(task.round, kept)
    reply = FitReply(
        id=task.id,
        site=identity.site,
        n=0,
        steps=task.train.steps,
        loss={},
        dice=0.0,
        adopted=False,
        keys=kept.held.advert,
    )
    return reply, {}


def answer(task: PrivateTask, store: SiteStore, identity: SiteIdentity | None) -> tuple[Reply, State]:
    """One exchange of a private round.

    Raises:
        OmniFedError: OF840 without identity, OF841 to OF844 for what a site refuses.
    """
    identity = _needed(identity)
    files = PrivateFiles(store, task.arm)
    kept = files.load(task.round)
    if kept is None or kept.held.session != _session(task, identity):
        raise refused_request(f"no session of round {task.round}, attempt {task.attempt}, is open here")
    head = {"id": task.id, "site": identity.site}
    if isinstance(task, SharesTask):
        held, shared = share(kept.held, task.keys, identity.roster())
        files.save(task.round, Kept(task=kept.task, held=held))
        return SharesReply(**head, **shared.model_dump()), {}
    if isinstance(task, MaskedTask):
        vector = files.load_vector(task.round, kept.task)
        if vector is None:
            raise refused_request("the update of this round is not there any more")
        held, masked, receipt = mask(kept.held, task.inbox, vector, identity.key)
        files.save(task.round, Kept(task=kept.task, held=held))
        return MaskedReply(**head, receipt=receipt), {"masked": masked}
    if not isinstance(task, UnmaskTask):
        raise refused_request(f"an unknown exchange, {type(task).__name__}")
    held, revealed = reveal(kept.held, task.survivors, task.receipts, identity.roster())
    files.close(task.round)
    files.save(task.round, Kept(task=kept.task, held=held))
    return UnmaskReply(**head, **revealed.model_dump()), {}


def finished(task: UnmaskTask, store: SiteStore) -> None:
    """Deletes the secrets of a round whose last answer is in the store."""
    PrivateFiles(store, task.arm).forget(before=task.round + 1)


def _check(task: FitTask, site: str, files: PrivateFiles) -> None:
    privacy = task.privacy
    if task.round <= files.revealed:
        raise revealed_before(f"round {task.round} of {task.arm}; revealed up to {files.revealed}")
    if site not in privacy.sites or len(set(privacy.sites)) < len(privacy.sites):
        raise refused_request("this site is not among the sites of the round, or one comes twice")
    least = least_threshold(len(privacy.sites))
    if privacy.threshold < least:
        raise refused_request(f"threshold {privacy.threshold} of {len(privacy.sites)} sites, at least {least}")
    if task.upload != "global" or task.wire != "fp32":
        raise OmniFedError(
            "OF848",
            "A private round adds up the same arrays of all sites: one student, its whole global part.",
            seen=f"upload {task.upload}, wire {task.wire}",
            remedy="Train one student at all sites and leave wire at fp32, or use aggregation = mean.",
        )


def _vector(task: FitTask, state: State, train: Callable[[], tuple[FitReply, State]]) -> np.ndarray:
    """The site's part of the sum: its weighted, clipped update and its figures."""
    reply, trained = train()
    privacy = task.privacy
    figures = {"dice": reply.dice, "adopted": float(reply.adopted), "accepted": float(reply.accepted)}
    figures |= {f"loss/{name}": value for name, value in reply.loss.items()}
    figures |= {f"scales/{name}": value for name, value in reply.scales.items()}
    share_ = share_of(reply.n, privacy.weighting, privacy.most_cases)
    return Layout(state, len(privacy.sites), privacy.clip).encode(trained, share_, figures)


def _session(task: FitTask | PrivateTask, identity: SiteIdentity) -> Session:
    return Session(
        federation=identity.kit.federation,
        campaign=task.campaign,
        arm=task.arm,
        round=task.round,
        attempt=task.attempt,
    )


def _about(task: FitTask) -> str:
    return sha256(canonical(task.model_dump(mode="json", exclude={"id", "attempt", "protocol"})))


def _needed(identity: SiteIdentity | None) -> SiteIdentity:
    if identity is None:
        raise OmniFedError(
            "OF840",
            "A private round needs sites and a coordinator that can prove who they are.",
            seen="this site has no identity",
            remedy="Enrol and join (omnifed-client enrol, join); without identities use aggregation = mean.",
        )
    return identity
