"""What a site's policy says to a task: as it is, narrowed, or refused with the number of a rule."""

from __future__ import annotations

from datetime import date
from typing import NoReturn

from omnifed.errors import OmniFedError
from omnifed.federation.tasks import FitTask, PrivateTask, Task, TrialTask
from omnifed.privacy.spec import PrivacySpec, least_threshold
from omnifed.trust.policy import Policy
from omnifed.trust.roster import Roster
from omnifed.trust.signing import fingerprint


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
        refuse("OF822", "A site serves the purposes that its policy lists.", task.purpose)
    if kind not in policy.tasks:
        refuse("OF822", "A site serves the kinds of task that its policy lists.", kind)
    if isinstance(task, PrivateTask) and "private" not in policy.modes:
        refuse("OF822", "Weights leave a site in the modes that its policy lists.", "private")
    if isinstance(task, TrialTask) and policy.require_dp:
        refuse("OF825", "This site trains with differential privacy only.", task.kind)
    return _narrow_fit(task, policy, roster) if isinstance(task, FitTask) else task


def _narrow_fit(task: FitTask, policy: Policy, roster: Roster | None) -> FitTask:
    asked = task.privacy
    if task.upload != "none" and asked.mode not in policy.modes:
        refuse("OF822", "Weights leave a site in the modes that its policy lists.", asked.mode)
    if asked.mode == "private":
        _check_private(asked, policy, roster)
    if asked.dp is None:
        if policy.require_dp:
            refuse("OF825", "This site trains with differential privacy only.", task.kind)
        return task
    if not policy.epsilon or asked.dp.epsilon <= policy.epsilon:
        return task
    dp = asked.dp.model_copy(update={"epsilon": policy.epsilon})
    return task.model_copy(update={"privacy": asked.model_copy(update={"dp": dp})})


def _check_private(asked: PrivacySpec, policy: Policy, roster: Roster | None) -> None:
    if len(asked.sites) < policy.min_sites:
        refuse("OF824", "A private round needs as many sites as the site's policy asks for.", f"{len(asked.sites)}")
    if asked.threshold < max(policy.min_threshold, least_threshold(len(asked.sites))):
        refuse("OF824", "A private round needs the threshold that the site's policy asks for.", f"{asked.threshold}")
    for site, wanted in policy.partners.items():
        keys = roster.keys_of(site) if roster and site in asked.sites else ()
        if wanted.replace(" ", "") not in {fingerprint(key).replace(" ", "") for key in keys}:
            refuse("OF824", "A private round needs the partners that the site's policy names, with their keys.", site)


def refuse(code: str, rule: str, seen: str) -> NoReturn:
    """Refuses: number and rule leave the site, ``seen`` does not."""
    raise OmniFedError(
        code,
        rule,
        seen=seen,
        remedy="The site decides: omnifed-client policy show --site NAME; or leave the site out of this campaign.",
    )
