"""Every reader of docs/security.md, by the rows of its table: a mutant of structure is answered or refused in one line.

A row there has an entry here, and an entry here a row there. The fast set tries some mutants of each reader, always the
same; the complete one, up to `MOST`.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import gzip
import hashlib
import io
import json
import logging
import pickle
import random
import re
import shutil
import sqlite3
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import openvino_by_hand
import pytest
import yaml
from counting import Brightness
from footers import footer_mutants, footer_of, with_footer
from made_states import PLAN, made_state
from mutants import (
    archive_mutants,
    at,
    element_mutants,
    field_mutants,
    fields_of,
    hdf5_mutants,
    message_of,
    pickle_mutants,
    places,
    put,
    value_mutants,
    zipped,
)
from mutated_columns import column_mutants, columns
from mutated_images import jpeg_mutants, png_mutants, tiff_mutants
from mutated_trees import tree_mutants
from onnx_by_hand import INFO, SIZE, network
from PIL import Image
from spoiling import Members
from variants import variants
from web import QuietHandler, serving, serving_files

from kcv import artifact, images, predict, similar
from kcv.cli import console
from kcv.cli.render.folds import folds_summary
from kcv.cli.render.info import model_card
from kcv.cli.render.train import run_summary
from kcv.common import redaction, seal
from kcv.common.download import download, fetch
from kcv.common.files import csv_writer
from kcv.common.text import is_printable
from kcv.config import Config
from kcv.data import loading
from kcv.data.parquet import source as parquet
from kcv.data.sources import cifar10
from kcv.errors import ConfigError, ImageError, KcvError, TrackingError, UsageError
from kcv.inference import opening, splits
from kcv.inference.described_archive import describe_litert, describe_torch
from kcv.inference.onnx_graph.messages import MODEL
from kcv.inference.onnx_model import OnnxModel
from kcv.inference.openvino_model import OpenVinoModel, describe
from kcv.inference.out_of_fold import OutOfFold
from kcv.inference.shard_file import is_sound, read_part, state_of, write_part
from kcv.reporting.card import card
from kcv.reporting.material import gather
from kcv.reporting.page import page
from kcv.serving.inference_request import Limits, read_request
from kcv.serving.problems import Problem
from kcv.serving.routes.mlflow import read_invocation
from kcv.tasks.train_folds import Folds
from kcv.training import feature_files
from kcv.training.commit import commit_of
from kcv.training.folds import Plan, read_figures
from kcv.training.resume.checkpoint_store import CheckpointStore
from kcv.training.resume.consent import require_named
from kcv.training.resume.record import Record
from kcv.training.run_folder import RunFolder
from kcv.training.starting import finished
from kcv.tuning.space import check_space
from kcv.tuning.study import Configurations, Settings, StudyFolder

SECURITY = Path(__file__).resolve().parents[2] / "docs" / "security.md"
MOST = 2000
"""Mutants of one reader in the complete set; those of model files, ONNX and pickles are all tried in other modules."""
SECONDS = 2.0
"""Of the processor, for one mutant."""
CHARACTERS = 3000
"""Of one line of a refusal or a warning, whatever a file holds."""
LINES = 60

Case: TypeAlias = "tuple[str, Callable[[], object]]"  # what it is called; reads it, False where it is passed over


@dataclass(frozen=True)
class Bench:
    """Where mutants are made, of what, and what holds servers until they have been tried."""

    folder: Path
    tiny: Members
    held: contextlib.ExitStack

    def write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


Maker = Callable[[Bench], Iterator[Case]]
READERS: dict[str, tuple[int, Maker]] = {}
SLOW = (".keras", "a tracking server's answer", "models in MLflow", "models in the Hub")
"""In the complete set alone."""


def reader(row: str, some: int) -> Callable[[Maker], Maker]:
    """Registers how the mutants of a row are made, the sound one first, and how many of them the fast set tries."""

    def add(make: Maker) -> Maker:
        READERS[row] = some, make
        return make

    return add


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


def image(kind: str = "PNG", level: int = 0) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(level).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def draw(folder: Path) -> None:
    for number, place in enumerate(f"{split}/{name}" for split in ("train", "test") for name in ("a", "b")):
        (folder / place).mkdir(parents=True)
        for i in range(2):
            (folder / place / f"{i}.png").write_bytes(image(level=2 * number + i))


@reader("images", some=75)
def _(bench: Bench) -> Iterator[Case]:
    def use(content: bytes) -> None:
        images.dimensions(content)
        images.load(content, 8, "crop")

    yield "sound", lambda: use(image())
    for kind, mutants in {"PNG": png_mutants, "JPEG": jpeg_mutants, "TIFF": tiff_mutants}.items():
        for words, content in mutants(image(kind)):
            yield f"{kind} {words}", lambda content=content: use(content)


def answers(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields what a server may send in place of a file, as it goes over the wire."""
    length = str(len(body))
    sound = {"status": "200 OK", "headers": {"Content-Length": length, "Content-Type": "image/png"}}
    moved = {"status": "302 Found", "headers": {"Location": "/again", "Content-Length": length}}
    packed = {"status": "200 OK", "headers": {"Content-Encoding": "gzip", "Transfer-Encoding": "chunked"}}

    def sent(answer: Any) -> bytes:
        values = answer if isinstance(answer, dict) else {"status": answer}
        headers = values.get("headers")
        pairs = headers.items() if isinstance(headers, dict) else [("X", headers)]
        lines = [f"HTTP/1.1 {values.get('status', '')}", *(f"{key}: {value}" for key, value in pairs)]
        return "\r\n".join(lines).encode(errors="replace") + b"\r\n\r\n" + body

    yield "sound", sent(sound)
    for answer in (moved, packed):
        yield str(answer), sent(answer)
    for answer in (sound, moved, packed):
        yield from ((words, sent(mutant)) for words, mutant in value_mutants(answer))
    for place in (
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http://[",
        "//",
        "data:,x",
        "\x00",
        "http://127.0.0.1:0/",
    ):
        yield f"to {place!r}", sent(put(moved, ("headers", "Location"), place))


@contextlib.contextmanager
def sending(answer: Callable[[BaseHTTPRequestHandler], bytes]) -> Iterator[str]:
    """Gives the address of a server that sends these bytes, and nothing else."""

    class Handler(QuietHandler):
        def send(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with contextlib.suppress(OSError):  # who asked may have gone
                self.wfile.write(answer(self))

        do_GET = do_HEAD = do_POST = do_PUT = send

    with serving(Handler) as address:
        yield address


@reader("URLs of images", some=20)
def _(bench: Bench) -> Iterator[Case]:
    current = b""
    address = bench.held.enter_context(sending(lambda _: current))

    def use(content: bytes) -> None:
        nonlocal current
        current = content
        images.load(fetch(f"{address}/a.png", most=10_000, seconds=1.0), 8, "crop")

    for words, content in answers(image()):
        yield words, lambda content=content: use(content)


@reader("folder trees", some=20)
def _(bench: Bench) -> Iterator[Case]:
    draw(bench.folder / "tree")

    def use(root: Path) -> None:
        config = Config.load(**{"data": str(root), "data.image_size": 16})
        loading.load(config.data)

    yield "sound", lambda: use(bench.folder / "tree")
    for words, make in tree_mutants(bench.folder / "tree", bench.folder / "mutant"):
        yield words, lambda make=make: use(make())


@reader("label files", some=60)
def _(bench: Bench) -> Iterator[Case]:
    draw(bench.folder / "tree")
    header = ["path", "label", "split"]
    rows = [[f"tree/{split}/{name}/0.png", name, split] for split in ("train", "test") for name in ("a", "b")]

    def use(name: str, content: bytes) -> None:
        source = loading.open_source(str(bench.write(name, content)))
        if source.root is not None:  # else its rows were taken for images
            assert all(name.startswith("tree/") for part in source.splits.values() for name in part.names)

    def lines(value: Any) -> bytes:
        stream = io.StringIO()
        for row in value if isinstance(value, list) else [value]:
            csv_writer(stream)(row if isinstance(row, list) else [row])
        return stream.getvalue().encode(errors="replace")

    yield "sound", lambda: use("l.csv", lines([header, *rows]))
    for words, value in value_mutants([header, *rows]):
        yield f"CSV {words}", lambda value=value: use("l.csv", lines(value))
    objects = [dict(zip(header, row, strict=True)) for row in rows]
    for words, value in value_mutants(objects):
        whole = b"\n".join(map(text, value)) if isinstance(value, list) else text(value)
        yield f"JSON {words}", lambda whole=whole: use("l.jsonl", whole)
    for place in (
        "../x.png",
        "/etc/passwd",
        "tree/../../x",
        "C:\\x",
        "//host/x",
        "tree\\..\\..\\x",
        "file:///x",
        "~/x",
    ):
        changed = lines([header, [place, "a", "train"], *rows])
        yield f"path {place}", lambda changed=changed: use("l.csv", changed)
    import pyarrow as pa

    sound = parquet_of([(name, pa.array([row[i] for row in rows])) for i, name in enumerate(header)])
    for words, footer in footer_mutants(footer_of(sound)):
        yield f"footer {words}", lambda footer=footer: use("l.parquet", with_footer(sound, footer))


def tar_of(entries: Iterable[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as target:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            target.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def byte_mutants(content: bytes, marks: Iterable[tuple[bytes, int]]) -> Iterator[tuple[str, bytes]]:
    """Yields a file with each byte of the headers that begin with a mark changed in some ways, and cut there."""
    for mark, length in marks:
        place = content.find(mark)
        while place >= 0:
            for i in range(place, min(place + length, len(content))):
                for new in (0, 0x20, 0x37, 0x7F, 0xFF, content[i] ^ 1):
                    yield f"{i} = {new}", content[:i] + bytes([new]) + content[i + 1 :]
                yield f"{i} bytes", content[:i]
            place = content.find(mark, place + 1)


@reader("archives", some=75)
def _(bench: Bench) -> Iterator[Case]:
    members = {f"{name}/{i}.png": image(level=i) for name in "ab" for i in range(2)}

    def use(name: str, content: bytes) -> None:
        source = loading.open_source(str(bench.write(name, content)))
        for part in source.splits.values():
            for i in range(len(part)):
                with contextlib.suppress(ImageError):
                    images.load(part.images[i], 8, "crop")

    yield "sound", lambda: (use("x.zip", zipped(members.items())), use("x.tar", tar_of(members.items())))
    for words, entries in archive_mutants(members):
        yield f"zip {words}", lambda entries=entries: use("x.zip", zipped(entries))
        if all(name for name, _ in entries):
            yield f"tar {words}", lambda entries=entries: use("x.tar", tar_of(entries))
            yield f"gz {words}", lambda entries=entries: use("x.tgz", gzip.compress(tar_of(entries)))
    marks = ((b"PK\1\2", 46), (b"PK\5\6", 22), (b"PK\3\4", 30))
    for words, content in byte_mutants(zipped(members.items()), marks):
        yield f"zip {words}", lambda content=content: use("x.zip", content)
    whole = tar_of([("long" * 40 + "/0.png", b"x"), *members.items()])
    for words, content in byte_mutants(whole, ((b"././@Long", 512), (b"a/0.png", 512))):
        yield f"tar {words}", lambda content=content: use("x.tar", content)
    for words, content in byte_mutants(gzip.compress(whole), ((b"\x1f\x8b", 60),)):
        yield f"gz {words}", lambda content=content: use("x.tar.gz", content)


@reader("WebDataset", some=75)
def _(bench: Bench) -> Iterator[Case]:
    labels = {"label": 1, "width": 8, "name": "a"}
    members = {f"{i}.{kind}": content for i in range(2) for kind, content in {
        "png": image(level=i), "cls": str(i).encode(), "json": text(labels),
    }.items()}  # fmt: skip

    def use(content: bytes, beside: tuple[str, bytes] = ("classes.txt", b"a\nb\n")) -> None:
        for name in ("classes.txt", "labels.json"):
            (bench.folder / name).unlink(missing_ok=True)
        bench.write(*beside)
        source = loading.open_source(str(bench.write("train-0.tar", content)))
        for part in source.splits.values():
            for encoded in part.images:
                with contextlib.suppress(ImageError):
                    images.load(encoded, 8, "crop")

    yield "sound", lambda: use(tar_of(members.items()))
    for words, entries in archive_mutants(members):
        if all(name for name, _ in entries):
            yield words, lambda entries=entries: use(tar_of(entries))
    for words, value in value_mutants(labels):
        changed = {**members, "1.json": text(value)}
        del changed["1.cls"]
        yield f"json {words}", lambda changed=changed: use(tar_of(changed.items()))
    for words, content in byte_mutants(tar_of(members.items()), ((b"1.png", 512), (b"1.cls", 600))):
        yield words, lambda content=content: use(content)
    for words, value in value_mutants({"a": 0, "b": 1}):
        yield f"classes {words}", lambda v=value: use(tar_of(members.items()), ("labels.json", text(v)))
    for name in TEXTS:
        names = name.encode(errors="surrogateescape")
        yield (
            f"classes {name[:20]!a}",
            lambda names=names: use(tar_of(members.items()), ("classes.txt", names + b"\nb")),
        )


@reader(".keras", some=12)
def _(bench: Bench) -> Iterator[Case]:
    def use(entries: list[tuple[str, bytes]]) -> None:
        path = bench.write("m.keras", zipped(entries))
        artifact.read_info(path)
        opening.load(path, device="cpu").predict(np.zeros((1, 16, 16, 3), np.uint8))

    yield "sound", lambda: use([*bench.tiny.items()])
    for words, entries in archive_mutants(bench.tiny):
        yield words, lambda entries=entries: use(entries)
    for name in ("kcv.json", "config.json", "metadata.json"):
        for words, value in value_mutants(json.loads(bench.tiny[name])):
            yield f"{name} {words}", lambda n=name, v=value: use([*{**bench.tiny, n: text(v)}.items()])
    for words, content in hdf5_mutants(bench.tiny["model.weights.h5"]):
        yield words, lambda c=content: use([*{**bench.tiny, "model.weights.h5": c}.items()])


@reader(".onnx", some=20)
def _(bench: Bench) -> Iterator[Case]:
    def use(content: bytes) -> None:
        OnnxModel(bench.write("m.onnx", content), device="cpu", threads=1).run(np.zeros((1, SIZE, SIZE, 3), np.uint8))

    sound = network()
    yield "sound", lambda: use(sound)
    for number, mutant in enumerate(field_mutants(fields_of(sound, MODEL))):
        yield f"{number}", lambda mutant=mutant: use(message_of(mutant))


@reader("OpenVINO's files", some=60)
def _(bench: Bench) -> Iterator[Case]:
    def use(graph: bytes, weights: bytes) -> None:
        path = bench.write("m.xml", graph)
        bench.write("m.bin", weights)
        describe(path)  # all checks; running it needs OpenVINO
        if find_spec("openvino") is not None:
            OpenVinoModel(path, threads=1).run(np.zeros((1, SIZE, SIZE, 3), np.uint8))

    graph, weights = openvino_by_hand.network().files()
    yield "sound", lambda: use(graph, weights)
    for words, made in element_mutants(graph):
        yield words, lambda made=made: use(made(), weights)
    for words, entries in archive_mutants({"m.bin": weights}):
        content = dict(entries).get("m.bin", b"")
        yield words, lambda content=content: use(graph, content)


@reader("torch.export and LiteRT", some=60)
def _(bench: Bench) -> Iterator[Case]:
    members = {
        "m/extra/kcv.json": text(INFO.to_metadata()),
        "m/models/model.json": b"{}",
        "m/data/weights/w": bytes(99),
    }

    def use(entries: list[tuple[str, bytes]]) -> None:
        describe_torch(bench.write("m.pt2", zipped(entries)))

    def use_litert(entries: list[tuple[str, bytes]]) -> None:
        describe_litert(bench.write("m.tflite", b"TFL3" * 99 + zipped(entries)))

    yield "sound", lambda: use([*members.items()])
    for reads, whole in ((use, members), (use_litert, {"kcv.json": members["m/extra/kcv.json"]})):
        for words, entries in archive_mutants(whole):
            if all(name for name, _ in entries):  # zipfile writes none without a name
                yield words, lambda reads=reads, entries=entries: reads(entries)
    for words, value in value_mutants(INFO.to_metadata()):
        yield words, lambda v=value: use([*{**members, "m/extra/kcv.json": text(v)}.items()])


@reader("weights", some=75)
def _(bench: Bench) -> Iterator[Case]:
    import h5py
    import torch

    from kcv.models.weights import keras_files, state_dict

    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}
    stream = io.BytesIO()
    torch.save({"state_dict": state, "epoch": 3}, stream)
    with zipfile.ZipFile(stream) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def use(name: str, content: bytes) -> None:
        state_dict.read(bench.write(name, content))

    yield "sound", lambda: use("w.pth", stream.getvalue())
    for words, entries in archive_mutants(members):
        yield words, lambda entries=entries: use("w.pth", zipped(entries))
    name = "archive/data.pkl"
    for number, mutant in enumerate(pickle_mutants(members[name])):
        yield f"{number}", lambda m=mutant: use("w.pth", zipped({**members, name: m}.items()))
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "F16", "shape": [2], "data_offsets": [24, 28]},
    }
    for words, value in value_mutants(header):
        whole = len(text(value)).to_bytes(8, "little") + text(value) + bytes(28)
        yield words, lambda whole=whole: use("w.safetensors", whole)
    numbers = io.BytesIO()
    with h5py.File(numbers, "w") as file:
        file["dense/kernel:0"] = np.zeros((8, 3), "f4")
        file["dense"].attrs["weight_names"] = ["kernel:0"]
    for words, content in hdf5_mutants(numbers.getvalue()):
        yield (
            words,
            lambda c=content: keras_files._classes_of(bench.write("w.h5", c), 8, 2),
        )  # before a network is built


def run_folder(bench: Bench) -> Path:
    """Makes the folder of a finished run, with what a report and a continuation read of it."""
    info = json.loads(bench.tiny["kcv.json"])
    mistake = {"picture": "a.png", "true": "a", "predicted": "b", "confidence": 0.75, "suspected_label_error": True}
    figures = {"deletion_auc": 0.5, "insertion_auc": 0.5, "rank_correlation": 0.1, "flat": 0.0}
    environment = {
        "started": "2024", "command": "kcv train", "python": "3.12", "packages": {"keras": "3"}, "device": "cpu",
        "threads": 2, "seed": 1, "weights": "random", "git_commit": None, "working_folder": "/",
    }  # fmt: skip
    contents = {
        "model.keras": zipped(bench.tiny.items()),
        "config.yaml": Config().to_yaml().encode(),
        "history.csv": b"epoch,loss,accuracy,val_loss,val_accuracy,lr,seconds\n1,1,0.5,1,0.5,0.1,2\n2,1,1,1,1,0,2\n",
        "environment.json": text(environment),
        "metrics.json": text(info["metrics"]),
        "evaluation/metrics.json": text(info["metrics"]),
        "evaluation/mistakes.json": text({"mistakes": [mistake]}),
        "evaluation/explanations.json": text({"pictures": 3, "methods": {"gradcam": figures}}),
        "evaluation/roc.svg": b"<svg xmlns='http://www.w3.org/2000/svg'></svg>",
    }
    for name, content in contents.items():
        bench.write(f"run/{name}", content)
    return bench.folder / "run"


@reader("run folders", some=40)
def _(bench: Bench) -> Iterator[Case]:
    def use(run: Path) -> None:
        material = gather(run / "model.keras", run / "evaluation")
        page(material)
        card(material)
        run_summary(finished(RunFolder.existing(run)))

    def spoiled(path: Path, content: bytes) -> None:
        before = path.read_bytes()
        path.write_bytes(content)
        try:
            use(sound)
        finally:
            path.write_bytes(before)

    sound = run_folder(bench)
    yield "sound", lambda: use(sound)
    for path in [*sound.glob("*.json"), *sound.glob("*/*.json")]:
        for words, value in value_mutants(json.loads(path.read_bytes())):
            yield f"{path.name} {words}", lambda p=path, v=value: spoiled(p, text(v))
    rows = [line.split(",") for line in (sound / "history.csv").read_text().splitlines()]
    for words, value in value_mutants(rows):
        lines = io.StringIO()
        for row in value if isinstance(value, list) else [value]:
            csv_writer(lines)(row if isinstance(row, list) else [row])
        content = lines.getvalue().encode(errors="replace")
        yield f"history {words}", lambda c=content: spoiled(sound / "history.csv", c)
    for words, make in tree_mutants(sound, bench.folder / "mutant"):
        yield words, lambda make=make: use(make())


@reader("studies", some=20)
def _(bench: Bench) -> Iterator[Case]:
    folder = StudyFolder(bench.folder / "study")
    folder.path.mkdir()
    folder.write(
        Settings(
            values={"data": {"source": "digits"}}, given={"optim.lr": "0.1"}, chosen={"model.name": "custom_cnn"},
            space={"optim.lr": {"low": 0.1, "high": 1.0, "log": True}, "augment.policy": ["none", "light"]},
            pruner="asha", trials=3, minutes=None, workers=1, threads=None, seeds=3, storage=None, study="kcv",
            owner="me", working_folder=str(bench.folder),
        )
    )  # fmt: skip
    sound = folder.settings.read_bytes()

    def use(content: bytes) -> None:
        folder.settings.write_bytes(content)
        found = folder.read(str(folder.path))
        check_space(found.space, Configurations(found.values, found.given, found.chosen))

    yield "sound", lambda: use(sound)
    for words, value in value_mutants(json.loads(sound)):
        yield words, lambda v=value: use(text(v))


@reader("checkpoints", some=40)
def _(bench: Bench) -> Iterator[Case]:
    import hashlib

    import safetensors.torch

    folder = bench.folder / "resume"
    folder.mkdir()
    state = made_state()
    CheckpointStore(folder).save(state)
    manifest, own = folder / "checkpoint-00000001.json", folder / "checkpoint-00000001.safetensors"
    said, stored = json.loads(manifest.read_bytes()), own.read_bytes()
    del said["sha256"]

    def use(values: Any, content: bytes = stored) -> None:
        manifest.write_bytes(text(values))
        own.write_bytes(content)
        CheckpointStore(folder).newest(PLAN.check)

    def holding(plain: Any) -> None:
        content = safetensors.torch.save(dict(state.tensors), {"plain": json.dumps(plain)})
        use(put(said, ("files", own.name), hashlib.sha256(content).hexdigest()), content)

    config = Config.load(**{"data": "digits"})
    record = {
        "config": config.flatten(), "fingerprint": "f" * 64, "counts": {"train": 90, "val": 24}, "by_row_group": False,
        "device": "cpu", "precision": "float32", "surroundings": {"kcv": "1.0", "packages": {"torch": "2.0"}},
        "tracking": {"location": None, "run": None}, "signature": "0" * 64,
    }  # fmt: skip

    def begun(values: Any) -> None:
        if isinstance(values, dict):
            content = {key: value for key, value in values.items() if key not in ("sha256", "signature")}
            values = {**values, "sha256": seal.checksum(content)}
        found = Record.read(bench.write("run.json", text(values)))
        found.require(config)
        found.require_machine({"device": "cpu", "precision": "float32", "kcv": "1.0", "packages": {"torch": "2.0"}})
        require_named(config, found, (), bench.folder)

    yield "sound", lambda: (use(said), seal.signature({}), begun(record))
    for words, value in value_mutants(said):
        yield f"manifest {words}", lambda value=value: use(value)
    for words, value in value_mutants(state.plain):
        yield f"state {words}", lambda value=value: holding(value)
    for words, value in value_mutants(record):
        yield f"record {words}", lambda value=value: begun(value)


@reader("parts of a prediction", some=75)
def _(bench: Bench) -> Iterator[Case]:
    files = [bench.write(f"{level}.png", image(level=level)) for level in range(2)]
    rows: list[Any] = list(predict(files, Brightness()))
    names = [key for key in rows[0] if key != "probabilities"]
    part, output = bench.folder / "part", bench.folder / "rows.csv"

    def use(rows: Any) -> bool:
        write_part(part, [rows], state_of(files, "this"))
        return is_sound(part, files, names, "this") and len(list(read_part(part, 2))) == 2

    def resumed(record: Any) -> None:
        bench.write("rows.csv.parts/prediction.json", text(record))
        try:
            assert len(list(predict(files, Brightness(), output=output, resume=True))) == 2
        finally:
            shutil.rmtree(bench.folder / "rows.csv.parts", ignore_errors=True)

    yield "sound", lambda: use(rows)
    for words, value in value_mutants(rows):
        if isinstance(value, list):
            yield words, lambda value=value: use(value)
    record = {
        "pictures": 2, "names": "0" * 64, "model": "m", "model_bytes": None, "model_changed": None, "part": 2048,
        "batch": 2, "columns": names, "threshold": None,
    }  # fmt: skip
    for words, value in value_mutants(record):
        yield f"record {words}", lambda value=value: resumed(value)


@reader("folds", some=60)
def _(bench: Bench) -> Iterator[Case]:
    names, labels, classes = ["a.png", "b.png", "c.png"], np.array([0, 1, 1]), ("cat", "dog")
    config = Config.load(**{"data": "digits"})
    plan = {
        "folds": 2, "digest": "0" * 16, "fingerprint": "f" * 64, "ensemble": False, "config": config.flatten(),
        "working_folder": "/somewhere", "signature": "0" * 64,
    }  # fmt: skip
    part = {"split": "out-of-fold", "accuracy": 0.5, "accuracy_ci95": [0.1, 0.9], "n": 3}
    figures = {
        **part, "folds": [{"fold": 1, "n": 3, "accuracy": 0.5}], "label_errors": {"suspects": 1, "estimated": 0.5},
        "final": {"file": "final/model.keras", "metrics": {**part, "split": "test"}},
    }  # fmt: skip
    scores = np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]])
    out_of_fold = bench.folder / "out_of_fold.csv"
    OutOfFold(names, labels, labels + 1, labels, scores, classes).write(out_of_fold)
    table = list(csv.reader(io.StringIO(out_of_fold.read_text())))

    def planned(values: Any) -> None:
        if isinstance(values, dict):
            content = {key: value for key, value in values.items() if key not in ("sha256", "signature")}
            values = {**values, "sha256": seal.checksum(content)}
        bench.write("folds.json", text(values))
        found = Plan.read(bench.folder)
        assert not found.own
        found.require(config, 2, ensemble=False)

    def shown(values: Any) -> None:
        found = read_figures(bench.write("metrics.json", text(values)))
        told = console.shown(folds_summary(Folds(bench.folder, bench.folder, found, 1.0)))
        assert is_printable(told.replace("\n", ""))

    def predicted(value: Any) -> None:
        lines = io.StringIO()
        for row in value if isinstance(value, list) else [value]:
            csv_writer(lines)(row if isinstance(row, list) else [row])
        out_of_fold.write_bytes(lines.getvalue().encode(errors="replace"))
        found = OutOfFold.read(out_of_fold, names, labels, classes)
        assert np.isfinite(found.probabilities).all()

    yield "sound", lambda: (planned(plan), shown(figures), predicted(table))
    for words, value in value_mutants(plan):
        yield f"plan {words}", lambda value=value: planned(value)
    for words, value in value_mutants(figures):
        yield f"figures {words}", lambda value=value: shown(value)
    for words, value in value_mutants(table):
        yield f"predictions {words}", lambda value=value: predicted(value)


@reader("kept features", some=40)
def _(bench: Bench) -> Iterator[Case]:
    key, shape = "ab" * 32, (3, 4)
    head, values = feature_files._head(shape), np.arange(12, dtype="<f4").tobytes()
    path = feature_files.path_of(key)
    path.parent.mkdir(parents=True)

    def use(body: bytes, *, sealed: tuple[Any, Any] = (key, shape)) -> bool:
        seal = feature_files._seal(io.BytesIO(body), len(body), *sealed)
        path.write_bytes(body + seal)
        found = feature_files.open_kept(key, shape)
        assert found is None or found.tobytes() == values
        return found is not None

    yield "sound", lambda: use(head + values)
    for words, value in value_mutants({"descr": "<f4", "fortran_order": False, "shape": [3, 4]}):
        header = repr(value).encode(errors="replace")[:60_000]
        yield words, lambda h=header: use(head[:8] + len(h).to_bytes(2, "little") + h + values)
    for length in range(0, len(head + values), 3):
        yield f"{length} bytes", lambda length=length: use((head + values)[:length])
    for other in (("cd" * 32, shape), (key, (4, 3)), (key, (12, 1)), ("", (0, 0))):
        yield f"sealed as {other}", lambda other=other: use(head + values, sealed=other)


@reader("configurations", some=30)
def _(bench: Bench) -> Iterator[Case]:
    sound = Config.load(**{"data": "digits", "model.unfreeze_after": 2, "model.weights": "none"}).to_dict()

    def use(value: Any) -> None:
        Config.load(bench.write("c.yaml", yaml.safe_dump(value).encode()))

    yield "sound", lambda: use(sound)
    for words, value in value_mutants(sound):
        yield words, lambda value=value: use(value)


def parquet_of(fields: list[tuple[str, Any]], about: bytes = b"{}") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_arrays([column for _, column in fields], [name for name, _ in fields])
    stream = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({b"huggingface": about}), stream)
    return stream.getvalue()


@reader("Parquet", some=75)
def _(bench: Bench) -> Iterator[Case]:
    import pyarrow as pa

    def use(content: bytes) -> None:
        loading.open_source(str(bench.write("train.parquet", content)))

    def made(fields: Any, about: bytes) -> None:
        try:
            content = parquet_of(fields, about)
        except (pa.ArrowException, UnicodeError):  # what pyarrow cannot write, nobody has
            return
        use(content)

    sound = parquet_of([*columns().items()])
    yield "sound", lambda: use(sound)
    for words, fields, about in column_mutants():
        yield words, lambda fields=fields, about=about: made(fields, about)
    for words, footer in footer_mutants(footer_of(sound)):
        yield f"footer {words}", lambda footer=footer: use(with_footer(sound, footer))


@reader("feature vectors", some=60)
def _(bench: Bench) -> Iterator[Case]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    origin: dict[str, Any] = {"weights_sha256": "ab" * 32, "precision": "float32", "width": 2}
    vectors = pa.array([[1, 0], [0, 1], None], pa.list_(pa.float32()))
    sound: dict[str, Any] = {"path": pa.array(["a", "b", "c"]), "vector": vectors, "label": pa.array(["x", "y", "z"])}

    def use(content: bytes) -> None:
        found = similar("a", bench.write("v.parquet", content))
        assert all(-1 <= row["similarity"] <= 1 for row in found.rows)

    def made(changed: Any = (), about: Any = origin) -> bytes:
        table = pa.table({**sound, **dict(changed)}).replace_schema_metadata({b"kcv": text(about)})
        stream = io.BytesIO()
        pq.write_table(table, stream)
        return stream.getvalue()

    yield "sound", lambda: use(made())
    for words, value in value_mutants(origin):
        yield f"metadata {words}", lambda value=value: use(made(about=value))
    lists = ([[1, 0]] * 2 + [[1]], [[]] * 3, [None] * 3, [[float("nan"), 1]] * 3, [[1e38, 1e38]] * 3, [[0, 0]] * 3)
    kinds = (pa.list_(pa.float32()), pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.int32()))
    for number, values in enumerate(lists):
        for kind in kinds:
            with contextlib.suppress(pa.ArrowInvalid):  # NaN is no whole number
                column = pa.array(values, kind)
                yield f"vectors {number} of {kind}", lambda column=column: use(made({"vector": column}))
    for name in ("path", "label"):
        for column in (pa.array([1, 2, 3]), pa.array([None] * 3), pa.array(["x" * 10**6] * 3), pa.array([b"\xff"] * 3)):
            yield f"{name} of {column.type}", lambda name=name, column=column: use(made({name: column}))
    for words, footer in footer_mutants(footer_of(made())):
        yield f"footer {words}", lambda footer=footer: use(with_footer(made(), footer))


@reader("local data", some=20)
def _(bench: Bench) -> Iterator[Case]:
    draw(bench.folder / "mine")
    source = str(bench.folder / "mine")
    info = json.loads(bench.tiny["kcv.json"])
    info["config"]["data"]["source"] = source
    info["class_names"], info["metrics"] = ["a", "b"], None
    info["data_fingerprint"] = loading.open_source(source).fingerprint
    kept = {
        key: info[key] for key in ("config", "class_names", "image_size", "resize", "data_fingerprint", "data_name")
    }

    def use(value: Any) -> None:
        content = text({**info, **value} if isinstance(value, dict) else value)
        path = bench.write("m.keras", zipped({**bench.tiny, "kcv.json": content}.items()))
        model: Any = SimpleNamespace(info=artifact.read_info(path), path=path)  # a loaded one has weights as well
        splits.load_split(model, "test")

    yield "sound", lambda: use(kept)
    for words, value in value_mutants(kept):
        yield words, lambda value=value: use(value)


@reader("URLs of data", some=30)
def _(bench: Bench) -> Iterator[Case]:
    import fsspec

    disk = fsspec.filesystem("memory")
    disk.pipe_file("/mine/train.parquet", parquet_of([*columns().items()]))
    pieces = ["memory", "://", "", "mine", "/", "train", ".parquet", ""]
    odd = (
        "",
        "x",
        "x" * 5000,
        "\0",
        "\x1b[2J",
        "%zz",
        "é",
        "\udcff",
        "[",
        "*",
        "?a=b",
        "#",
        "..",
        "::",
        "://",
        "@",
        "a:b@",
    )

    def use(url: str) -> None:
        assert len(parquet.open_url(url).splits) == 1

    yield "sound", lambda: use("".join(pieces))
    answer = {"default": {"train": ["HOST/train/0.parquet"]}, "other": {"train": ["HOST/1.parquet"], "test": []}}
    files = {"/train/0.parquet": parquet_of([*columns().items()])}
    hub = bench.held.enter_context(serving_files(files))

    def asked(value: Any) -> None:
        files["/api/datasets/me/pets/parquet"] = text(value).replace(b"HOST", hub.encode())
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_ENDPOINT", hub)
            loading.open_source("hf:me/pets/default")

    for words, value in value_mutants(answer):
        yield f"hub {words}", lambda value=value: asked(value)
    for number, piece in enumerate(pieces):
        for new in (*odd, piece * 2, piece.upper(), "file", "zip", "data", "local"):
            changed = "".join(new if place == number else other for place, other in enumerate(pieces))
            if changed.lower().split(":")[0] in ("memory", "file", "zip", "data", "local", "x", ""):  # no network
                yield repr(changed)[:60], lambda changed=changed: use(changed)


@reader("object stores", some=60)
def _(bench: Bench) -> Iterator[Case]:
    pytest.importorskip("botocore", reason="needs the extra kcv[s3]")
    from kcv.stores import client

    body = image()
    keys = ("p/cat/0.png", "p/cat/1.png", "p/dog/0.png", "p/dog/1.png")
    contents = "".join(
        f'<Contents><Key>{key}</Key><Size>{len(body)}</Size><ETag>"{"a" * 32}"</ETag>'
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
        for key in keys
    )
    sound = (
        "<ListBucketResult><Name>bucket</Name><Prefix>p/</Prefix><EncodingType>url</EncodingType><KeyCount>4</KeyCount>"
        f"<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    ).encode()
    listed, sent = sound, b""

    def wire(content: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content)

    def answer(handler: BaseHTTPRequestHandler) -> bytes:
        if handler.command == "HEAD":
            return b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        return wire(listed) if "list-type" in handler.path else sent

    patch = bench.held.enter_context(pytest.MonkeyPatch.context())
    patch.setenv("AWS_ENDPOINT_URL", bench.held.enter_context(sending(answer)))
    patch.setenv("AWS_NO_SIGN_REQUEST", "1")
    for name, value in {"TRIES": 2, "FIRST_WAIT": 0.0, "SILENCE": 0.5}.items():
        patch.setattr(client, name, value)
    patch.setattr("kcv.stores.listing.MOST_SECONDS", 1.0)
    client._client.cache_clear()
    bench.held.callback(client._client.cache_clear)

    def use(listing: bytes, answered: bytes) -> None:
        nonlocal listed, sent
        listed, sent = listing, answered
        train = loading.open_source("s3://bucket/p").splits["train"]
        for encoded, name in zip(train.images, train.names, strict=True):
            images.load(encoded, 8, "crop", name=name)

    whole = wire(body)
    yield "sound", lambda: use(sound, whole)
    for key in (
        "p/..%2Fx.png",
        "p/cat%2F%1b[2J.png",
        "p/cat/%00.png",
        "x.png",
        "p/",
        "p//a.png",
        "p/cat/" + "x" * 9000,
    ):
        yield f"key {key[:20]}", lambda key=key: use(sound.replace(keys[1].encode(), key.encode()), whole)
    for number, mutant in enumerate((b"", b"<", b"\0" * 900, b"<a>" * 100_000, sound[:300], b"x" * 2**24 + b"y")):
        yield f"listing {number}", lambda mutant=mutant: use(mutant, whole)
    for words, made in element_mutants(sound):
        yield words, lambda made=made: use(made(), whole)
    for words, mutant in answers(body):
        yield f"object {words}", lambda mutant=mutant: use(sound, mutant)


@reader("downloads", some=75)
def _(bench: Bench) -> Iterator[Case]:
    import hashlib

    batch = {"data": np.zeros((1, 3072), np.uint8), "labels": [3], "filenames": ["a.png"], "batch_label": "x"}
    meta = {"label_names": ["a", "b"], "num_vis": 3072}

    def use(content: bytes) -> None:
        bench.write("test_batch", content)
        cifar10._read_split(bench.folder, "test", ("test_batch",), 10)

    yield "sound", lambda: use(pickle.dumps(batch, 4))
    for words, value in value_mutants(batch):
        yield words, lambda value=value: use(pickle.dumps(value, 4))
    for words, value in value_mutants(meta):
        yield words, lambda value=value: cifar10._names(bench.write("batches.meta", pickle.dumps(value, 2)))
    for number, mutant in enumerate(pickle_mutants(pickle.dumps(batch, 2))):
        yield f"{number}", lambda mutant=mutant: use(mutant)
    current, checksum = b"", hashlib.sha256(image()).hexdigest()
    address = bench.held.enter_context(sending(lambda _: current))

    def got(content: bytes) -> None:
        nonlocal current
        current = content
        download(f"{address}/a.png", bench.folder / "a.png", checksum=f"sha256:{checksum}")

    for words, content in answers(image()):
        yield words, lambda content=content: got(content)


@reader("the working folder", some=20)
def _(bench: Bench) -> Iterator[Case]:
    from kcv.tracking.mlflow_database import Database

    sound, commit = bench.folder / "work", "0123456789" * 4
    for name, content in {
        "HEAD": "ref: refs/heads/main\n", "refs/heads/main": f"{commit}\n", "config": "[core]\nfsmonitor = touch x\n",
        "packed-refs": f"# pack-refs\n{commit} refs/heads/other\n", "commondir": ".\n",
    }.items():  # fmt: skip
        bench.write(f"work/.git/{name}", content.encode())
    with contextlib.closing(sqlite3.connect(sound / "mlflow.db")) as database:
        database.execute("CREATE TABLE experiments (id)")
        database.execute("CREATE TABLE alembic_version (version)")
        database.commit()

    def use(folder: Path) -> bool:
        found = Database.of(f"sqlite:///{folder}/mlflow.db", named=False)
        assert found is not None
        return commit_of(folder) == commit and found.problem() is None

    yield "sound", lambda: use(sound)
    for words, make in tree_mutants(sound, bench.folder / "mutant"):
        yield words, lambda make=make: use(make())


@reader("a tracking server's answer", some=20)
def _(bench: Bench) -> Iterator[Case]:
    from kcv.tracking.mlflow import MlflowStore
    from kcv.tracking.store import RunInfo, StoreRejected, StoreUnavailable

    experiment = {"experiment_id": "1", "name": "kcv", "artifact_location": "/x", "lifecycle_stage": "active"}
    info = {"run_id": "a" * 32, "experiment_id": "1", "status": "RUNNING", "lifecycle_stage": "active", "start_time": 1}
    run = {"info": info, "data": {"params": [{"key": "a", "value": "b"}], "metrics": [], "tags": []}}
    sound: dict[str, Any] = {
        "experiments/get-by-name": {"experiment": experiment},
        "runs/create": {"run": run},
        "runs/get": {"run": run},
        "runs/search": {"runs": [run], "next_page_token": ""},
        "metrics/get-history": {"metrics": [{"key": "loss", "value": 1.0, "step": 1, "timestamp": 1}]},
        "runs/log-batch": {},
    }
    current = sound

    def answer(handler: BaseHTTPRequestHandler) -> bytes:
        body = next((text(value) for name, value in current.items() if name in handler.path), b"{}")
        # It closes after each answer, and says so: else the client now and then asks on the connection that has gone.
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    address = bench.held.enter_context(sending(answer))
    store = MlflowStore(address)
    store.prepare()

    def use(answers: dict[str, Any]) -> None:
        nonlocal current
        current = answers
        try:
            for continues in (None, "spool"):
                described = RunInfo("kcv", "name", 0, {"lr": "1"}, {"tag": "x"}, None, continues)
                assert isinstance(store.open_run(described, "spool", None), str)
            store.logged_steps("a" * 32, "loss")
        except (StoreUnavailable, StoreRejected) as error:  # as the tracker tells them
            raise TrackingError(str(error)) from None

    yield "sound", lambda: use(sound)
    for name, value in sound.items():
        for words, mutant in value_mutants(value):
            yield f"{name} {words}", lambda n=name, m=mutant: use({**sound, n: m})


@reader("models in MLflow", some=30)
def _(bench: Bench) -> Iterator[Case]:
    from kcv.tracking.mlflow_models import fetch_model

    model = {
        "name": "photos", "version": "1", "creation_timestamp": 1, "last_updated_timestamp": 1, "status": "READY",
        "source": "mlflow-artifacts:/1/a", "run_id": "a" * 32, "aliases": ["champion"], "tags": [],
    }  # fmt: skip
    digest = hashlib.sha256(b"model").hexdigest()
    files = [
        {"path": "model.keras", "is_dir": False, "file_size": 5}, {"path": "data", "is_dir": True},
        {"path": "model.keras.sha256", "is_dir": False, "file_size": 78},
    ]  # fmt: skip
    sound: dict[str, Any] = {
        "registered-models/alias": {"model_version": model},
        "registered-models/get": {"registered_model": {"name": "photos", "latest_versions": [model]}},
        "model-versions/get-download-uri": {"artifact_uri": "mlflow-artifacts:/1/a"},
        "artifacts?path=1": {"files": files},
    }
    contents = {"a/model.keras.sha256": f"{digest}  model.keras\n".encode(), "a/model.keras": b"model"}
    current: dict[str, Any] = sound

    def answer(handler: BaseHTTPRequestHandler) -> bytes:
        path = handler.path.replace("%2F", "/")
        content = next((value for name, value in contents.items() if path.endswith(name)), None)
        body = content or next((text(value) for name, value in current.items() if name in path), b"{}")
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    address = bench.held.enter_context(sending(answer))
    patch = bench.held.enter_context(pytest.MonkeyPatch.context())
    patch.setenv("MLFLOW_TRACKING_URI", address)
    patch.setattr("kcv.tracking.mlflow_models._PAUSES", ())

    def use(answers: dict[str, Any], kept: dict[str, bytes] | None = None) -> None:
        nonlocal current
        current = answers
        before = dict(contents)
        contents.update(kept or {})
        try:
            assert fetch_model("models:/photos@champion").read_bytes() == b"model"
        finally:
            contents.update(before)

    yield "sound", lambda: use(sound)
    for name, value in sound.items():
        for words, mutant in value_mutants(value):
            yield f"{name} {words}", lambda n=name, m=mutant: use({**sound, n: m})
    uri = "model-versions/get-download-uri"
    for place in (
        "", "file:///etc", "/etc/passwd", "models:/photos/1", "models:/x", "runs:/../..", "http://[", "s3://", "a\0b",
        "mlflow-artifacts://169.254.169.254/1", "mlflow-artifacts:/1/../../a", "ftp://x/y", "x" * 5000,
    ):  # fmt: skip
        yield f"files at {place[:40]!r}", lambda p=place: use({**sound, uri: {"artifact_uri": p}})
    for path in ("../model.keras", "/etc/model.keras", "a\0.keras", "x" * 5000 + ".keras", "..", "", "model.KERAS"):
        listing = {"files": [{"path": path, "is_dir": False, "file_size": 5}]}
        yield f"a file {path[:40]!r}", lambda v=listing: use({**sound, "artifacts?path=1": v})
    for name in contents:
        for body in (b"\0", b"x" * 10_000, digest.upper().encode(), b"0" * 64 + b"  model.keras\n"):
            yield f"{name} holds {body[:20]!r}", lambda n=name, b=body: use(sound, {n: b})


@reader("models in the Hub", some=30)
def _(bench: Bench) -> Iterator[Case]:
    from kcv.hub.models import fetch_from_hub

    constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra kcv[hub]")
    commit, digest = "a" * 40, hashlib.sha256(b"model").hexdigest()
    sound: dict[str, Any] = {
        "id": "anna/photos", "sha": commit, "private": False, "tags": [],
        "siblings": [
            {"rfilename": "model.keras", "size": 5, "blobId": "b" * 40, "lfs": {
                "sha256": digest, "size": 5, "pointerSize": 134}},
            {"rfilename": "README.md", "size": 3, "blobId": "c" * 40},
        ],
    }  # fmt: skip
    current, content = text(sound), b"model"

    def answer(handler: BaseHTTPRequestHandler) -> bytes:
        named = f'X-Repo-Commit: {commit}\r\nETag: "{digest}"'.encode()
        body = current if handler.path.startswith("/api/") else content
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n%s\r\nContent-Length: %d\r\n\r\n" % (named, len(body))
        return head if handler.command == "HEAD" else head + body

    address = bench.held.enter_context(sending(answer))
    patch = bench.held.enter_context(pytest.MonkeyPatch.context())
    patch.setenv("HF_ENDPOINT", address)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr("time.sleep", lambda seconds: None)

    def use(answered: bytes, sent: bytes = b"model") -> None:
        nonlocal current, content
        current, content = answered, sent
        path, pinned = fetch_from_hub("hf://anna/photos")
        assert path.read_bytes() == b"model" and pinned == f"hf://anna/photos@{commit}"
        shutil.rmtree(path.parents[1])

    yield "sound", lambda: use(text(sound))
    for words, mutant in value_mutants(sound):
        yield words, lambda m=mutant: use(m if isinstance(m, bytes) else text(m))
    for sent in (b"", b"x" * 5, b"x" * 10_000):
        yield f"a file {sent[:8]!r}", lambda s=sent: use(text(sound), s)


TEXTS = (
    "\x1b[2J", "<script>x</script>", "\u202egnp", "=cmd()", "a\nb", "\udcff", "a\0b", "x" * 900, "`|*[x](javascript:x)",
    "&lt;", "é" * 900, "\x9b2J",
)  # fmt: skip


@reader("names and texts", some=40)
def _(bench: Bench) -> Iterator[Case]:
    sound = json.loads(bench.tiny["kcv.json"])

    def use(value: Any) -> None:
        path = bench.write("m.keras", zipped({**bench.tiny, "kcv.json": text(value)}.items()))
        said = console.shown(model_card(artifact.read_info(path), path))
        assert all(map(is_printable, said.split("\n")))
        material = gather(path, bench.folder / "evaluation")
        assert "<script" not in page(material)
        assert not re.search(r"(?<!\\)<script", card(material))

    yield "sound", lambda: use(sound)
    for place in places(sound):
        if isinstance(at(sound, place), str):
            for new in TEXTS:
                yield f"{place} = {new[:20]!a}", lambda p=place, n=new: use(put(sound, p, n))


@reader("credentials", some=100)
def _(bench: Bench) -> Iterator[Case]:
    secret = "hunter2"

    def use(url: str) -> bool:
        told = [redaction.without_credentials(url), redaction.hide_credentials(f"no answer from {url}")]
        told += [redaction.data_without_credentials(url), redaction.command(["kcv", "train", f"--tracking={url}"])]
        assert not any(secret in one for one in told)
        return url in told  # as it was: there was nothing to take out

    yield "sound", lambda: use("https://host/path")
    for scheme in ("http", "HTTPS", "postgresql+psycopg2", "mysql", "ftp", "webdav"):
        for user in ("anna", "", "a%40b", "a.b-c", "x" * 5000):
            for host in ("host", "[::1]:80", "", "h" * 5000, "host:5432", "é"):
                for path in ("", "/", "/a/b.parquet", "/a@b", "/%zz", "/é"):
                    url = f"{scheme}://{user}:{secret}@{host}{path}"
                    yield url[:100], lambda url=url: use(url)


@reader("requests over HTTP", some=150)
def _(bench: Bench) -> Iterator[Case]:
    encoded = base64.b64encode(image()).decode()
    pixels = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": list(range(12))}
    texts = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [encoded], "parameters": {}}
    ranked = [{"name": "probabilities", "parameters": {"classification": 2, "binary_data": True}}, {"name": "label"}]
    sound = [
        (True, {"id": "1", "inputs": [texts], "outputs": ranked, "parameters": {"binary_data_output": False}}),
        (True, {"inputs": [pixels]}),
        (False, {"inputs": [encoded], "params": {"top_k": 2}}),
        (False, {"dataframe_split": {"columns": ["id", "image"], "data": [[1, encoded]]}}),
    ]

    def use(protocol: bool, body: bytes) -> None:
        try:
            if protocol:
                asked = read_request(body, None, Limits(8, 100)).images
            else:
                asked = read_invocation(body, most=8, max_pixels=100).images
        except Problem as problem:
            assert 400 <= problem.code < 500
            raise UsageError(problem.reason) from None
        for one in asked:
            images.load(one, 8, "crop", max_pixels=100)

    yield "sound", lambda: [use(protocol, text(body)) for protocol, body in sound] and None
    for protocol, body in sound:
        for words, mutant in value_mutants(body):
            yield words, lambda p=protocol, m=mutant: use(p, text(m))
        whole = text(body)
        for end in range(0, len(whole), 7):
            yield f"cut at {end}", lambda p=protocol, e=end, w=whole: use(p, w[:e])


@reader("TensorBoard's folder", some=25)
def _(bench: Bench) -> Iterator[Case]:
    pytest.importorskip("tensorboard", reason="needs the extra kcv[tensorboard]")
    from kcv.tracking.store import RunInfo
    from kcv.tracking.tensorboard import TensorBoardStore

    store = TensorBoardStore(bench.folder / "logs")
    store.prepare()
    run = store.open_run(RunInfo("kcv", "run", 0, {}, {}, None, None), "key", None)
    for step in range(1, 4):
        store.log_metrics(run, {"loss": 1.0}, step, 0)
    (file,) = (bench.folder / "logs").rglob("events.*")
    whole = file.read_bytes()

    def use(content: bytes) -> bool:
        file.write_bytes(content)
        return store.logged_steps(run, "loss") == {1, 2, 3}

    yield "sound", lambda: use(whole)
    for words, mutant in byte_mutants(whole, [(b"loss", 4), (b"brain.Event", 11)]):
        yield words, lambda m=mutant: use(m)


@reader("W&B", some=25)
def _(bench: Bench) -> Iterator[Case]:
    from kcv.tracking.wandb import _refuse_settings_of_the_folder

    patch = bench.held.enter_context(pytest.MonkeyPatch.context())
    patch.chdir(bench.folder)
    patch.delenv("WANDB_BASE_URL", raising=False)
    sound = b"[default]\nproject = photos\nentity = anna\nbase_url = https://somewhere.example\n"

    def use(content: bytes) -> None:
        bench.write("wandb/settings", content)
        _refuse_settings_of_the_folder()

    yield "sound", lambda: use(sound.replace(b"base_url", b"x"))
    for words, mutant in byte_mutants(sound, [(b"base_url", 8), (b"= https", 7)]):
        yield words, lambda m=mutant: use(m)


def test_each_row_of_the_table_has_mutants_and_each_reader_a_row() -> None:
    table = re.search(r"\n\| input \| how \|\n\| --- \| --- \|\n((?:\|.*\n)+)", SECURITY.read_text(encoding="utf-8"))
    assert table is not None
    rows = [line.split("|")[1].strip().strip("`") for line in table[1].splitlines()]
    assert len(set(rows)) == len(rows)
    assert set(rows) == READERS.keys()


class Short(logging.Handler):
    """Fails where a warning quotes a file at length."""

    def emit(self, record: logging.LogRecord) -> None:
        assert len(record.getMessage()) < CHARACTERS, record.getMessage()[:500]


def checked(row: str, words: str, use: Callable[[], object]) -> bool:
    """Tells whether a mutant was refused or passed over; anything but that and an answer fails."""
    began = time.process_time()
    try:
        refused = use() is False
    except KcvError as error:
        refused = True
        lines = error.problems if isinstance(error, ConfigError) else [str(error)]
        assert len(lines) <= LINES
        for line in lines:
            assert "\n" not in line and len(line) < CHARACTERS, f"{row}: {words}: {line[:500]}"
    except Exception as error:
        raise AssertionError(f"{row}: {words} ends in {type(error).__name__}") from error
    assert time.process_time() - began < SECONDS, f"{row}: {words}"
    return refused


@pytest.mark.parametrize("how", ["some", pytest.param("most", marks=pytest.mark.long)])
@pytest.mark.parametrize("row", variants(READERS, fast=[row for row in READERS if row not in SLOW]))
@pytest.mark.filterwarnings("ignore")  # Keras and MLflow say of some that they are odd
def test_what_has_one_thing_changed_is_answered_or_refused_in_one_line_and_soon(
    row: str,
    how: str,
    tiny: Members,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some, cases = READERS[row]
    monkeypatch.setattr(logging.getLogger("kcv"), "handlers", [Short()])
    (tmp_path / "bench").mkdir()
    with contextlib.ExitStack() as held:
        sound, *mutants = cases(Bench(tmp_path / "bench", tiny, held))
        assert sound[1]() is not False
        most = some if how == "some" else MOST
        if len(mutants) > most:
            mutants = random.Random(0).sample(mutants, most)
        refused = sum(checked(row, *mutant) for mutant in mutants)
    with capsys.disabled():
        print(f" {row}: {len(mutants):,} mutants, {refused:,} refused", end="")
    assert refused > 0
