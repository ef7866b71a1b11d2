"""Between the federation and a site's executor: the site's policy, its audit log, and what is said of few patients."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from pydantic import Field, ValidationError

from omnifed.config import Frozen
from omnifed.errors import OmniFedError
from omnifed.federation.executor import Executor
from omnifed.federation.replies import ExportReply, FailedReply, Reply
from omnifed.federation.suppress import suppress
from omnifed.federation.tasks import FitTask, HelloTask, Task, UnmaskTask
from omnifed.files import locked, write_atomic
from omnifed.privacy.dp import ledger
from omnifed.states import State
from omnifed.trust.audit import AuditLog, own_keys
from omnifed.trust.audit_entry import What
from omnifed.trust.identity import SiteIdentity
from omnifed.trust.policy import FILE, SIGNATURE, Policy, policy_hash, read_policy, renew_signature
from omnifed.trust.proposal import first_policy
from omnifed_client.config import ClientConfig
from omnifed_client.permission import narrow, refuse
from omnifed_client.store import SiteStore

log = logging.getLogger("omnifed.client")
SERVED = "served.json"
"""In the identity folder: what the policy counts."""


def identity_of(config: ClientConfig) -> SiteIdentity | None:
    """The site's identity; None with ``insecure``.

    Raises:
        OmniFedError: OF804 if the site has not joined, OF801 or OF802 if a file is damaged.
    """
    return None if config.insecure else SiteIdentity.load(config.identity)


def policy_of(config: ClientConfig, identity: SiteIdentity | None) -> Policy | None:
    """The policy in force; a site that has never worked under one gets a cautious one, signed.

    Without an identity nobody can sign: a file that is there holds all the same, and where there is none, nothing is
    forbidden.

    Raises:
        OmniFedError: OF820 if it is not signed, OF821 if it has expired, OF101 or OF102 if it cannot be read.
    """
    folder = config.identity
    if identity is None:
        return read_policy(folder, None) if (folder / FILE).is_file() else None
    if not any((folder / name).exists() for name in (FILE, SIGNATURE, SERVED)):
        first_policy(folder, identity.key, identity.kit.policy)
    policy = read_policy(folder, own_keys(identity))
    renew_signature(folder, identity.key)
    return policy


def guarded(config: ClientConfig, inner: Executor, policy: Policy | None, identity: SiteIdentity | None) -> Executor:
    """``inner`` behind the site's policy and audit log; as it is where there is neither."""
    if policy is None and identity is None:
        return inner
    audit = AuditLog.of(config.state, identity) if identity else None
    return GuardedExecutor(inner, policy, identity, audit, SiteStore(config.state), config.site)


class Served(Frozen):
    """What the policy counts.

    Attributes:
        policy: hash of the one that was last in force.
        campaigns: by name, digests of the trainings that each has asked for.
        releases: of differential privacy that the audit log has.
    """

    policy: str = ""
    campaigns: dict[str, tuple[str, ...]] = {}
    releases: int = Field(0, ge=0)


class GuardedExecutor:
    """Executes what the policy permits, and notes it. Never raises for what a site can cause, as its inner executor.

    Args:
        inner: does the work.
        policy: of the site; None permits everything.
        identity: of the site; None where there is none.
        audit: of the site; None without identity.
        store: of the site; the counts lie in its identity folder.
        site: registered name.
    """

    def __init__(
        self,
        inner: Executor,
        policy: Policy | None,
        identity: SiteIdentity | None,
        audit: AuditLog | None,
        store: SiteStore,
        site: str,
    ) -> None:
        self.inner, self.policy, self.identity, self.audit = inner, policy, identity, audit
        self.folder, self.state, self.site = store.folder / "identity", store.folder, site

    def execute(self, task: Task, state: State) -> tuple[Reply, State]:
        """Does one task, or refuses it with the number of the rule that it breaks."""
        try:
            permitted = self._permitted(task)
        except OmniFedError as error:
            log.error("task %s is refused: %s", task.id, error)
            return self._refusal(task, error), {}
        reply, upload = self.inner.execute(permitted, state)
        try:
            self._note_end(task, reply)
        except OmniFedError as error:  # what cannot be audited does not leave
            log.error("the reply to task %s is kept: %s", task.id, error)
            return self._failed(task, error), {}
        return (suppress(reply, self.policy.min_cases) if self.policy else reply), upload

    def _permitted(self, task: Task) -> Task:
        if self.policy is None:
            return task
        self.policy.check_date()
        if isinstance(task, HelloTask):
            return task
        roster = self.identity.roster() if self.identity else None
        narrowed = narrow(task, self.policy, roster)
        self._count(task)
        return narrowed

    def _count(self, task: Task) -> None:
        """Counts campaigns and trainings, on disk before they begin; the same training counts once."""
        assert self.policy is not None
        file = self.folder / SERVED
        with locked(self.folder / "served.lock"):
            served = _served(file)
            seen = policy_hash(self.folder)
            if served.policy != seen and self.audit:
                self.audit.add("policy", sha256=seen)
            asked = set(served.campaigns.get(task.campaign, ()))
            if task.campaign not in served.campaigns and len(served.campaigns) >= self.policy.max_campaigns:
                refuse("OF823", "A site's policy bounds the number of campaigns.", f"{len(served.campaigns)} so far")
            if isinstance(task, FitTask):
                asked.add(_training(task))
                if len(asked) > self.policy.max_rounds:
                    refuse("OF823", "A site's policy bounds the trainings of a campaign.", f"{len(asked)} asked for")
            campaigns = {**served.campaigns, task.campaign: tuple(sorted(asked))}
            _write(file, served, served.model_copy(update={"policy": seen, "campaigns": campaigns}))

    def _note_spent(self) -> None:
        """Notes what was booked in the ledger of differential privacy, also by a task that was killed since."""
        if self.audit is None:
            return
        file = self.folder / SERVED
        with locked(self.folder / "served.lock"):
            served = _served(file)
            releases = ledger.Ledger(self.state / ledger.FOLDER).releases
            for new in releases[served.releases :]:
                about = new.model_dump(include={"campaign", "arm", "round", "sigma", "rate", "steps", "delta"})
                self.audit.add("epsilon", **about)
            _write(file, served, served.model_copy(update={"releases": len(releases)}))

    def _refusal(self, task: Task, error: OmniFedError) -> FailedReply:
        try:
            self._note("refused", task, code=error.code)
        except OmniFedError as broken:
            return self._failed(task, broken)
        return self._failed(task, error)

    def _note_end(self, task: Task, reply: Reply) -> None:
        if isinstance(task, HelloTask):
            return
        if isinstance(task, FitTask) and task.privacy.dp:
            self._note_spent()
        if isinstance(reply, FailedReply):
            self._note("failed", task, code=reply.code)
            return
        self._note("finished", task, **({"mode": task.privacy.mode} if isinstance(task, FitTask) else {}))
        if isinstance(reply, ExportReply):
            self._note("exported", task, sha256=reply.sha256)
        if isinstance(task, UnmaskTask):
            self._note("session", task, round=task.round, attempt=task.attempt)

    def _note(self, what: What, task: Task, **fields: str | int | float) -> None:
        if self.audit:
            self.audit.add(what, kind=task.kind, task=task.id, **fields)

    def _failed(self, task: Task, error: OmniFedError) -> FailedReply:
        return FailedReply(id=task.id, site=self.site, code=error.code, rule=error.rule)


def _training(task: FitTask) -> str:
    """What a training is known by: all of the task but what differs where it is asked again."""
    text = json.dumps(task.model_dump(mode="json", exclude={"id", "attempt"}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _served(file: Path) -> Served:
    if not file.is_file():
        return Served()
    try:
        return Served.model_validate_json(file.read_bytes())
    except ValidationError:
        rule = "A site's policy bounds campaigns and trainings: their count must be whole."
        refuse("OF823", rule, f"{file} is damaged")


def _write(file: Path, before: Served, now: Served) -> None:
    if now != before:
        write_atomic(file, now.model_dump_json().encode(), mode=0o600)
