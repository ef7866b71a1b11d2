"""A campaign over any pool of sites: its stages in order, and what a coordinator may write down of them."""

from __future__ import annotations

import json
import logging
import platform
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import omnifed
from omnifed.errors import OmniFedError
from omnifed.evaluation.tables import TEACHER, MetricRow, metric_rows, write_metrics
from omnifed.federation.replies import EvaluateReply, ExportReply, HelloReply
from omnifed.files import write_json
from omnifed.models.base import SiteSpec
from omnifed.models.scaling import architecture_key, costs
from omnifed.transport.pool import TaskPool
from omnifed.trust.identity import CoordinatorIdentity
from omnifed_server.arm import ArmResult
from omnifed_server.federation_file import FederationConfig
from omnifed_server.model_card import write_card
from omnifed_server.plan import DISTILLED, EXPORTED, Facts, Plan, planned
from omnifed_server.private_round import no_identity
from omnifed_server.rounds import OnEvent
from omnifed_server.searches import search
from omnifed_server.settings import SEARCHES
from omnifed_server.stages import Stages

ABOUT = ("role", "campaign", "versions", "machine")
"""Keys of config.json beside the configuration."""
_PATHS = {"identity", "folder"}
log = logging.getLogger("omnifed.server")


@dataclass(frozen=True)
class CampaignResult:
    """What a campaign ended with.

    Attributes:
        arms: by name, in the order in which they ran.
        metrics: rows of ``metrics.csv``.
        exports: by site.
    """

    arms: dict[str, ArmResult]
    metrics: tuple[MetricRow, ...]
    exports: dict[str, ExportReply]


def run_campaign(pool: TaskPool, config: FederationConfig, folder: Path, on_event: OnEvent) -> CampaignResult:
    """Runs a campaign to its end, from where ``folder`` says it stands.

    Args:
        pool: the sites.
        config: the federation file.
        folder: RUN; what is there is continued.
        on_event: told of the campaign, its stages and all that the sites answer.

    Raises:
        OmniFedError: OF116 if ``folder`` belongs to another configuration, OF530 if the quorum is not there in time,
            OF531 if a stage has no quorum, OF533 for a stage before the one that it builds on, and what
            :func:`~omnifed_server.rounds.run_arm` raises.
    """
    unique, found = open_folder(config, folder)
    on_event("campaign", {"state": "resumed" if found else "started", "name": config.name})
    try:
        result = _Campaign(pool, config, unique, folder, on_event).run()
    except OmniFedError as error:
        on_event("campaign", {"state": "failed", "name": config.name, "code": error.code, "rule": error.rule})
        raise
    except Exception as error:
        log.exception("the campaign failed")
        rule = f"A campaign must not end in an unforeseen way ({type(error).__name__}); the coordinator's log says why."
        on_event("campaign", {"state": "failed", "name": config.name, "code": "OF535", "rule": rule})
        raise
    on_event("campaign", {"state": "finished", "name": config.name})
    return result


def open_folder(config: FederationConfig, folder: Path) -> tuple[str, bool]:
    """Makes RUN, or checks that it belongs to this campaign.

    Returns:
        The campaign's unique name, under which the sites keep its models, and whether RUN was there.

    Raises:
        OmniFedError: OF116 if it belongs to another configuration.
    """
    file = folder / "config.json"
    found = file.is_file()
    unique = f"{config.name}-{secrets.token_hex(4)}"
    if found:
        old, new = json.loads(file.read_bytes()), config.lasting()
        unique = old["campaign"]
        kept = {**old, **{name: {k: v for k, v in (old.get(name) or {}).items() if k != "budget"} for name in SEARCHES}}
        # A folder of an older release lacks keys that came later: these have their defaults.
        changed = sorted(key for key in new if key in old and new[key] != kept[key])
        if changed:
            raise OmniFedError(
                "OF116",
                "A campaign goes on with the settings that it began with.",
                seen=", ".join(f"{key}: {new[key]!r}, stored {old.get(key)!r}" for key in changed),
                remedy="Restore them, or give the new campaign another name.",
            )
    about = {
        "role": "coordinator",
        "campaign": unique,
        "versions": {"omnifed": omnifed.__version__, "python": platform.python_version()},
        "machine": {"system": platform.platform()},
    }
    # Paths of this machine are nobody else's business: a run folder is passed on.
    settings = config.model_dump(mode="json", exclude=_PATHS)
    write_json(file, {**settings, **about})
    return unique, found


def plan_of(config: FederationConfig, campaign: str) -> Plan:
    """What the stages need of a federation file, for the campaign of that unique name."""
    return replace(
        planned(config, campaign, config.sites, config.precision),
        purpose=config.purpose,
        gate=config.gate,
        needed=config.needed,
        architecture=config.architecture if "search-architecture" in config.stages else None,
        weights=config.weights if "search-weights" in config.stages else None,
    )


class _Campaign:
    """One run of a campaign."""

    def __init__(
        self, pool: TaskPool, config: FederationConfig, campaign: str, folder: Path, on_event: OnEvent
    ) -> None:
        self.pool, self.config, self.folder, self.on_event = pool, config, folder, on_event
        identity = CoordinatorIdentity.load(Path(config.identity)) if config.identity else None
        if config.aggregation.mode == "private" and identity is None:
            raise no_identity()  # now, not after hours of teaching
        self.stages = Stages(plan_of(config, campaign), pool, folder, on_event, identity)
        self.rows: list[MetricRow] = []
        self.units: dict[str, str] = {}
        self.arms: dict[str, ArmResult] = {}

    def run(self) -> CampaignResult:
        self._gather()
        write_json(self.folder / "sites.json", about_sites(self.stages.prepare(), self.units))
        taught = self._teach()
        self.stages.plan = search(self.stages, taught)
        for arm in self.config.arms:
            self._arm(arm, taught)
        self._describe({})
        exports = self._export() if "export" in self.config.stages else {}
        self._describe(exports)
        if self.arms:
            write_card(self.folder)
        return CampaignResult(self.arms, tuple(self.rows), exports)

    def _gather(self) -> None:
        """Waits for the quorum, and says who is no part of the campaign."""
        wanted, needed = self.config.sites, self.config.needed
        found = self.pool.hello()
        if len(set(wanted) & set(found)) < needed:
            rule = "A campaign begins when its quorum of sites is connected."
            tell = {"name": self.config.name, "code": "OF530", "rule": rule}
            self.on_event("campaign", {"state": "waiting", **tell})
        found = self.pool.wait_for(wanted, needed, self.config.wait_s)
        for stranger in sorted(set(found) - set(wanted)):
            rule = "A site must be named in the federation file to take part."
            self.on_event("site", {"site": stranger, "state": "refused", "code": "OF532", "rule": rule})
        missing = [site for site in wanted if site not in found]
        if len(wanted) - len(missing) < needed:
            raise OmniFedError(
                "OF530",
                f"A campaign needs {needed} of its {len(wanted)} sites to be connected.",
                seen=f"after {self.config.wait_s:g} s missing: {', '.join(missing)}",
                remedy="Start omnifed-client at these sites, then start the coordinator again.",
            )

    def _teach(self) -> tuple[str, ...]:
        if DISTILLED not in self.config.arms:
            return ()
        if "teach" not in self.config.stages:
            # Taught before, in this campaign or in another one: a site without its teacher says so when it trains.
            record = self.folder / "taught.json"
            return tuple(json.loads(record.read_bytes())) if record.is_file() else self.config.sites
        taught = self.stages.teach()
        if "evaluate" in self.config.stages:
            self._score(TEACHER, self.stages.test_teachers(taught))
        return taught

    def _arm(self, arm: str, taught: tuple[str, ...]) -> None:
        finished = len(list((self.folder / "arms" / arm).glob("round-*.json")))
        if "train" not in self.config.stages and finished < self.config.rounds:
            if not {"evaluate", "export"} & set(self.config.stages):
                return
            raise OmniFedError(
                "OF533",
                "A stage comes after the one that it builds on: train before evaluate and export.",
                seen=f"{arm} has finished {finished} of {self.config.rounds} rounds",
                remedy='Add "train" to stages, or name the folder of the campaign that was trained.',
            )
        result = self.arms[arm] = self.stages.train(arm, taught)
        fields = {"arm": arm, "seconds": result.seconds, "bytes": result.bytes_up + result.bytes_down}
        if "evaluate" in self.config.stages:
            self.on_event("stage", {"stage": "test", "total": len(self.config.sites)})
            self._score(arm, self.stages.test(arm, self.stages.adopt(arm, result)))
        self.on_event("arm", fields)

    def _score(self, arm: str, replies: Mapping[str, EvaluateReply]) -> None:
        for site, reply in replies.items():
            self.rows += metric_rows(arm, site, "test", reply.scores)
            self.units[site] = next((score.unit for score in reply.scores if score.unit), "")
        write_metrics(self.folder / "metrics.csv", self.rows)

    def _export(self) -> dict[str, ExportReply]:
        return self.stages.export(self._exported)

    @property
    def _exported(self) -> str:
        return next(arm for arm in EXPORTED if arm in self.config.arms)

    def _describe(self, exports: Mapping[str, ExportReply]) -> None:
        """Writes sites.json and costs.json, with those that joined late."""
        facts = self.stages.known(tuple({row.site for row in self.rows}))
        write_json(self.folder / "sites.json", about_sites(facts, self.units))
        size = max(facts.hellos.values(), key=lambda hello: hello.image_size[0] * hello.image_size[1]).image_size
        student = self.stages.plan.largest
        cost = costs(student, SiteSpec(channels=facts.channels, classes=facts.classes), size)
        about: dict[str, Any] = {
            "student": architecture_key(student),
            "params": cost.params,
            "macs": cost.macs,
            "size": " x ".join(map(str, size)),
        }
        if exports:
            about |= {"onnx_bytes": max(reply.bytes for reply in exports.values()), "exported_arm": self._exported}
        write_json(self.folder / "costs.json", about)


def about_sites(facts: Facts, units: Mapping[str, str]) -> list[dict[str, Any]]:
    """sites.json as a coordinator can know it: counts, never a case.

    Args:
        facts: what the sites said of themselves.
        units: of HD95, by site.
    """
    return [_about(hello, units.get(site, "")) for site, hello in facts.hellos.items()]


def _about(hello: HelloReply, unit: str) -> dict[str, Any]:
    keys = {"modality", "channels", "labels", "image_size", "train", "unlabelled", "val", "test"}
    skipped = [{"code": "", "reason": "named at the site", "count": hello.skipped}] if hello.skipped else []
    return {
        "name": hello.site,
        **hello.model_dump(mode="json", include=keys),
        "held_out": False,
        "unit": unit,
        "skipped": skipped,
    }
