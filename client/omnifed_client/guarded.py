"""Between the federation and a site's executor: the site's policy, its audit log, and what is said of few patients."""

from __future__ import annotations

import hashlib
import json
import logging
from datetime import date
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from omnifed.config import Frozen
from omnifed.errors import OmniFedError
from omnifed.federation.executor import Executor
from omnifed.federation.tasks import (
    ExportReply,
    FailedReply,
    FitTask,
    HelloTask,
    PrivateTask,
    Reply,
    Task,
    TrialTask,
)
from omnifed.files import write_atomic
from omnifed.privacy.spec import PrivacySpec, least_threshold
from omnifed.privacy.suppress import suppress
from omnifed.states import State
from omnifed.trust.audit import AuditLog, What, own_keys
from omnifed.trust.identity import SiteIdentity
from omnifed.trust.locked import locked
from omnifed.trust.policy import FILE, SIGNATURE, Policy, first_policy, policy_hash, read_policy
from omnifed.trust.roster import Roster
from omnifed.trust.signing import fingerprint
from omnifed_client.config import ClientConfig
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
        first_policy(folder, identity.key)
    return read_policy(folder, own_keys(identity))


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
    """

    policy: str = ""
    campaigns: dict[str, tuple[str, ...]] = {}


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
        self.folder, self.site = store.folder / "identity", site

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
                _refuse("OF823", "A site's policy bounds the number of campaigns.", f"{len(served.campaigns)} so far")
            if isinstance(task, FitTask):
                asked.add(_training(task))
                if len(asked) > self.policy.max_rounds:
                    _refuse("OF823", "A site's policy bounds the trainings of a campaign.", f"{len(asked)} asked for")
            campaigns = {**served.campaigns, task.campaign: tuple(sorted(asked))}
            now = Served(policy=seen, campaigns=campaigns)
            if now != served:
                write_atomic(file, now.model_dump_json().encode(), mode=0o600)

    def _refusal(self, task: Task, error: OmniFedError) -> FailedReply:
        try:
            self._note("refused", task, code=error.code)
        except OmniFedError as broken:
            return self._failed(task, broken)
        return self._failed(task, error)

    def _note_end(self, task: Task, reply: Reply) -> None:
        if isinstance(task, HelloTask):
            return
        if isinstance(reply, FailedReply):
            self._note("failed", task, code=reply.code)
            return
        if isinstance(task, FitTask):
            dp = task.privacy.dp
            self._note("finished", task, round=task.round, mode=task.privacy.mode, epsilon=dp.epsilon if dp else 0.0)
        else:
            self._note("finished", task)
        if isinstance(reply, ExportReply):
            self._note("exported", task, sha256=reply.sha256)

    def _note(self, what: What, task: Task, **fields: str | int | float) -> None:
        if self.audit:
            self.audit.add(what, kind=task.kind, task=task.id, **fields)

    def _failed(self, task: Task, error: OmniFedError) -> FailedReply:
        return FailedReply(id=task.id, site=self.site, code=error.code, rule=error.rule)


def narrow(task: Task, policy: Policy, roster: Roster | None, today: date | None = None) -> Task:
    """The task as the policy permits it: the smaller epsilon holds; everything else is permitted or refused, as all
    sites of a campaign must do the same.

    Args:
        task: no greeting.
        policy: of the site.
        roster: that the site holds; None without identity.
        today: for tests.

    Raises:
        OmniFedError: OF821 to OF825.
    """
    policy.check_date(today)
    kind = "fit" if isinstance(task, PrivateTask) else task.kind
    if task.purpose not in policy.purposes:
        _refuse("OF822", "A site serves the purposes that its policy lists.", task.purpose)
    if kind not in policy.tasks:
        _refuse("OF822", "A site serves the kinds of task that its policy lists.", kind)
    if isinstance(task, PrivateTask) and "private" not in policy.modes:
        _refuse("OF822", "Weights leave a site in the modes that its policy lists.", "private")
    if isinstance(task, TrialTask) and policy.require_dp:
        _refuse("OF825", "This site trains with differential privacy only.", task.kind)
    return _narrow_fit(task, policy, roster) if isinstance(task, FitTask) else task


def _narrow_fit(task: FitTask, policy: Policy, roster: Roster | None) -> FitTask:
    asked = task.privacy
    if task.upload != "none" and asked.mode not in policy.modes:
        _refuse("OF822", "Weights leave a site in the modes that its policy lists.", asked.mode)
    if asked.mode == "private":
        _check_private(asked, policy, roster)
    if asked.dp is None:
        if policy.require_dp:
            _refuse("OF825", "This site trains with differential privacy only.", task.kind)
        return task
    if not policy.epsilon or asked.dp.epsilon <= policy.epsilon:
        return task
    dp = asked.dp.model_copy(update={"epsilon": policy.epsilon})
    return task.model_copy(update={"privacy": asked.model_copy(update={"dp": dp})})


def _check_private(asked: PrivacySpec, policy: Policy, roster: Roster | None) -> None:
    if len(asked.sites) < policy.min_sites:
        _refuse("OF824", "A private round needs as many sites as the site's policy asks for.", f"{len(asked.sites)}")
    if asked.threshold < (policy.min_threshold or least_threshold(len(asked.sites))):
        _refuse("OF824", "A private round needs the threshold that the site's policy asks for.", f"{asked.threshold}")
    for site, wanted in policy.partners.items():
        keys = roster.keys_of(site) if roster and site in asked.sites else ()
        if wanted.replace(" ", "") not in {fingerprint(key).replace(" ", "") for key in keys}:
            _refuse("OF824", "A private round needs the partners that the site's policy names, with their keys.", site)


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
        _refuse("OF823", rule, f"{file} is damaged")


def _refuse(code: str, rule: str, seen: str) -> NoReturn:
    raise OmniFedError(
        code,
        rule,
        seen=seen,
        remedy="The site decides: omnifed-client policy show --site NAME; or leave the site out of this campaign.",
    )
