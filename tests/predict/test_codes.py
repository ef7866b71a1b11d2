"""Label names and their coded concepts."""

import pytest

from omnifed.predict.codes import concept


@pytest.mark.parametrize(
    ("name", "category", "kind", "side"),
    [
        ("liver", "91723000", "10200004", None),
        ("Left_Kidneys", "91723000", "64033007", "7771000"),
        ("kidney right", "91723000", "64033007", "24028007"),
        ("lungs", "91723000", "39607008", None),
        ("small bowel", "91723000", "30315005", None),
        ("tumour", "49755003", "108369006", None),
        ("vessels", "91723000", "59820001", None),
        ("middle-lobe of right lung", "91723000", "72481006", None),
    ],
)
def test_a_name_finds_its_code(name: str, category: str, kind: str, side: str | None) -> None:
    found = concept(name)
    assert (found.category.value, found.kind.value) == (category, kind)
    assert (found.side.value if found.side else None) == side


@pytest.mark.parametrize("name", ["", "class-3", "shaft", "liver tumour of unknown kind", "normal", "left right", "ß"])
def test_what_is_not_known_is_a_region(name: str) -> None:
    found = concept(name)
    assert (found.category.value, found.kind.scheme_designator, found.kind.value) == ("309825002", "DCM", "130488")
    assert found.side is None
