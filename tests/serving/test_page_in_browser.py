"""The page in a headless Chromium: what people do with it, on a desk and on a phone, and no complaint."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from onnx_with_maps import with_heatmaps
from served_images import photo, with_texts
from serving import Running, serving

from kcv.inference.reference import Reference
from kcv.serving.problems import Problem, busy
from kcv.serving.queue import Job

if sys.platform == "win32":
    pytest.skip("needs pipes that a process inherits by number", allow_module_level=True)

from browser import Browser, chromium, find_chromium

PROGRAM = find_chromium()
if PROGRAM is None:
    pytest.skip("needs Chromium (or its path in KCV_CHROMIUM)", allow_module_level=True)

TOKEN = "0123456789abcdef-token"
PHOTO = photo(4, (120, 80))
REFERENCE = Reference(split="test", confidence=tuple(range(15)), predicted=(10, 0, 30))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with chromium(PROGRAM, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with heat maps that abstains, and knows its answers on the test split."""
    path = tmp_path_factory.mktemp("page") / "shapes.onnx"
    path.write_bytes(with_texts(with_heatmaps(), threshold="0.955", resize="crop", reference=REFERENCE.to_text()))
    return path


@pytest.fixture(scope="module")
def filed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("filed")


@pytest.fixture(scope="module")
def shown(model: Path, filed: Path) -> Iterator[Running]:
    with serving(model, feedback=filed) as running:
        yield running


@pytest.fixture
def opened(browser: Browser, shown: Running) -> Iterator[Browser]:
    """The page, ready to use; at the end nothing may have been complained of."""
    browser.open(f"http://127.0.0.1:{shown.port}/")
    browser.until("!document.getElementById('input').hidden")
    yield browser
    assert browser.complaints == []


def hand(browser: Browser, event: str, *images: tuple[str, bytes]) -> None:
    """Drops or pastes images."""
    files = json.dumps([[name, base64.b64encode(content).decode()] for name, content in images])
    made = (
        "new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})"
        if event == "drop"
        else "new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true})"
    )
    browser.run(f"""(() => {{
      const data = new DataTransfer();
      for (const [name, content] of {files}) {{
        const bytes = Uint8Array.from(atob(content), (char) => char.charCodeAt(0));
        data.items.add(new File([bytes], name, {{type: "image/png"}}));
      }}
      document.body.dispatchEvent({made});
    }})()""")


def answers(browser: Browser, count: int) -> list[str]:
    """Waits for the answers of all cards."""
    browser.until(
        f"document.querySelectorAll('.card').length === {count} && "
        "[...document.querySelectorAll('.card .answer')].every((one) => one.textContent !== 'Waiting ...')"
    )
    found: list[str] = browser.run("[...document.querySelectorAll('.card .answer')].map((one) => one.textContent)")
    return found


def words(found: dict[str, Any]) -> str:
    percent = f"{100 * found['confidence']:.1f}%"
    if found["label"] == found["likeliest"]:
        return f"{found['likeliest']}, {percent}"
    return f"Unsure: most likely {found['likeliest']}, but {percent} is below the model's threshold of 95.5%"


def test_dropped_and_pasted_images_get_what_predict_says(opened: Browser, shown: Running) -> None:
    images = [(f"{seed}.png", photo(seed)) for seed in range(6)]
    hand(opened, "drop", *images[:4], ("bad.png", b"no image, but long enough"))
    answers(opened, 5)
    hand(opened, "paste", *images[4:])
    told = answers(opened, 7)
    rows = [shown.post("/predict", content).json["predictions"][0] for _, content in images]
    assert [*told[:4], *told[5:]] == [words(row) for row in rows]
    assert told[4].startswith("Not classified: ") and "not an image" in told[4]
    assert len({row["label"] for row in rows}) == 2, "some are unsure, some are not"
    assert opened.run("document.querySelectorAll('.card.unsure').length") == sum(r["label"] == "unsure" for r in rows)
    assert opened.run("document.querySelectorAll('.bars li').length") == 18
    assert opened.until("document.getElementById('status').textContent") == "2 images classified" + (
        f", {unsure} of them unsure." if (unsure := sum(row["label"] == "unsure" for row in rows[4:])) else "."
    )
    text = opened.run("csvOf(predictionRows(cards))")
    assert text.splitlines()[0].startswith("path,label,confidence,error,likeliest,label_2")
    assert len(text.splitlines()) == 8
    opened.run("document.getElementById('clear').click()")
    assert opened.run("document.getElementById('results').hidden && document.activeElement.id") == "files"
    # The browser itself says that the server has refused the bad one.
    opened.complaints[:] = [one for one in opened.complaints if "415" not in one]


def test_a_name_is_text_and_never_markup(opened: Browser) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    hand(opened, "drop", (name, PHOTO))
    answers(opened, 1)
    assert opened.run("document.querySelector('.card .name').textContent") == name
    assert opened.run("document.querySelectorAll('.card img').length") == 1


def test_the_heat_map_lies_on_the_middle_square_under_its_slider(opened: Browser) -> None:
    hand(opened, "drop", ("a.png", PHOTO))
    answers(opened, 1)
    opened.run("document.querySelector('.explain-show').click()")
    opened.until("!document.querySelector('.map').hidden")
    place = opened.run("""(() => {
      const image = document.querySelector('.image').getBoundingClientRect();
      const map = document.querySelector('.map').getBoundingClientRect();
      return [(map.left - image.left) / image.width, map.width / image.width, map.height / image.height];
    })()""")
    assert place == pytest.approx([1 / 6, 2 / 3, 1], abs=0.02)
    assert "is strongest" in opened.until("document.querySelector('.explained').textContent")
    opened.run("""(() => {
      const slider = document.querySelector('.slider');
      slider.value = 20;
      slider.dispatchEvent(new Event('input'));
    })()""")
    assert opened.run("getComputedStyle(document.querySelector('.map')).opacity") == "0.2"
    alpha = "Math.max(...document.querySelector('.map').getContext('2d').getImageData(0, 0, 16, 16).data)"
    assert opened.run(alpha) == 255


def test_feedback_files_the_image(opened: Browser, filed: Path) -> None:
    name = hashlib.sha256(PHOTO).hexdigest() + ".png"
    hand(opened, "drop", ("a.png", PHOTO))
    answers(opened, 1)
    likeliest = opened.run("cards[0].found.likeliest")
    opened.run("document.querySelector('.right').click()")
    opened.until(f"document.querySelector('.filed').textContent === 'Filed as {likeliest}. Thank you.'")
    assert [str(path.relative_to(filed)) for path in filed.rglob("*.png")] == [f"{likeliest}/{name}"]
    other = next(one for one in "abc" if one != likeliest)
    for typed, said in (("z", "The model has no class of this name: z"), (other, f"Filed as {other}. Thank you.")):
        opened.run(f"""(() => {{
          document.querySelector('.wrong-class').focus();
          document.querySelector('.wrong-class').value = '{typed}';
          document.querySelector('.wrong').requestSubmit();
        }})()""")
        opened.until(f"document.querySelector('.filed').textContent === '{said}'")
    assert [str(path.relative_to(filed)) for path in filed.rglob("*.png")] == [f"{other}/{name}"]
    assert opened.run("[...document.querySelectorAll('#classes option')].map((one) => one.value).join()") == "a,b,c"


def test_the_camera_takes_images(opened: Browser) -> None:
    opened.run("document.getElementById('camera-start').click()")
    opened.until("document.getElementById('video').videoWidth > 0 && document.activeElement.id === 'camera-take'")
    opened.run("document.getElementById('camera-take').click()")
    (told,) = answers(opened, 1)
    assert "%" in told
    assert opened.run("document.querySelector('.card .name').textContent") == "camera-1.jpg"
    opened.run("document.getElementById('camera-stop').click()")
    assert opened.run("camera === null && document.activeElement.id") == "camera-start"


def test_the_answers_so_far_stand_beside_those_of_the_test_split(opened: Browser) -> None:
    pytest.importorskip("prometheus_client", reason="needs prometheus-client, of the extra serve")
    hand(opened, "drop", ("a.png", PHOTO))
    answers(opened, 1)
    opened.run("document.querySelector('#drift summary').click()")
    opened.until("document.querySelectorAll('#drift table').length === 2")
    heads = opened.run("[...document.querySelectorAll('#drift table')].map((one) => one.rows[0].innerText)")
    assert all("so far" in head and "on the test split" in head for head in heads)
    cells = opened.run(
        "[...document.querySelectorAll('#drift table')[0].rows].slice(1).map((one) => one.cells[2].innerText)"
    )
    assert [cell.strip() for cell in cells] == ["25.0%", "0.0%", "75.0%"]
    assert opened.run("document.querySelectorAll('#drift table')[1].rows.length") == 16


def test_it_is_operated_by_keyboard_in_a_sensible_order(opened: Browser) -> None:
    hand(opened, "drop", ("a.png", PHOTO))
    answers(opened, 1)
    opened.run("document.activeElement.blur()")
    reached = []
    for _ in range(12):
        opened.press("Tab", 9)
        reached.append(opened.run("document.activeElement.id || document.activeElement.className.split(' ')[0]"))
    wanted = ["files", "camera-start", "csv", "clear", "explain-class", "explain-show", "right", "wrong-class"]
    assert [one for one in dict.fromkeys(reached) if one in wanted] == wanted
    assert opened.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [320, 375, 1200])
def test_it_fits_every_width_in_light_and_dark(browser: Browser, shown: Running, width: int, dark: bool) -> None:
    browser.open(f"http://127.0.0.1:{shown.port}/", width=width, dark=dark)
    browser.until("!document.getElementById('input').hidden")
    hand(browser, "drop", ("a-very-long-name-without-any-space-in-it-" * 3 + ".png", PHOTO), ("b.png", photo(5)))
    answers(browser, 2)
    browser.run("document.querySelector('.explain-show').click()")
    browser.until("!document.querySelector('.map').hidden")
    browser.run("document.querySelector('#drift summary').click()")
    assert browser.run("document.documentElement.scrollWidth") <= width
    red = browser.run("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]")
    assert (int(red) < 60) == dark
    assert browser.complaints == []


def test_the_token_is_asked_for_and_used(browser: Browser, model: Path) -> None:
    with serving(model, token=TOKEN) as running:
        browser.open(f"http://127.0.0.1:{running.port}/")
        browser.until("!document.getElementById('access').hidden && document.activeElement.id === 'token'")
        assert "shapes" not in browser.run("document.body.innerText")
        for given, said in (
            ("wrong-token-0123456", "This is not the token of the server."),
            ("mit ümlaut", "A token has"),
        ):
            browser.run(f"document.getElementById('token').value = '{given}'")
            browser.run("document.getElementById('access-form').requestSubmit()")
            browser.until(f"document.getElementById('problem').textContent.startsWith('{said}')")
        browser.run(f"document.getElementById('token').value = '{TOKEN}'")
        browser.run("document.getElementById('access-form').requestSubmit()")
        browser.until("!document.getElementById('input').hidden")
        assert (
            browser.run("document.getElementById('token').value + document.getElementById('problem').textContent") == ""
        )
        hand(browser, "drop", ("a.png", PHOTO))
        (told,) = answers(browser, 1)
        assert "%" in told
        assert browser.run("document.querySelector('.feedback').hidden")
        assert browser.run("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])") == '[{},{},""]'


def test_a_busy_server_is_asked_again_and_a_failed_image_on_request(
    opened: Browser, shown: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, refusals = shown.service.queue.put, [busy("too many wait."), Problem(500, "a mistake.")]

    def refuse_first(job: Job) -> None:
        if refusals:
            raise refusals.pop(0)
        put(job)

    monkeypatch.setattr(shown.service.queue, "put", refuse_first)
    hand(opened, "drop", ("a.png", PHOTO))
    assert answers(opened, 1) == ["Not classified: a mistake."]
    assert refusals == []
    opened.run("document.querySelector('.again').click()")
    opened.until("document.querySelector('.answer').textContent.includes('%')")
    assert opened.run("document.querySelectorAll('.card.failed').length") == 0
    opened.until("document.getElementById('status').textContent.startsWith('a.png: ')")
    opened.complaints[:] = [one for one in opened.complaints if "503" not in one and "500" not in one]
