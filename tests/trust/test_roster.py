"""Standings and keys at given times, and the refusal of what is old."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from omnifed.errors import OmniFedError
from omnifed.trust.roster import ROSTER, Member, MemberTerm, Roster, Term, open_roster
from omnifed.trust.signing import Signed, SigningKey

START = datetime(2026, 1, 1, tzinfo=UTC)
A, B, C = "aa" * 32, "bb" * 32, "cc" * 32


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def term(key: str, since: float, until: float) -> MemberTerm:
    return MemberTerm(sign=key, node=f"node {key}", since=day(since), until=day(until))


def roster(**changes: object) -> Roster:
    members = (
        Member(site="ct", terms=(term(A, 0, 107), term(B, 100, 465))),
        Member(site="mr", terms=(term(C, 0, 365),), revoked=day(30)),
    )
    coordinator = (Term(sign=A, since=day(0), until=day(67)), Term(sign=B, since=day(60), until=day(150)))
    values = {"federation": "f", "version": 4, "issued": day(0), "expires": day(180)}
    return Roster.model_validate({**values, "coordinator": coordinator, "members": members, **changes})


@pytest.mark.parametrize(
    ("site", "when", "standing", "keys"),
    [
        ("ct", -1, "expired", ()),
        ("ct", 0, "member", (A,)),
        ("ct", 99.9, "member", (A,)),
        ("ct", 100, "member", (A, B)),
        ("ct", 106.9, "member", (A, B)),
        ("ct", 107, "member", (B,)),
        ("ct", 465, "expired", ()),
        ("mr", 29.9, "member", (C,)),
        ("mr", 30, "revoked", ()),
        ("mr", 400, "revoked", ()),
        ("xr", 50, "unknown", ()),
    ],
)
def test_standing_and_keys(site: str, when: float, standing: str, keys: tuple[str, ...]) -> None:
    assert roster().standing(site, day(when)) == standing
    assert roster().keys_of(site, day(when)) == keys


@pytest.mark.parametrize(("when", "keys"), [(0, (A,)), (60, (A, B)), (66.9, (A, B)), (67, (B,)), (150, ())])
def test_the_keys_of_the_coordinator(when: float, keys: tuple[str, ...]) -> None:
    assert roster().coordinator_keys(day(when)) == keys


def test_a_roster_is_refused_when_old_expired_or_of_another_authority() -> None:
    root = SigningKey.generate()
    signed = Signed.seal(ROSTER, roster(), root)
    assert open_roster(signed, root.public, newer_than=4, now=day(179.9)) == roster()
    for options, code in [
        ({"newer_than": 5, "now": day(1)}, "OF803"),
        ({"now": day(180)}, "OF803"),
    ]:
        with pytest.raises(OmniFedError) as caught:
            open_roster(signed, root.public, **options)
        assert caught.value.code == code
    with pytest.raises(OmniFedError) as caught:
        open_roster(signed, SigningKey.generate().public, now=day(1))
    assert caught.value.code == "OF802"


@pytest.mark.parametrize(
    "changes",
    [
        {"federation": "a b"},
        {"version": 0},
        {"expires": "2026-01-01T00:00:00"},
        {"coordinator": ()},
        {"members": ({"site": "../ct", "terms": ()},)},
    ],
)
def test_what_is_no_roster(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        roster(**changes)
