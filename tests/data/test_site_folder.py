from pathlib import Path

import pytest
from made_files import index, png_site

from omnifed.data.index import Row, read_index
from omnifed.data.site_folder import load_site
from omnifed.errors import OmniFedError


def code(path: Path) -> str:
    with pytest.raises(OmniFedError) as caught:
        read_index(path)
    return caught.value.code


def test_reads_rows_as_spreadsheets_write_them(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_bytes(
        "\ufeffPatient; Image ;MASK\r\nP1;a\\1.png;\r\n\r\nP2;b.png;m.png\r\n".encode()
    )
    assert read_index(tmp_path / "index.csv") == (Row("a/1.png", None, "P1"), Row("b.png", "m.png", "P2"))


def test_wrong_indexes_have_numbers(tmp_path: Path) -> None:
    assert code(tmp_path / "index.csv") == "OF201"
    for text, expected in (
        ("image,patient\na,b\n", "OF202"),
        ("", "OF202"),
        ("image,mask,patient\n", "OF203"),
        ("image,mask,patient\n , ,\n", "OF203"),
        ("image,mask,patient,split\na,m,p,validation\n", "OF205"),
        ("image,mask,patient,split\na,m,p,val\nb,m,q,\n", "OF205"),
        ("image,mask,patient,split\na,m,p,val\nb,m,p,train\n", "OF206"),
    ):
        (tmp_path / "index.csv").write_text(text)
        assert code(tmp_path / "index.csv") == expected, text
    (tmp_path / "index.csv").write_bytes(b"image,mask,patient\n\xff\xfe,,\n")
    assert code(tmp_path / "index.csv") == "OF202"


def test_site_toml_is_used_and_checked(tmp_path: Path) -> None:
    site = load_site(png_site(tmp_path))
    assert site.config.name == "made"
    assert len(site.rows) == 6
    assert site.path("/abs/x.png") == Path("/abs/x.png")
    (tmp_path / "site.toml").write_text((tmp_path / "site.toml").read_text().replace('1 = "disc"', '2 = "disc"'))
    with pytest.raises(OmniFedError, match="OF102"):
        load_site(tmp_path)


def test_mask_values_must_name_a_label(tmp_path: Path) -> None:
    png_site(tmp_path)
    with (tmp_path / "site.toml").open("a") as file:
        file.write("\n[mask_values]\n255 = 7\n")
    with pytest.raises(OmniFedError, match="mask_values must map"):
        load_site(tmp_path)


def test_a_folder_without_site_toml_gets_a_proposal(tmp_path: Path) -> None:
    png_site(tmp_path)
    (tmp_path / "site.toml").unlink()
    assert load_site(tmp_path).config.labels == {0: "background", 1: "class-1"}
    with pytest.raises(OmniFedError, match="OF201"):
        load_site(index(tmp_path / "other").parent / "absent")
