"""Real processes that know each other: TLS, signatures of nodes, and a roster that changes while a campaign runs."""

from __future__ import annotations

from pathlib import Path

from harness import Federation
from twin import difference, twin


def test_a_campaign_with_identity_ends_with_the_same_bytes_as_one_without(tmp_path: Path) -> None:
    with Federation(tmp_path / "f", identity=True, stages=["prepare", "train"], rounds=1) as fed:
        fed.start()
        assert fed.finish(200) == 0
        assert fed.left_behind() == []
        fed.check_counts()
        assert difference(fed.final(), twin(fed)) == []
