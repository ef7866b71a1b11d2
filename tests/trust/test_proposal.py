"""What a federation proposes: the stricter of it and our own first policy, key by key, and never against the site."""

from __future__ import annotations

import json
import tomllib
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from made import Made, federation_of
from policies import policies

from omnifed.errors import OmniFedError
from omnifed.trust.authority import admit
from omnifed.trust.enrolment import enrol, join
from omnifed.trust.kit import KIT, Kit, open_kit
from omnifed.trust.policy import FILE, Policy, load_policy, read_policy, sign_policy
from omnifed.trust.proposal import differences, first_policy, policy_text, read_proposal, stricter
from omnifed.trust.signing import Signed, SigningKey

LAST = date.today() + timedelta(days=99)
NORTH, OTHER = "f041 2414 891d a8de 77c0 5a21 9b1e 30d4", "0b77 e2c9 4d5f 1a68 c3ea 96f2 58b0 7d13"
LOOSE = Policy(
    purposes=("research", "care"), max_campaigns=99, max_rounds=999, epsilon=0, min_sites=2, min_cases=1, expires=LAST
)
STRICT = Policy(
    purposes=("care",), tasks=("fit",), modes=("private",), max_campaigns=1, max_rounds=5, epsilon=0.5,
    require_dp=True, min_sites=6, min_threshold=5, partners={"north": NORTH}, min_cases=50,
    expires=LAST - timedelta(days=9),
)  # fmt: skip
EXPIRED = "expires = 2020-01-01\n"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return federation_of(tmp_path, ["ct"])


def code(call, *arguments) -> str:
    with pytest.raises(OmniFedError) as caught:
        call(*arguments)
    return caught.value.code


# The stricter of two --------------------------------------------------------------------------------------------------


def test_each_key_of_the_stricter_one_wins_from_both_sides() -> None:
    assert all(getattr(STRICT, key) != getattr(LOOSE, key) for key in Policy.model_fields), "every key is told apart"
    assert stricter(LOOSE, STRICT) == stricter(STRICT, LOOSE) == STRICT


def test_what_only_one_of_them_permits_is_not_permitted() -> None:
    a = Policy(purposes=("a", "b"), tasks=("fit", "bench"), modes=("mean",), epsilon=0, expires=LAST)
    b = Policy(purposes=("b", "c"), tasks=("bench",), modes=("robust",), epsilon=0, expires=LAST)
    both = stricter(a, b)
    assert (both.purposes, both.tasks, both.modes, both.epsilon) == (("b",), ("bench",), (), 0)


def test_partners_add_up_and_one_with_two_keys_permits_no_private_round() -> None:
    a = Policy(partners={"north": NORTH}, expires=LAST)
    assert stricter(a, Policy(partners={"east": OTHER}, expires=LAST)).partners == {"north": NORTH, "east": OTHER}
    spelled = Policy(partners={"north": NORTH.replace(" ", "")}, expires=LAST)
    assert stricter(a, spelled).modes == ("mean", "private", "robust")
    assert stricter(a, Policy(partners={"north": OTHER}, expires=LAST)).modes == ("mean", "robust")


@given(a=policies(), b=policies())
def test_the_stricter_of_two_stays_the_stricter_with_either(a: Policy, b: Policy) -> None:
    both = stricter(a, b)
    assert stricter(both, a) == stricter(a, both).model_copy(update={"partners": both.partners}) == both
    assert differences(stricter(both, b), both) == []


@given(policy=policies())
def test_the_text_of_a_policy_says_the_policy(policy: Policy) -> None:
    assert Policy.model_validate(tomllib.loads(policy_text(policy))) == policy


# A first policy -------------------------------------------------------------------------------------------------------


def test_the_first_policy_is_the_stricter_of_ours_and_the_proposal_with_our_comments(tmp_path: Path) -> None:
    key = SigningKey.generate()
    proposal = Policy(max_rounds=60, max_campaigns=500, min_cases=5, partners={"north": NORTH}, expires=LAST)
    assert first_policy(tmp_path / "a", key, proposal)
    policy = read_policy(tmp_path / "a", {key.public})
    assert policy == Policy(max_rounds=60, partners={"north": NORTH}, expires=LAST)
    first_policy(tmp_path / "b", key)
    texts = [(tmp_path / name / FILE).read_text() for name in "ab"]
    comments = [[line.rpartition("# ")[2] for line in text.splitlines() if "# " in line] for text in texts]
    assert comments[0] == comments[1][:-1], "all but the example of a partner"


def test_a_proposal_that_has_expired_since_is_written_and_not_in_force(tmp_path: Path) -> None:
    key = SigningKey.generate()
    assert code(first_policy, tmp_path, key, Policy(expires=date(2020, 1, 1))) == "OF821"
    assert code(read_policy, tmp_path, {key.public}) == "OF820"
    (tmp_path / FILE).write_text((tmp_path / FILE).read_text().replace("2020-01-01", str(LAST)))
    assert sign_policy(tmp_path, key).expires == LAST


def test_only_keys_that_are_proposed_differ() -> None:
    proposal = Policy(max_rounds=60, purposes=("b", "a"), partners={"north": NORTH.replace(" ", "")}, expires=LAST)
    site = Policy(purposes=("a", "b"), max_campaigns=3, partners={"north": NORTH}, expires=LAST)
    assert differences(site, proposal) == ["max_rounds: proposed 60, here 200"]
    assert differences(site, Policy(expires=date(2030, 1, 2), require_dp=True, partners={})) == [
        "require_dp: proposed true, here false",
        f'partners: proposed {{}}, here {{north = "{NORTH}"}}',
        f"expires: proposed 2030-01-02, here {LAST}",
    ]


# In the kit -----------------------------------------------------------------------------------------------------------


def test_a_kit_holds_what_the_coordinators_folder_proposes_and_the_site_keeps_its_own(made: Made) -> None:
    coordinator, folder = made.coordinator.folder, made.state("us") / "identity"
    (coordinator / FILE).write_text(f"expires = {LAST}\nmax_rounds = 60\n")
    kit = admit(coordinator, enrol(folder, "us"))
    identity = join(folder, kit)
    proposal = identity.kit.policy
    assert proposal == Policy(expires=LAST, max_rounds=60)
    assert proposal.model_fields_set == {"expires", "max_rounds"}
    first_policy(folder, identity.key, proposal)
    assert load_policy(folder) == Policy(expires=LAST, max_rounds=60)
    before = (folder / FILE).read_bytes()
    (coordinator / FILE).write_text(f"expires = {LAST}\nmax_rounds = 5\n")
    identity = join(folder, admit(coordinator, enrol(folder, "us")))
    assert not first_policy(folder, identity.key, identity.kit.policy)
    assert (folder / FILE).read_bytes() == before
    assert differences(load_policy(folder), identity.kit.policy) == ["max_rounds: proposed 5, here 60"]


def test_a_kit_without_proposal_is_the_one_of_older_releases(made: Made) -> None:
    kit = made.sites["ct"].kit
    body = json.loads(Signed.read((made.state("ct") / "identity" / "kit.json").read_bytes(), "kit").body)
    assert set(body) == {"federation", "site", "server", "root", "ca", "roster", "issued", "expires"}
    assert kit.policy is None
    root = SigningKey.load(made.coordinator.folder / "authority" / "root.key")
    assert open_kit(Signed.seal(KIT, Kit.model_validate(body), root)) == kit


@pytest.mark.parametrize(
    ("text", "number"),
    [("expires = ", "OF101"), ("max_rounds = 3", "OF102"), (f"expires = {LAST}\nrounds = 3", "OF102"),
     (EXPIRED, "OF821"), (b"\xff", "OF101")],
)  # fmt: skip
def test_a_bad_proposal_is_refused_before_anything_is_signed(made: Made, text: str | bytes, number: str) -> None:
    folder, request = made.coordinator.folder, enrol(made.state("us") / "identity", "us")
    (folder / FILE).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert code(admit, folder, request) == code(read_proposal, folder) == number
    assert made.coordinator.held().member("us") is None


def test_an_expired_proposal_says_what_the_coordinator_must_do(made: Made) -> None:
    (made.coordinator.folder / FILE).write_text(EXPIRED)
    with pytest.raises(OmniFedError, match="then: omnifed-server admit"):
        read_proposal(made.coordinator.folder)
