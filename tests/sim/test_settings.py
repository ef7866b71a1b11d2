"""From options and a TOML file to one configuration; which sites take part; what unlike sites share."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnifed.errors import OmniFedError
from omnifed.events import EventLog
from omnifed.federation.replies import HelloReply
from omnifed.models.spec import StudentSpec
from omnifed.privacy.spec import DPSpec
from omnifed_sim.campaign import layers_apart
from omnifed_sim.config import SimConfig
from omnifed_sim.options import settings
from omnifed_sim.sites import site_folders


def test_options_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "sim.toml"
    file.write_text('rounds = 7\nsteps = 9\n[teacher]\nkind = "cnn"\n')
    given = {"steps": 11, "student": "omnisegnet:balanced", "teacher_steps": 5, "deadline": 3.0}
    config = settings(file, given)
    assert (config.rounds, config.steps, config.deadline_s) == (7, 11, 3.0)
    assert (config.teacher.kind, config.teacher.train.steps) == ("cnn", 5)
    assert config.student == StudentSpec(alpha=1.0, beta=1.0)


def test_a_simulation_reads_student_and_teacher_as_a_federation_does(tmp_path: Path) -> None:
    file = tmp_path / "sim.toml"
    file.write_text('student = "omnisegnet:balanced"\n[teacher.train]\nsteps = 5\n')
    config = settings(file, {})
    assert config.student == StudentSpec(alpha=1.0, beta=1.0)
    assert (config.teacher.train.steps, config.teacher.train.schedule) == (5, "poly")


def test_rounds_make_one_schedule() -> None:
    train = SimConfig(rounds=4, steps=25).train_spec("fp32")
    assert (train.steps, train.total_steps, train.precision) == (25, 100, "fp32")


@pytest.mark.parametrize(
    "values",
    [{"arms": ()}, {"arms": ("local", "local")}, {"image_size": 100}, {"split": "isic:1"}, {"split": "isic:4"}],
)
def test_a_configuration_that_cannot_run_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"Value error|match pattern"):
        SimConfig.model_validate(values)


def hello(site: str, channels: int, labels: tuple[str, ...], modality: str = "ct") -> HelloReply:
    return HelloReply(
        id="h", site=site, version="0", channels=channels, classes=len(labels), labels=labels, modality=modality,
        image_size=(32, 32), train=1, val=1, test=1,
    )  # fmt: skip


def test_unlike_sites_keep_stem_and_head() -> None:
    a, b = ("background", "liver"), ("background", "lesion")
    assert layers_apart([hello("x", 1, a), hello("y", 1, a)]) == ()
    assert layers_apart([hello("x", 1, a), hello("y", 3, a)]) == ("stem", "head")
    assert layers_apart([hello("x", 1, a), hello("y", 1, b)]) == ("stem", "head")
    assert layers_apart([hello("x", 1, a), hello("y", 1, a, "mri")]) == ("stem", "head")
    with pytest.raises(OmniFedError, match="OF113"):
        layers_apart([])


def make_site(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "index.csv").write_text("image,mask,patient\na.png,,p\n")


def test_sites_are_chosen_by_name(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make_site(tmp_path / "data" / name)
    data = str(tmp_path / "data")
    assert [p.name for p in site_folders(SimConfig(data=data), tmp_path)] == ["a", "b", "c"]
    chosen = SimConfig(data=data, sites=("c",), hold_out=("a",))
    assert [p.name for p in site_folders(chosen, tmp_path)] == ["a", "c"]
    assert [p.name for p in site_folders(SimConfig(data=data + "/a"), tmp_path)] == ["a"]
    for wrong, code in [
        (SimConfig(data=data, sites=("z",)), "OF112"),
        (SimConfig(data=data, hold_out=("a", "b", "c")), "OF113"),
        (SimConfig(data=data + "/none"), "OF111"),
        (SimConfig(data=data, split="z:2"), "OF112"),
    ]:
        with pytest.raises(OmniFedError, match=code):
            site_folders(wrong, tmp_path)


def test_a_line_cut_off_by_a_crash_is_dropped_from_the_events(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).add("round", {"arm": "a"})
    with path.open("a") as file:
        file.write('{"time": 1, "eve')
    EventLog(path).add("round", {"arm": "b"})
    lines = path.read_text().splitlines()
    assert len(lines) == 2
    assert '"arm": "b"' in lines[1]


def test_epsilon_asks_for_differential_privacy_and_for_what_it_needs(tmp_path: Path) -> None:
    private = {"arms": ("fedbn",), "student": "omnisegnet:compact,norm=group", "epsilon": 3.0}
    assert settings(None, private).dp == DPSpec(epsilon=3.0)
    file = tmp_path / "sim.toml"
    file.write_text("arms = ['fedbn']\n[student]\nnorm = 'group'\n[dp]\nclip = 0.5\n")
    assert settings(file, {"epsilon": 2.0}).dp == DPSpec(epsilon=2.0, clip=0.5)
    for changes in (
        {"arms": ("omnikd",)},
        {"student": "omnisegnet:compact"},
        {"search": ("architecture",)},
        {"epsilon": 0.0},
    ):
        with pytest.raises(OmniFedError, match="OF102"):
            settings(None, {**private, **changes})
