"""The guide to serving, held against a server: its commands and lines of Python run, and its files fit the code."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from onnx_by_hand import network
from packaging.requirements import Requirement
from served_images import photo, with_texts
from serving import Running, serving

from kcv.cli.specification import find_verb

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guides" / "serve.md"
FILES = ROOT / "docs" / "serve"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of the model that the guide names."""
    path = tmp_path_factory.mktemp("guide") / "photos.onnx"
    path.write_bytes(with_texts(network(), class_names='["cat", "dog", "ship"]'))
    with serving(path) as running:
        yield running


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def test_its_commands_run(photos: Running, tmp_path: Path) -> None:
    if shutil.which("curl") is None or shutil.which("openssl") is None:
        pytest.skip("needs curl and openssl")
    for number, name in enumerate(("a.jpg", "b.jpg")):
        (tmp_path / name).write_bytes(photo(number, format="JPEG"))
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith(("curl", "openssl"))]
    assert len(lines) >= 6
    for line in lines:
        if " -F " in line and photos_takes_no_forms():
            continue
        command = line.replace("127.0.0.1:8000", f"127.0.0.1:{photos.port}").replace("curl ", "curl -sS --fail ")
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        if "/predict" in line:
            assert json.loads(done.stdout)["predictions"][0]["label"] in ("cat", "dog", "ship")


def photos_takes_no_forms() -> bool:
    return importlib.util.find_spec("python_multipart") is None


def test_its_python_runs(photos: Running, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(photo(1, format="JPEG"))
    (code,) = blocks("python")
    code = code.replace("127.0.0.1:8000", f"127.0.0.1:{photos.port}")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["probabilities", "label", "confidence"]


def test_it_shows_an_answer_as_it_is(photos: Running) -> None:
    (shown,) = blocks("json")
    answered = photos.post("/predict?top_k=2", photo(1)).json

    def shape(value: object) -> object:
        if isinstance(value, dict):
            return {key: shape(inner) for key, inner in value.items()}
        return [shape(inner) for inner in value] if isinstance(value, list) else type(value)

    assert shape(json.loads(shown)) == shape(answered)


def test_its_defaults_are_those_of_the_command() -> None:
    flags = find_verb("serve").flags
    text = GUIDE.read_text(encoding="utf-8")
    assert set(re.findall(r"`--(\w+)", text)) <= {*flags, *find_verb("evaluate").flags}
    for flag, words in {"max_mb": "10 MB", "max_pixels": "50 million", "queue_images": "512", "queue_mb": "256 MB",
                        "timeout": "10 s", "connections": "1,000", "drain_seconds": "(5)"}.items():  # fmt: skip
        number = re.sub(r"\D", "", words) + ("000000" if "million" in words else "")
        assert float(number) == float(flags[flag].default)
        assert words in text


def test_the_files_beside_it_name_flags_and_routes_that_exist(photos: Running) -> None:
    flags = find_verb("serve").flags
    for name in ("Dockerfile", "kcv-serve.service", "kubernetes.yaml"):
        text = (FILES / name).read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if "serve" in line or "args:" in line]
        used = {flag for line in lines for flag in re.findall(r"--([a-z_]+)=", line)}
        assert used and used <= set(flags), name
    deployment, _ = yaml.safe_load_all((FILES / "kubernetes.yaml").read_text(encoding="utf-8"))
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert photos.get(container[probe]["httpGet"]["path"]).code == 200
    drain = float(re.search(r"--drain_seconds=(\d+)", str(container["args"]))[1])  # type: ignore[index]
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > drain + flags["timeout"].default


def requirements() -> list[Requirement]:
    lines = (FILES / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def closure(names: list[str]) -> set[str]:
    """Returns packages with all that they need."""
    found: set[str] = set()
    while names:
        name = names.pop()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            needed = map(Requirement, distribution.requires or ())
            names += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def test_the_image_holds_all_that_a_server_needs(tmp_path: Path) -> None:
    """With nothing but the packages of its requirements, as in the image, the server starts and answers."""
    names = closure([one.name for one in requirements()])
    assert not {"torch", "keras", "mlflow", "scipy", "pyarrow"} & names
    site = tmp_path / "site"
    site.mkdir()
    for name in names:
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if ".." not in file.parts}:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    (site / "kcv").symlink_to(ROOT / "kcv")
    (tmp_path / "net.onnx").write_bytes(network())
    script = f"""
import sys
sys.path[:] = [{str(site)!r}, *(path for path in sys.path if "site-packages" not in path and "-site" not in path)]
import os, signal, threading, urllib.request
from kcv.tasks.serve import serve
from served import IMAGE

def ask(url):
    def work():
        with urllib.request.urlopen(urllib.request.Request(url + "/predict", IMAGE)) as answer:
            assert b"<h1" in urllib.request.urlopen(url + "/").read()
            print(answer.status, flush=True)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=work).start()

serve({str(tmp_path / "net.onnx")!r}, port=0, started=ask)
print(*sorted(sys.modules))
"""
    (site / "served.py").write_text(f"IMAGE = {photo(1)!r}")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    answered, loaded = done.stdout.splitlines()
    assert answered == "200"
    assert not {"torch", "keras", "mlflow"} & {name.partition(".")[0] for name in loaded.split()}


def test_the_requirements_of_the_image_are_kcvs_own() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    assert {str(one) for one in requirements()} <= {str(Requirement(line)) for line in stated}
