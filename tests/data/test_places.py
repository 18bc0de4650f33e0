"""Where the path of a data source leads."""

from __future__ import annotations

from pathlib import Path

import pytest

from kcv.data import loading
from kcv.data.places import place_of
from kcv.errors import DataError

KNOWN = ("cifar10", "digits")


def test_where_a_run_began_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("began/pets", "here/pets", "here/more", "root/rest"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("KCV_DATA_DIR", str(tmp_path / "root"))
    assert place_of("pets", KNOWN, tmp_path / "began") == tmp_path / "began" / "pets"
    assert place_of("more", KNOWN, tmp_path / "began").resolve() == tmp_path / "here" / "more"
    assert place_of("rest", KNOWN, tmp_path / "began") == tmp_path / "root" / "rest"
    assert place_of("pets", KNOWN).resolve() == tmp_path / "here" / "pets"
    assert place_of(str(tmp_path / "here"), KNOWN, tmp_path / "began") == tmp_path / "here"


@pytest.mark.parametrize("began_in", [Path(), None])
@pytest.mark.parametrize("name", ["none", "x" * 5000, "a/" * 2500, "nul\0byte", "\ud800", "/none"])
def test_what_is_not_there_is_said_in_one_short_line(name: str, began_in: Path | None) -> None:
    with pytest.raises(DataError) as caught:
        place_of(name, KNOWN, began_in)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert began_in is None or "--data=PATH" in str(caught.value)


def test_a_long_name_is_not_searched_for_a_neighbour() -> None:
    with pytest.raises(DataError, match=r"is neither cifar10, digits nor an existing path\.$"):
        loading.open_source("digit" * 1000)
