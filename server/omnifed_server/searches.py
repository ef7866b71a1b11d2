"""The two searches of a campaign: which student each class of devices gets, and with which weights it distils.

Both are asked through one loop and kept in one kind of journal (``RUN/search/*.jsonl``); what they found is in
``RUN/search/*.json`` and is what the campaign trains from then on. The searchers' libraries are heavy: a campaign
without a search never loads them.
"""

from __future__ import annotations

from dataclasses import replace

from omnifed.distill.spec import TermName
from omnifed.search.results import ArchitectureResult, WeightResult
from omnifed_server.plan import Plan
from omnifed_server.search_stage import read_result
from omnifed_server.stages import Stages


def search(stages: Stages, taught: tuple[str, ...]) -> Plan:
    """Does the searches that the plan names.

    Args:
        stages: of the campaign; ``stages.plan`` is what was planned so far.
        taught: sites with a teacher.

    Returns:
        The plan with what was found, also by a search that an earlier campaign of this folder did.

    Raises:
        OmniFedError: what the searchers and the loop raise; trials that were told are kept.
    """
    plan, folder = stages.plan, stages.folder / "search"
    begun = (stages.folder / "arms").is_dir()
    found = read_result(folder / "architecture.json", ArchitectureResult)
    if plan.architecture and not (found and begun):
        from omnifed_server.architecture_stage import ArchitectureSearchStage

        found = ArchitectureSearchStage(stages, plan.architecture).run()
    if found:
        students = {network.key: network.student for network in found.networks}
        chosen = {site: students[device.chosen] for device in found.devices for site in device.sites}
        stages.plan = plan = replace(plan, students=chosen)
    weights = read_result(folder / "weights.json", WeightResult)
    if plan.weights and not (weights and begun):
        from omnifed_server.weight_stage import WeightSearchStage

        weights = WeightSearchStage(stages, plan.weights, taught).run()
    if weights:
        plan = replace(plan, lambdas=trusted(weights))
    return plan


def trusted(result: WeightResult) -> dict[str, dict[TermName, float]]:
    """The weights that a site is to distil with, by site: its own, or those for all, if they are told apart from
    Table 3's mean by the data. A site without either keeps what was published.
    """
    chosen = {}
    for own in result.sites:
        found = next((one for one in (own, result.universal) if one.gain.low > 0), None)
        if found:
            chosen[own.site] = found.weights
    return chosen
