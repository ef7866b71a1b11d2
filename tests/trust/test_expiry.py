"""What ends is said two weeks before, with the command that renews it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from made import Made, federation_of

from omnifed.errors import OmniFedError
from omnifed.trust.authority import rotate
from omnifed.trust.expiry import warnings_of_coordinator, warnings_of_site
from omnifed.trust.identity import CoordinatorIdentity

START = datetime(2026, 1, 1, tzinfo=UTC)


def day(number: float) -> datetime:
    return START + timedelta(days=number)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = federation_of(tmp_path_factory.mktemp("expiry"), ["ct", "mr"], now=START)
    made.revoke("mr", now=START)
    return made


def whats(lines: list[str]) -> list[str]:
    return [line.split(" end")[0] for line in lines]


SERVER, SIGNING, ROSTER, CA = (
    "the server certificate", "the coordinator's signing key", "the roster", "the authority's certificate",
)  # fmt: skip


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (0, []),
        (75.9, []),
        (76, [SERVER, SIGNING]),
        (166, [SERVER, SIGNING, ROSTER]),
        (352, [SERVER, SIGNING, ROSTER, "the term of ct's keys"]),
        (3640, [SERVER, SIGNING, ROSTER, CA, "the term of ct's keys"]),
    ],
)
def test_what_ends_at_a_coordinator(made: Made, when: float, expected: list[str]) -> None:
    assert whats(warnings_of_coordinator(made.coordinator, day(when))) == expected


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (0, []),
        (165.9, []),
        (166, [ROSTER]),
        (351, ["the term of the site's keys", ROSTER]),
        (3636, ["the term of the site's keys", ROSTER, CA]),
    ],
)
def test_what_ends_at_a_site(made: Made, when: float, expected: list[str]) -> None:
    assert whats(warnings_of_site(made.sites["ct"], day(when))) == expected


def test_the_lines_in_full(made: Made) -> None:
    folder = made.coordinator.folder
    assert warnings_of_coordinator(made.coordinator, day(81))[0] == (
        f"the server certificate ends in 9 days, on 2026-04-01; omnifed-server rotate --identity {folder}"
    )
    assert warnings_of_coordinator(made.coordinator, day(90))[0] == (
        f"the server certificate ended on 2026-04-01; omnifed-server rotate --identity {folder}"
    )
    assert warnings_of_site(made.sites["ct"], day(360))[0] == (
        "the term of the site's keys ends in 5 days, on 2027-01-01; "
        f"omnifed-client rotate --site ct --state {made.state('ct')}"
    )


def test_renewed_is_silent_and_the_old_key_ends_in_seven_days(tmp_path: Path) -> None:
    made = federation_of(tmp_path, ["ct"], now=START)
    rotate(made.coordinator.folder, now=day(80))
    assert warnings_of_coordinator(CoordinatorIdentity.load(made.coordinator.folder), day(80)) == []
    # A coordinator that goes on with what it read at its start.
    assert whats(warnings_of_coordinator(made.coordinator, day(80))) == [SIGNING]


def test_a_damaged_certificate_is_of802(tmp_path: Path) -> None:
    made = federation_of(tmp_path, ["ct"], now=START)
    made.sites["ct"].ca.write_text("no certificate")
    with pytest.raises(OmniFedError) as caught:
        warnings_of_site(made.sites["ct"], START)
    assert caught.value.code == "OF802"
