"""A coordinator's campaign over the in-process grid, with real executors on two tiny sites made by hand."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from two_hospitals import NO_EXPORT, SITES, Killed, World, config, site_data, split

from omnifed.config import parse
from omnifed.data.prepare import SiteData
from omnifed.errors import OmniFedError
from omnifed.federation.replies import FailedReply, HelloReply
from omnifed.federation.tasks import EvaluateTask, ExportTask, FitTask, Task, TeachTask
from omnifed.models.spec import StudentSpec
from omnifed.reporting.report import write_report
from omnifed.teachers.spec import TeacherSpec
from omnifed_server.campaign import CampaignResult, open_folder, plan_of
from omnifed_server.federation_file import FederationConfig, load_federation
from omnifed_server.plan import Facts, arm_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, CampaignResult]:
    world = World(tmp_path_factory.mktemp("finished"))
    return world, world.start(config())


def test_all_stages_leave_what_was_promised(finished: tuple[World, CampaignResult]) -> None:
    world, result = finished
    assert list(result.arms) == ["local", "omnikd"]
    assert set(result.exports) == set(SITES)
    for site in SITES:
        (file,) = (world.folder / site).glob("campaigns/test-*/models/omnikd/model.onnx")
        assert file.stat().st_size == result.exports[site].bytes
    with (world.run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["arm", "site", "split", "class", "metric", "mean", "ci_low", "ci_high", "n"]
    assert {(r["arm"], r["site"]) for r in rows} == {(a, s) for a in ("teacher", "local", "omnikd") for s in SITES}
    assert [e["state"] for e in world.of("campaign")] == ["started", "finished"]
    assert [e["stage"] for e in world.of("stage")] == ["prepare", "teach", "local", "test", "omnikd", "test", "export"]
    assert not world.of("miss")
    assert json.loads((world.run / "costs.json").read_text())["exported_arm"] == "omnikd"


def test_nothing_of_a_case_reaches_the_coordinator(finished: tuple[World, CampaignResult]) -> None:
    world, _ = finished
    for path in world.run.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"PATIENT" not in content, path
            assert str(world.folder).encode() not in content, path


def test_the_report_is_built_of_figures_alone_and_counts_bytes(finished: tuple[World, CampaignResult]) -> None:
    world, _ = finished
    page = write_report(world.run).read_text()
    assert "cases and images stay at the sites" in page
    assert "synthetic phantoms" not in page
    assert "cases.csv is not in this run folder" not in page
    assert "<img" not in page
    for round_ in (0, 1):
        record = json.loads((world.run / "arms" / "omnikd" / f"round-{round_:04d}.json").read_text())
        assert record["bytes_up"] > 0
        for number in (record["bytes_up"], record["bytes_down"]):
            assert f"{number:,}".replace(",", "\u2009") in page


def test_a_finished_campaign_asks_nothing_and_changes_nothing(finished: tuple[World, CampaignResult]) -> None:
    world, result = finished
    before = world.final()
    world.asked.clear()
    again = world.start(config())
    assert [task for _, task in world.asked if not task.startswith("hello")] == []
    assert world.final() == before
    assert again.metrics == result.metrics


PLACES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("campaign", {}), ("stage", {"stage": "teach"}), ("teach", {}), ("evaluate", {"arm": "teacher"}),
    ("aggregate", {"arm": "omnikd", "round": 0}), ("round", {"arm": "omnikd", "round": 1}),
    ("evaluate", {"which": "global"}), ("evaluate", {"which": "adopted", "arm": "omnikd"}), ("export", {}),
)  # fmt: skip
"""Events in the order in which they come."""


def test_killed_in_one_stage_after_another_it_ends_in_the_same_bytes(
    finished: tuple[World, CampaignResult], tmp_path: Path
) -> None:
    world = World(tmp_path)
    for event, about in PLACES:

        def here(seen: str, values: dict[str, Any], event: str = event, about: dict[str, Any] = about) -> bool:
            return seen == event and about.items() <= values.items() and not values.get("again")

        with pytest.raises(Killed):
            world.start(config(), kill=here)
    world.start(config())
    states = [values["state"] for values in world.of("campaign")]
    assert states == ["started", *["resumed"] * len(PLACES), "finished"]
    assert world.final() == finished[0].final()
    assert (world.run / "costs.json").read_bytes() == (finished[0].run / "costs.json").read_bytes()
    counted = [(e["arm"], e["round"], e["site"]) for e in world.of("round") if not e.get("again")]
    assert len(counted) == len(set(counted))


def failing(*kinds: type) -> Callable[[str, Task], bool]:
    return lambda site, task: site == "east" and isinstance(task, kinds)


@pytest.mark.parametrize("kind", [TeachTask, FitTask, EvaluateTask, ExportTask], ids=lambda kind: kind.__name__)
def test_a_site_that_fails_a_stage_is_a_counted_miss(tmp_path: Path, kind: type) -> None:
    world = World(tmp_path, failing(kind))
    stages = (*NO_EXPORT, "export") if kind is ExportTask else NO_EXPORT
    result = world.start(config(arms=("omnikd",), stages=stages))
    misses = world.of("miss")
    assert {(m["site"], m["code"]) for m in misses} >= {("east", "OF511")}
    assert {m["site"] for m in misses} == {"east"}
    assert world.of("campaign")[-1]["state"] == "finished"
    assert ("omnikd", "north") in {(row.arm, row.site) for row in result.metrics}
    assert write_report(world.run).is_file()


def test_below_the_quorum_a_stage_ends_the_campaign_and_resuming_asks_only_the_missing_site(tmp_path: Path) -> None:
    world = World(tmp_path, failing(TeachTask))
    settings = config(arms=("omnikd",), quorum=2, stages=NO_EXPORT)
    with pytest.raises(OmniFedError, match=r"OF531.*teach needs 2 of 2 sites(.|\n)*east \(OF511\)"):
        world.start(settings)
    last = world.of("campaign")[-1]
    assert (last["state"], last["code"]) == ("failed", "OF531")
    asked = [task for site, task in world.asked if site == "east" and "teach" in task]
    assert [task.partition(".")[2] for task in asked] == ["teach.east"] * 2
    world.fault = lambda site, task: False
    world.asked.clear()
    world.start(settings)
    assert [again for again in world.asked if ".teach." in again[1]] == [("east", asked[0])]


def test_who_is_missing_at_the_start_is_named(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(OmniFedError, match=r"OF530(.|\n)*missing: east"):
        world.start(config(quorum=2), sites=("north",))
    assert [e["state"] for e in world.of("campaign")] == ["started", "waiting", "failed"]


def test_a_site_of_another_campaign_is_told_and_not_asked(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.start(config(sites=("north",), arms=("local",), stages=("train",)), sites=SITES)
    (refused,) = [e for e in world.of("site") if e["state"] == "refused" and e.get("code") == "OF532"]
    assert refused["site"] == "east"
    assert {site for site, task in world.asked if not task.startswith("hello")} == {"north"}


def test_a_figure_that_is_no_number_is_a_miss(tmp_path: Path) -> None:
    from omnifed_server.answers import _fault

    reply = FailedReply(id="x", site="a", code="OF103", rule="r")
    assert _fault(reply, HelloReply) == ("OF103", "r")
    hello = HelloReply(
        id="x", site="a", version="1", channels=1, classes=2, labels=("b",), modality="mri", image_size=(32, 32),
        train=1, val=1, test=1, seconds=1.0,
    )  # fmt: skip
    assert _fault(hello, HelloReply) is None
    assert _fault(hello.model_copy(update={"seconds": float("nan")}), HelloReply)[0] == "OF505"
    assert _fault(hello, FailedReply)[0] == "OF504"


def test_stages_can_be_run_one_by_one(finished: tuple[World, CampaignResult], tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(OmniFedError, match="OF533"):
        world.start(config(stages=("evaluate",)))
    for stages in (("prepare",), ("teach",), ("train",), ("teach", "evaluate")):
        world.start(config(stages=stages))
    ours, theirs = world.final(), finished[0].final()
    assert ours == theirs


def test_a_campaign_keeps_its_settings_but_not_its_port(tmp_path: Path) -> None:
    first, found = open_folder(config(), tmp_path)
    assert not found
    assert open_folder(config(port=9000, wait_s=5, stages=("train",)), tmp_path) == (first, True)
    assert open_folder(config(), tmp_path / "another")[0] != first
    with pytest.raises(OmniFedError, match=r"OF116(.|\n)*rounds: 3, stored 2"):
        open_folder(config(rounds=3), tmp_path)


def test_a_folder_of_an_older_release_goes_on_without_the_keys_that_it_lacks(tmp_path: Path) -> None:
    first, _ = open_folder(config(), tmp_path)
    file = tmp_path / "config.json"
    stored = json.loads(file.read_bytes())
    file.write_text(json.dumps({key: stored[key] for key in stored if key not in ("architecture", "weights")}))
    assert open_folder(config(), tmp_path) == (first, True)


def test_simulation_and_field_mean_the_same_by_a_method() -> None:
    from omnifed_sim.campaign import plan_of as sim_plan
    from omnifed_sim.config import SimConfig

    field = config()
    same = {key: getattr(field, key) for key in ("rounds", "steps", "batch_size", "student", "teacher")}
    ours, theirs = plan_of(field, "sim"), sim_plan(SimConfig(**same), SITES, "fp32")
    hellos = {
        site: HelloReply(
            id="x", site=site, version="1", channels=1, classes=2, labels=("b", "s"), modality="mri",
            image_size=(32, 32), train=1, val=1, test=1,
        )
        for site in SITES
    }  # fmt: skip
    for apart in ((), ("stem", "head")):
        facts = Facts(hellos, apart, 1, 2)
        for arm in ("local", "fedavg", "fedprox", "fedbn", "omnikd"):
            a, b = arm_config(ours, arm, facts, SITES), arm_config(theirs, arm, facts, SITES)
            assert a == b


def test_under_differential_privacy_omnikd_is_its_logits_term_at_a_published_scale() -> None:
    public = TeacherSpec(kind="onnx", checkpoint="public.onnx", sha256="0" * 64, public=True)
    private = {"student": "omnisegnet:compact,norm=group", "teacher": public.model_dump(), "dp": {}}
    plan = plan_of(parse(FederationConfig, {**config().model_dump(), **private}, "the test"), "sim")
    hello = HelloReply(
        id="x", site="a", version="1", channels=1, classes=2, labels=("b", "s"), modality="ct", image_size=(32, 32),
        train=1, val=1, test=1,
    )  # fmt: skip
    made = arm_config(plan, "omnikd", Facts(dict.fromkeys(SITES, hello), (), 1, 2), SITES)
    assert made.teacher
    assert made.teacher.public
    assert made.distill
    for distill in made.distill.values():
        assert (distill.weights, distill.scales) == ({"logits": 2.0}, {"logits": 5.7})


def test_the_example_is_whole() -> None:
    example = load_federation(ROOT / "server" / "example" / "federation.toml")
    assert example.sites == ("north", "east", "west")
    assert example.needed == 2
    assert (example.teacher.train.steps, example.teacher.train.lr) == (80, 2e-3)
    assert example.student == StudentSpec(alpha=0.62, beta=0.54, stem_stride=2)
    assert example.run_folder == Path("runs/lesions-2026")


def test_only_sites_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "fed.toml"
    file.write_text('sites = ["a", "b", "c"]\nteacher = "cnn"\ninsecure = true\n')
    read = load_federation(file)
    assert (read.arms, read.needed, read.teacher.kind, read.precision) == (("omnikd",), 2, "cnn", "fp32")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("sites = []", "OF102"),
        ('sites = ["a", "a"]', "OF102"),
        ('sites = ["../a"]', "OF102"),
        ('sites = ["a"]\nquorum = 2', "OF102"),
        ('sites = ["a"]\nround = 2', "OF102"),
        ('sites = ["a"]\narms = ["central"]', "OF102"),
        ('sites = ["a"]\nteacher = 3', "OF102"),
        ('sites = ["a"]\nstudent = "omnisegnet:huge"', "OF301"),
        ('sites = ["a"', "OF101"),
    ],
)
def test_a_federation_file_that_cannot_be_is_refused(tmp_path: Path, text: str, code: str) -> None:
    file = tmp_path / "fed.toml"
    file.write_text(text)
    with pytest.raises(OmniFedError) as caught:
        load_federation(file)
    assert caught.value.code == code


def test_the_supervisor_reads_it_without_torch() -> None:
    code = "import sys, omnifed_server.federation_file; print('torch' in sys.modules, 'flwr' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_sites_without_validation_cases_take_part(tmp_path: Path) -> None:
    world = World(tmp_path)
    real = site_data

    def bare(name: str) -> SiteData:
        data = real(name)
        return replace(data, val=split(data.config, 0, 2)) if name == "east" else data

    globals()["site_data"] = bare
    try:
        world.start(config(arms=("fedbn",), stages=NO_EXPORT))
    finally:
        globals()["site_data"] = real
    assert world.of("campaign")[-1]["state"] == "finished"


def test_a_second_campaign_at_the_same_sites_never_meets_the_first_ones_models(tmp_path: Path) -> None:
    first = World(tmp_path)
    first.start(config(arms=("fedbn",), rounds=3, stages=("prepare", "train", "evaluate")))
    short = config(arms=("fedbn",), rounds=1, stages=("prepare", "train", "evaluate"))
    (tmp_path / "run").rename(tmp_path / "first-run")
    first.start(short)
    fresh = World(tmp_path / "fresh")
    fresh.start(short)
    assert first.final() == fresh.final()
