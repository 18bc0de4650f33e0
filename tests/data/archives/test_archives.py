"""Archives of class folders: read in place, like the folder that they were packed from."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kcv.config import DataConfig
from kcv.data import loading
from kcv.data.archives import members as members_of
from kcv.data.archives import source as archives
from kcv.data.archives import zip_index
from kcv.errors import DataError, ImageError
from kcv.quality.copies.scan import scan

KINDS = ("zip", "deflated.zip", "tar", "pax.tar", "tar.gz", "tgz")


def pack(folder: Path, path: Path, prefix: str = "") -> Path:
    """Packs the content of a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    if path.name.endswith(".zip"):
        how = zipfile.ZIP_DEFLATED if "deflated" in path.name else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", how) as target:
            for file in files:
                target.write(file, f"{prefix}{file.relative_to(folder).as_posix()}")
        return path
    mode: Any = "w" if path.suffix == ".tar" else "w:gz"
    kind = tarfile.PAX_FORMAT if "pax" in path.name else tarfile.GNU_FORMAT
    with tarfile.open(path, mode, format=kind) as target:
        for file in files:
            target.add(file, f"{prefix}{file.relative_to(folder).as_posix()}")
    return path


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Class folders with clutter, a file of another format, and a name longer than a tar header holds."""
    folder = tmp_path / "flat"
    for number, name in enumerate(("café", "dog")):
        for i in range(4):
            file = folder / name / ("long " * 30 if i == 3 else "") / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(4 * number + i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file)
    for clutter in ("__MACOSX/dog/._0.png", "dog/._1.png", "dog/.DS_Store", "dog/notes.txt"):
        (folder / clutter).parent.mkdir(parents=True, exist_ok=True)
        (folder / clutter).write_bytes(b"x")
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", ["", "./", "photos/"])
def test_an_archive_is_read_like_its_folder(flat: Path, tmp_path: Path, kind: str, prefix: str) -> None:
    folder = loading.open_source(str(flat))
    source = loading.open_source(str(pack(flat, tmp_path / f"x.{kind}", prefix)))
    assert source.class_names == folder.class_names and source.flat
    assert list(source.splits["train"].names) == list(folder.splits["train"].names)
    assert [*source.splits["train"].images] == [path.read_bytes() for path in folder.splits["train"].images]
    assert source.understood is not None and folder.understood is not None
    assert source.understood.lines()[:2] == folder.understood.lines()[:2]
    assert "notes.txt" in source.understood.lines()[2]
    if "gz" not in kind:
        assert source.fingerprint == folder.fingerprint


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_splits_in_an_archive_are_those_of_its_folders(images: Path, tmp_path: Path, kind: str) -> None:
    source = loading.open_source(str(pack(images, tmp_path / f"x.{kind}", "data/")))
    assert {split: len(part) for split, part in source.splits.items()} == {"train": 90, "val": 24, "test": 24}
    data = DataConfig(source=source.name, image_size=16)
    folder = loading.load(data.model_copy(update={"source": str(images)}))
    dataset = loading.load(data)
    assert folder.train.pixels is not None and dataset.train.pixels is not None
    assert np.array_equal(dataset.train.pixels, folder.train.pixels)


@pytest.mark.parametrize("kind", ["deflated.zip", "tar"])
def test_members_are_read_in_any_order_and_in_other_processes(flat: Path, tmp_path: Path, kind: str) -> None:
    source = loading.open_source(str(pack(flat, tmp_path / f"x.{kind}")))
    part = source.splits["train"]
    sent = pickle.loads(pickle.dumps(part))
    taken = sent.take(np.array([7, 0, 3]))
    assert [taken.images[i] for i in (2, 0, 1)] == [part.images[i] for i in (3, 7, 0)]
    assert len(pickle.dumps(part)) < 5_000
    scanned = scan(source)
    assert not any(isinstance(record, str) for record in scanned.records) and len(scanned.records) == 8
    assert scanned.files[0] is not None and scanned.files[0].suffix == ".png"


def test_links_are_passed_over_and_counted(flat: Path, tmp_path: Path) -> None:
    path = pack(flat, tmp_path / "x.tar")
    with tarfile.open(path, "a") as target:
        for name in ("dog/link.png", "dog/link2.png"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            target.addfile(link)
    source = loading.open_source(str(path))
    assert len(source.splits["train"]) == 8 and source.understood is not None
    assert "left out: 2 links in the archive: dog/link.png ..." in source.understood.lines()
    with zipfile.ZipFile(pack(flat, tmp_path / "x.zip"), "a") as packed:
        entry = zipfile.ZipInfo("dog/link.png")
        entry.create_system, entry.external_attr = 3, 0o120777 << 16
        packed.writestr(entry, "/etc/passwd")
    assert (
        "left out: 1 link in the archive: dog/link.png"
        in (loading.open_source(str(tmp_path / "x.zip")).understood or pytest.fail()).lines()
    )


def test_a_member_that_is_damaged_is_named(flat: Path, tmp_path: Path) -> None:
    path = pack(flat, tmp_path / "deflated.zip")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("dog/0.png").header_offset
    content[place + 60] ^= 0xFF
    path.write_bytes(content)
    source = loading.open_source(str(path))
    with pytest.raises(ImageError, match=r"dog/0.png in .*deflated.zip"):
        source.splits["train"].images[4]
    with pytest.raises(DataError, match=r"1 of 4 images cannot be read: dog/0\.png"):
        loading.load(DataConfig(source=str(path), image_size=16, test_fraction=0, val_fraction=0.5))


def zip_of(*entries: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as target:
        warnings.simplefilter("ignore")
        for name, content in entries:
            target.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()


def tar_of(*entries: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as target:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.size, entry.type = len(content), kind
            target.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def edited(content: bytes, marker: bytes, at: int, new: bytes) -> bytes:
    """Returns bytes with others `at` bytes after each marker."""
    changed = bytearray(content)
    place = content.find(marker)
    while place >= 0:
        changed[place + at : place + at + len(new)] = new
        place = content.find(marker, place + 1)
    return bytes(changed)


A, B = ("a/0.png", b"x" * 40), ("b/0.png", b"y" * 40)
MIXED = [(f"{name}/{split}/{i}.png", b"") for name in "ab" for split in ("train", "test") for i in range(2)]
BAD: dict[str, tuple[str, bytes, str]] = {
    "an empty .zip": ("x.zip", b"", "is no .zip, or cut off"),
    "no .zip": ("x.zip", b"\x89PNG" * 100, "is no .zip, or cut off"),
    "a cut .zip": ("x.zip", zip_of(A, B)[:-30], "is no .zip, or cut off"),
    "a .zip without members": ("x.zip", zip_of(), "no images"),
    "a .zip without its directory": ("x.zip", zip_of(A, B)[100:], "is damaged"),
    "an encrypted .zip": ("x.zip", edited(zip_of(A, B), b"PK\1\2", 8, b"\1"), "is encrypted"),
    "a .zip packed by bzip2": ("x.zip", edited(zip_of(A, B), b"PK\1\2", 10, b"\x0c"), "method 12"),
    "a .zip of parts": ("x.zip", edited(zip_of(A, B), b"PK\5\6", 4, b"\1"), "several parts"),
    "a member beyond the end": ("x.zip", edited(zip_of(A, B), b"PK\1\2", 42, struct.pack("<L", 10**6)), "cut off"),
    "a huge member": ("x.zip", edited(zip_of(A, B), b"PK\1\2", 24, struct.pack("<L", 2**31)), "are allowed"),
    "64 bits without them": ("x.zip", edited(zip_of(A, B), b"PK\1\2", 24, b"\xff" * 4), "the size of a member"),
    "a huge count": ("x.zip", edited(zip_of(A, B), b"PK\5\6", 10, b"\xf0\xff"), "directory ends early"),
    "a name upwards": ("x.zip", zip_of(A, ("../b/0.png", b"")), "leads out of the archive"),
    "an absolute name": ("x.zip", zip_of(A, ("/etc/0.png", b"")), "leads out of the archive"),
    "a drive": ("x.zip", zip_of(A, ("C:/b/0.png", b"")), "leads out of the archive"),
    "a name upwards as of Windows": ("x.zip", zip_of(A, ("b\\..\\..\\0.png", b"")), "leads out of the archive"),
    "a name twice": ("x.zip", zip_of(A, A), "a/0.png twice"),
    "a long name": ("x.zip", zip_of(A, ("b" * 5000 + "/0.png", b"")), "a name of 5,006 bytes"),
    "images without class folders": ("x.zip", zip_of(("0.png", b"x")), "no class folders"),
    "splits in classes": ("x.zip", zip_of(*MIXED), "which would be mixed in one class"),
    "an empty .tar": ("x.tar", b"", "no images"),
    "no .tar": ("x.tar", b"\x89PNG" * 1000, "is no tar archive"),
    "a cut .tar": ("x.tar", tar_of(A, B)[:1200], "is cut off"),
    "a .tar cut in a member": ("x.tar", tar_of(A, ("b/0.png", b"y" * 5000))[:3000], "cut off"),
    "a changed header": ("x.tar", edited(tar_of(A, B), b"ustar", -100, b"9"), "checksum"),
    "a tar name upwards": ("x.tar", tar_of(A, ("b/../../0.png", b"")), "leads out of the archive"),
    "an absolute tar name": ("x.tar", tar_of(A, ("/etc/0.png", b"")), "leads out of the archive"),
    "a tar name twice": ("x.tar", tar_of(A, B, A), "a/0.png twice"),
    "a sparse file": ("x.tar", tar_of(A, kind=tarfile.GNUTYPE_SPARSE), "sparse"),
    "no .gz": ("x.tar.gz", b"no gzip at all", "is damaged"),
    "a .gz of something else": ("x.tgz", gzip.compress(b"hello" * 200), "is no tar archive"),
    "a cut .gz": ("x.tar.gz", gzip.compress(tar_of(A, B))[:-20], "is damaged"),
    "a .gz that is a bomb": ("x.tar.gz", gzip.compress(tar_of(("a/x.bin", bytes(2**29)), A), 1), "unpacks to more"),
    "a solid archive": ("x.7z", b"7z", "packed in one piece"),
    "an .xz": ("x.tar.xz", b"\xfd7zXZ", "packed in one piece"),
    "a .rar": ("x.rar", b"Rar!", "packed in one piece"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_archive_ends_in_one_line(tmp_path: Path, case: str) -> None:
    name, content, words = BAD[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        loading.open_source(str(tmp_path / name))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_are_counted(flat: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (zip_index, archives.tar_index):
        monkeypatch.setattr(module, "MOST_MEMBERS", 5)
    with pytest.raises(DataError, match="more than 5 members"):
        loading.open_source(str(pack(flat, tmp_path / f"x.{kind}")))


def test_what_a_packed_tar_holds_in_memory_is_bounded(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_MOST_HELD", 1000)
    with pytest.raises(DataError, match="packed in one piece; unpack it"):
        loading.open_source(str(pack(flat, tmp_path / "x.tar.gz")))


def test_a_zip_with_64_bits_is_read(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = loading.open_source(str(flat))
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as target:
        for name, file in zip(folder.splits["train"].names, folder.splits["train"].images, strict=True):
            with target.open(name, "w", force_zip64=True) as stream:
                stream.write(Path(str(file)).read_bytes())
    assert b"PK\6\6" in path.read_bytes()
    source = loading.open_source(str(path))
    assert [*source.splits["train"].images] == [Path(str(file)).read_bytes() for file in folder.splits["train"].images]


def test_a_name_of_another_code_page_is_text(tmp_path: Path) -> None:
    content = zip_of(("cafX/0.png", b"x"), ("b/0.png", b"x")).replace(b"cafX", b"caf\x82")
    (tmp_path / "x.zip").write_bytes(content)
    assert loading.open_source(str(tmp_path / "x.zip")).class_names == ("b", "café")
    assert members_of.member_name(b"./a//b", "x") == "a/b"
