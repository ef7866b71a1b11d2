"""Whatever is done to ten lines of an audit log is found, and a crash is none of it."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import Made, federation_of
from pydantic import ValidationError

from omnifed.errors import OmniFedError
from omnifed.trust.audit import HEAD, LOG, AuditLog
from omnifed.trust.audit_entry import FIRST, Anchor, Entry
from omnifed.trust.authority import admit
from omnifed.trust.enrolment import join, renew
from omnifed.trust.identity import SiteIdentity
from omnifed.trust.signing import Signed, SigningKey

LINES = 10


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return federation_of(tmp_path_factory.mktemp("audit"), ["a", "b"])


@pytest.fixture(scope="module")
def ten(made: Made) -> AuditLog:
    log = AuditLog.of(made.state("a"), made.sites["a"])
    for k in range(LINES):
        log.add("received", task=f"c.a.r{k}.a.fit", round=k)
    return log


@pytest.fixture
def log(ten: AuditLog, tmp_path: Path) -> AuditLog:
    """A copy to be spoilt."""
    shutil.copytree(ten.folder, tmp_path / "audit")
    return AuditLog(tmp_path / "audit", ten.identity)


def lines(log: AuditLog) -> list[bytes]:
    return (log.folder / LOG).read_bytes().splitlines(keepends=True)


def refused(log: AuditLog, content: bytes) -> str:
    """What verify says of a log with that content; the site's own writing must refuse what concerns the end."""
    (log.folder / LOG).write_bytes(content)
    with pytest.raises(OmniFedError) as caught:
        log.verify()
    assert caught.value.code == "OF830"
    return caught.value.seen


def test_the_first_line_by_hand(made: Made, tmp_path: Path) -> None:
    log = AuditLog(tmp_path, made.sites["b"])
    assert log.verify() is None
    anchor = log.add("policy", hash="ab", rounds=3)
    (line,) = lines(log)
    values = json.loads(line)
    assert list(values) == ["fields", "hash", "number", "previous", "time", "what"]
    assert values["fields"] == {"hash": "ab", "rounds": 3}
    assert (values["number"], values["previous"], values["what"]) == (1, FIRST, "policy")
    assert anchor == Anchor(count=1, hash=values["hash"])
    assert (log.folder / LOG).stat().st_mode & 0o777 == (log.folder / HEAD).stat().st_mode & 0o777 == 0o600
    assert [entry.what for entry in log.entries(5)] == ["policy"]


def test_an_untouched_log_is_true(ten: AuditLog) -> None:
    head = ten.verify()
    assert head is not None
    assert head.count == LINES
    assert ten.verify(Anchor(count=4, hash=json.loads(lines(ten)[3])["hash"])) == head
    assert [entry.number for entry in ten.entries(3)] == [8, 9, 10]


@pytest.mark.parametrize("at", range(LINES))
def test_every_deleted_duplicated_or_edited_line_is_found(log: AuditLog, at: int) -> None:
    good = lines(log)
    assert refused(log, b"".join(good[:at] + good[at + 1 :])).startswith(f"line {at + 1}:")
    assert refused(log, b"".join(good[: at + 1] + good[at:])).startswith(f"line {at + 2}:")
    edited = good[at].replace(b'"round":', b'"round":1')
    assert refused(log, b"".join([*good[:at], edited, *good[at + 1 :]])).startswith(f"line {at + 1}:")
    spaced = good[at].replace(b'"round":', b'"round": ')
    assert refused(log, b"".join([*good[:at], spaced, *good[at + 1 :]])).startswith(f"line {at + 1}:")


@pytest.mark.parametrize("at", range(LINES))
def test_every_forged_line_is_found_even_with_a_new_chain_behind_it(log: AuditLog, at: int) -> None:
    good = lines(log)
    forged, previous = [], FIRST if at == 0 else json.loads(good[at - 1])["hash"]
    for line in good[at:]:
        values = {key: value for key, value in json.loads(line).items() if key != "hash"}
        entry = Entry.model_validate({**values, "what": "sent", "previous": previous})
        previous = entry.hash
        forged.append(entry.line())
    assert "signed head" in refused(log, b"".join(good[:at] + forged))


@pytest.mark.parametrize("first", range(LINES))
def test_every_two_lines_that_change_places_are_found(log: AuditLog, first: int) -> None:
    good = lines(log)
    for second in range(first + 1, LINES):
        moved = list(good)
        moved[first], moved[second] = moved[second], moved[first]
        assert refused(log, b"".join(moved)).startswith(f"line {first + 1}:")


def test_every_truncation_is_found(log: AuditLog) -> None:
    whole = b"".join(lines(log))
    last = len(whole) - len(lines(log)[-1])
    for size in (*range(0, last, 31), *range(last, len(whole), 3), len(whole) - 1):
        refused(log, whole[:size])


def test_lines_beyond_the_head_are_found_by_reader_and_writer(log: AuditLog) -> None:
    whole = b"".join(lines(log))
    head = log.verify()
    assert head is not None
    values = json.loads(head.last)
    more = Entry.model_validate(
        {"number": LINES + 1, "time": values["time"], "what": "sent", "fields": {}, "previous": head.hash}
    )
    assert refused(log, whole + more.line()) == "line 11: the signed head ends at 10"
    for tail in (more.line(), b"x", b"\n"):
        (log.folder / LOG).write_bytes(whole + tail)
        with pytest.raises(OmniFedError, match="OF830"):
            log.add("sent")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_found(
    ten: AuditLog, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "bytes"
    folder.mkdir(exist_ok=True)
    for name in (LOG, HEAD):
        shutil.copy(ten.folder / name, folder / name)
    log = AuditLog(folder, ten.identity)
    name = data.draw(st.sampled_from([LOG, LOG, HEAD]))
    content = bytearray((folder / name).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255).filter(lambda value: value != content[at]))
    before = Signed.read((folder / HEAD).read_bytes(), HEAD)
    (folder / name).write_bytes(content)
    try:
        log.verify()
        found = ""
    except OmniFedError as error:
        found = error.code
    if found:
        assert found in ("OF830", "OF831")
    else:  # white space of the head's file, or the unused last bits of its signature
        assert name == HEAD
        assert Signed.read(bytes(content), HEAD).body == before.body


def test_a_head_that_is_gone_forged_or_another_sites_is_found(log: AuditLog, made: Made, tmp_path: Path) -> None:
    file = log.folder / HEAD
    head = log.verify()
    assert head is not None
    elsewhere = made.sites["b"]
    of_b = head.model_copy(update={"site": "b"})
    for content in (
        None,
        b"",
        Signed.seal("audit", head, SigningKey.generate()).to_json(),
        Signed.seal("audit", head, elsewhere.key).to_json(),
        Signed.seal("roster", head, log.identity.key).to_json(),
        Signed.seal("audit", of_b, log.identity.key).to_json(),
    ):
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        for use in (log.verify, lambda: log.add("sent")):
            with pytest.raises(OmniFedError) as caught:
                use()
            assert caught.value.code == "OF831"


def test_a_log_and_a_head_that_were_rolled_back_together_are_betrayed_by_the_anchor(log: AuditLog, made: Made) -> None:
    old = {name: (log.folder / name).read_bytes() for name in (LOG, HEAD)}
    anchor = log.add("sent", bytes=5)
    log.verify(anchor)
    for name, content in old.items():
        (log.folder / name).write_bytes(content)
    assert log.verify() is not None
    with pytest.raises(OmniFedError, match=r"OF832[\s\S]*10 entries; the coordinator has seen 11"):
        log.verify(anchor)
    log.add("sent", bytes=6)  # another history of the same length
    with pytest.raises(OmniFedError, match=r"OF832[\s\S]*entry 11 is another one"):
        log.verify(anchor)
    shutil.rmtree(log.folder)
    with pytest.raises(OmniFedError, match="OF832"):
        log.verify(anchor)


def test_a_crash_at_any_byte_of_an_append_loses_nothing(log: AuditLog) -> None:
    good = b"".join(lines(log))
    last = lines(log)[-1]
    for torn in (*range(0, len(last), 5), len(last) - 1, len(last)):
        copy = AuditLog(log.folder.parent / f"torn{torn}", log.identity)
        shutil.copytree(log.folder, copy.folder)
        (copy.folder / LOG).write_bytes(good[: len(good) - torn])
        copy.add("sent")
        head = copy.verify()
        assert head is not None
        assert head.count == LINES + 1
        assert b"".join(lines(copy)).startswith(good)


def test_a_crash_before_the_head_changes_nothing(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    before = log.verify()

    def crash(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("omnifed.trust.audit.write_atomic", crash)
        with pytest.raises(KeyboardInterrupt):
            log.add("sent")
    assert log.verify() == before


def test_the_end_that_somebody_has_changed_stops_the_site(log: AuditLog) -> None:
    good = b"".join(lines(log))
    for content in (good[:-500], good[:-3] + b"x}\n", good[:-20] + b"x" * 10, b""):
        (log.folder / LOG).write_bytes(content)
        with pytest.raises(OmniFedError, match="OF830"):
            log.add("sent")


def _write(folder: Path, identity_folder: Path) -> None:
    log = AuditLog(folder, SiteIdentity.load(identity_folder))
    for k in range(5):
        log.add("sent", bytes=k)


def test_several_processes_write_one_chain(made: Made, tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    folder = made.state("b") / "identity"
    writers = [fork.Process(target=_write, args=(tmp_path, folder)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
    head = AuditLog(tmp_path, made.sites["b"]).verify()
    assert head is not None
    assert head.count == 20


def test_a_log_outlives_a_rotation_of_the_sites_keys(tmp_path: Path) -> None:
    made = federation_of(tmp_path, ["a"])
    AuditLog.of(made.state("a"), made.sites["a"]).add("sent")
    folder = made.state("a") / "identity"
    join(folder, admit(made.coordinator.folder, renew(folder)))
    renewed = SiteIdentity.load(folder)
    assert renewed.key.public != made.sites["a"].key.public
    log = AuditLog.of(made.state("a"), renewed)
    assert log.verify() is not None
    log.add("sent")
    head = log.verify()
    assert head is not None
    assert head.count == 2


@pytest.mark.parametrize("text", ["/data/site", "Anna Meier", "two\nlines", "x" * 201, "Müller"])
def test_no_sentence_and_no_path_fits_into_an_entry(ten: AuditLog, text: str) -> None:
    with pytest.raises(ValidationError):
        ten.add("failed", code=text)
    with pytest.raises(ValidationError):
        ten.add("failed", **{text: 1})
