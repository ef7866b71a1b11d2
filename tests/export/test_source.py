"""Where a student and its site are found, and what is said where they are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from omnifed.errors import OmniFedError
from omnifed.export.source import Source, find_source
from omnifed.models.base import SiteSpec
from omnifed.models.registry import build_student
from omnifed.models.spec import StudentSpec
from omnifed.models.student import Student
from omnifed.models.weights import to_state
from omnifed.states import add_prefix, write_state
from omnifed.trust.manifest import Origin
from omnifed_client.store import SiteStore

from .made_site import SPEC, write_arm, write_run, write_site


@pytest.fixture(scope="module")
def fresh() -> Student:
    return build_student(StudentSpec.parse(SPEC), SiteSpec(1, 2), seed=5)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sites")
    for name in ("north", "south"):
        write_site(root / f"folder-{name}", name, n=4)
    return root


def same(source: Source, student: Student) -> bool:
    state = to_state(student)
    return source.state.keys() == state.keys() and all(np.array_equal(source.state[k], v) for k, v in state.items())


def refused(path: Path, **options: object) -> OmniFedError:
    with pytest.raises(OmniFedError) as caught:
        find_source(path, **options)
    return caught.value


def test_a_run_knows_the_model_that_was_adopted_its_student_and_its_site(tmp_path, fresh, sites):
    run = write_run(tmp_path / "run", fresh, sites, {"local": ["south"]})
    source = find_source(run)
    assert same(source, fresh)
    assert (source.student, source.image_size) == (fresh.spec, (64, 64))
    assert (source.site.config.name, source.site.root) == ("south", sites / "folder-south")
    assert source.cache == run / "sites" / "south" / "data"


def test_the_gates_last_choice_comes_first(tmp_path, fresh, sites):
    run = write_run(tmp_path / "run", fresh, sites, {"local": ["south"]})
    final = {key: value + 1 for key, value in to_state(fresh).items()}
    SiteStore(run / "sites/south/state", "sim").save_final("local", final, 1.0)
    assert np.array_equal(find_source(run).state["head.bias"], final["head.bias"])


def test_what_an_architecture_search_chose_for_the_site(tmp_path, fresh, sites):
    run = write_run(tmp_path / "run", fresh, sites, {"omnikd": ["south"], "local": ["north"]})
    assert find_source(run, arm="omnikd", student="omnisegnet:balanced").student == StudentSpec()
    (run / "search").mkdir()
    (run / "search" / "architecture.json").write_text("{}")
    assert refused(run, arm="omnikd").code == "OF610"


def test_several_models_are_listed(tmp_path, fresh, sites):
    run = write_run(tmp_path / "run", fresh, sites, {"local": ["north", "south"], "fedbn": ["north"]})
    for options in ({}, {"arm": "local"}, {"site": "north"}, {"arm": "omnikd"}, {"arm": "fedbn", "site": "south"}):
        error = refused(run, **options)
        assert error.code == "OF611"
        assert "arms fedbn, local; sites north, south" in error.seen
    assert "asked for arm omnikd" in refused(run, arm="omnikd").seen
    assert find_source(run, arm="fedbn").site.config.name == "north"
    assert find_source(run, arm="local", site="south").site.config.name == "south"


def test_the_pooled_arm_lies_elsewhere(tmp_path, fresh, sites):
    run = write_run(tmp_path / "run", fresh, sites, {"local": ["north"]})
    write_state(run / "arms/central/north.safetensors", to_state(fresh), {})
    assert same(find_source(run, arm="central"), fresh)


def test_images_that_have_gone_must_be_named(tmp_path, fresh, sites):
    run = write_run(tmp_path / "run", fresh, tmp_path / "gone", {"local": ["north"]})
    error = refused(run)
    assert (error.code, error.remedy) == ("OF612", "Give --data SITE_FOLDER.")
    assert find_source(run, data=sites / "folder-north").site.config.name == "north"


def test_a_state_folder_needs_the_data_and_knows_the_student_of_an_exported_model(tmp_path, fresh, sites, exported):
    state = tmp_path / "state"
    write_arm(state / "campaigns/spring/arms/omnikd", fresh)
    data = sites / "folder-north"
    error = refused(state)
    assert error.code == "OF612"
    assert error.remedy == "Give --student FAMILY:PRESET and --data SITE_FOLDER."
    source = find_source(state, data=data, student=SPEC)
    assert same(source, fresh)
    assert (source.image_size, source.cache) == (None, state / "prepared")
    assert (source.identity, source.origin) == (None, Origin(campaign="spring", arm="omnikd"))
    noted = Origin(campaign="spring", arm="omnikd", mode="private", epsilon=2.0)
    (state / "campaigns/spring/arms/omnikd/origin.json").write_text(noted.model_dump_json())
    assert find_source(state, data=data, student=SPEC).identity is None  # a vault, but no kit
    (state / "identity/kit.json").touch()
    signing = find_source(state, data=data, student=SPEC)
    assert (signing.identity, signing.origin) == (state / "identity", noted)
    model = state / "campaigns/spring/models/omnikd/model.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(exported.path.read_bytes())
    assert find_source(state, data=data).student == StudentSpec(alpha=0.6, beta=0.5)
    assert find_source(state, data=data).image_size == (64, 32)  # as it was trained, whatever site.toml says today
    write_arm(state / "campaigns/autumn/arms/omnikd", fresh)
    assert "autumn/omnikd, spring/omnikd" in refused(state, data=data, student=SPEC).seen
    assert same(find_source(state, data=data, student=SPEC, arm="spring/omnikd"), fresh)


def test_a_state_folder_of_a_release_that_did_not_encrypt(tmp_path, fresh, sites):
    arm = tmp_path / "state/campaigns/spring/arms/omnikd"
    write_state(arm / "round-0000.safetensors", add_prefix("model", to_state(fresh)), {"adopted_round": 0})
    write_state(arm / "adopted-0000.safetensors", to_state(fresh), {"dice": 0.9})
    assert same(find_source(tmp_path / "state", data=sites / "folder-north", student=SPEC), fresh)
    assert not (tmp_path / "state" / "identity").exists()  # who reads only makes no key


def test_a_state_folder_without_its_vault_key_does_not_open(tmp_path, fresh, sites):
    write_arm(tmp_path / "state/campaigns/spring/arms/omnikd", fresh)
    (tmp_path / "state/identity/vault.key").unlink()
    assert refused(tmp_path / "state", data=sites / "folder-north", student=SPEC).code == "OF875"
    assert not (tmp_path / "state/identity/vault.key").exists()


def test_a_checkpoint_of_the_framework_of_a_round_and_of_others(tmp_path, fresh, sites):
    own, plain = tmp_path / "own.safetensors", tmp_path / "plain.safetensors"
    write_arm(tmp_path / "state/campaigns/c/arms/a", fresh)
    write_state(own, to_state(fresh), {})
    save_file(to_state(fresh), plain)
    for path in (own, plain, tmp_path / "state/campaigns/c/arms/a/round-0000.sealed"):
        assert same(find_source(path, data=sites / "folder-north", student=SPEC), fresh)
    error = refused(own, data=sites / "folder-north")
    assert (error.code, error.seen) == ("OF612", "not named: student")


def test_what_is_no_source(tmp_path, fresh, sites):
    (tmp_path / "weights.pt").write_bytes(b"\x80\x02}q\x00.")  # a pickle: never loaded
    assert refused(tmp_path / "weights.pt", data=sites / "folder-north", student=SPEC).code == "OF104"
    assert refused(tmp_path / "absent").code == "OF610"
    assert refused(tmp_path).code == "OF610"
    run = write_run(tmp_path / "run", fresh, sites, {})
    assert "no arm" in refused(run).seen
    (run / "config.json").write_text(json.dumps({"arms": []}))
    assert refused(run).code == "OF610"
