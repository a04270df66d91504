from __future__ import annotations

import base64
import csv
import html
import json
import os
import re
import select
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from lightning_tl.cli import law, report
from lightning_tl.errors import UserError
from lightning_tl.figure_style import narrow_path
from lightning_tl.study.records import write_results
from lightning_tl.study.report_page import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PLANTED = "<script>console.error('planted')</script>"


def results(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for render, gap in (("digits", 0.01), (PLANTED, 0.08)):
        for draw in (0, 1):
            for n in (0, 64, 128, 256, 512, 1024):
                error = 0.13 if n == 0 else 0.4 * n**-0.5 + gap
                rows.append(
                    {
                        "run_id": f"scratch-draw{draw}" if n == 0 else f"{render}-n{n}-draw{draw}-{'x' * 60}",
                        "render": render,
                        "pretrain_images": n,
                        "backbone": "resnet10_w16",
                        "finetune_task": "sinclass",
                        "finetune_data": "mnist5000",
                        "transfer": "full",
                        "lr": 0.004,
                        "draw_seed": draw,
                        "error": round(error * float(np.exp(rng.normal(0, 0.03))), 5),
                        "seconds": 1.5,
                    }
                )
    write_results(folder / "results.csv", rows)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of made-up numbers, with pictures and facts, and a script planted in every text."""
    folder = tmp_path_factory.mktemp("report")
    results(folder)
    assert law.main([str(folder / "results.csv"), f"--out={folder}"]) == 0
    for path in ("renders/digits/sheet.png", "targets/Digits-sinclass.png"):
        (folder / path).parent.mkdir(parents=True)
        Image.effect_noise((1500, 300), 40).save(folder / path)
    narrow = narrow_path(folder / path)
    Image.effect_noise((390, 300), 40).save(narrow)  # shown in place of the last one on narrow screens
    facts = {
        "study": {"title": f"Worth it? {PLANTED}", "choose": {"key": "model.optimizer.lr"}, "note": list(range(40))},
        "chosen": {PLANTED: {"chosen": 0.004, "tried": [[0.004, 0.1], [PLANTED, 0.2]]}},
        "seconds": {PLANTED: 3.0},
        "tested_on_validation": [f"Rendered{PLANTED}"],
        "cores": 2,
        "checkpoints": {"pretrain": ["best.ckpt"], "finetune": ["last.ckpt", f"{PLANTED}"]},
        "still_falling": {"pretrain": {"metric": "val/error", "drop": 0.12, "interval": [0.1, 0.14], "runs": 5}},
        "failures": {f"finetune-{PLANTED}": f"Traceback\n  File\nValueError: {PLANTED}"},
    }
    (folder / "study.json").write_text(json.dumps(facts))
    assert report.main([str(folder)]) == 0
    return folder / "report.html"


def test_the_first_lines_answer_the_first_question(page):
    text = page.read_text(encoding="utf-8")
    block = text[text.index('class="answer"') :]
    lines = re.findall(r"<p>(.*?)</p>", block, re.DOTALL)
    assert lines[0].startswith("Pre-training is better than none with ")
    assert lines[1].startswith("Pre-training was still improving when it ended: its validation error fell by 12 %")
    assert lines[2].startswith("Keep digits: ")
    verdicts = re.findall(r"<h2>.*?: (render.*?)</h2>", text)
    assert "render differently, but first train longer" in verdicts


def test_answers_first_and_escapes(page):
    text = page.read_text(encoding="utf-8")
    assert PLANTED not in text
    assert text.count("&lt;script&gt;") > 10
    assert '<td data-head="why">ValueError: &lt;script&gt;' in text  # what failed, and why, in one line
    assert "The fine-tuning data have no test part (Rendered&lt;script&gt;" in text
    advice = json.loads((page.parent / "fits.json").read_text())["advice"]
    assert advice
    assert text.index('class="answer"') < text.index("<figure>") < text.index("<table")
    with (page.parent / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert f"{len(rows)} rows of results.csv" in text
    assert 'src="http' not in text
    figures = len(list(page.parent.glob("law*.png")))
    assert figures >= 3
    assert text.count("data:image/png;base64,") == figures + 3
    assert "_narrow" not in text
    assert base64.b64encode((page.parent / "law.png").read_bytes()).decode() in text


def test_which_networks_count(page):
    text = page.read_text(encoding="utf-8")
    assert "Fine-tuning starts from the pre-trained network of the best validation." in text
    assert "The network after the last step or in &lt;script&gt;" in text


def test_only_fits_are_needed(page, tmp_path):
    shutil.copy(page.parent / "fits.json", tmp_path)
    text = write_report(tmp_path).read_text()
    assert "<figure>" not in text
    assert "<table" in text  # the parameters


@pytest.mark.parametrize(
    "content,message",
    [
        (None, r"fits\.json: no such file; run `lightning-tl law .*results\.csv --out .*` first"),
        ("{", r"fits\.json: cannot be read \(.*\); delete it and run the same command again"),
        ("[]", r"fits\.json: cannot be read \(not a JSON object\)"),
        ('{"advice": []}', r"fits\.json: not what lightning-tl writes there .*; run `lightning-tl law"),
    ],
)
def test_wrong_fits(tmp_path, content, message):
    if content is not None:
        (tmp_path / "fits.json").write_text(content)
    with pytest.raises(UserError, match=message):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_wrong_facts(page, tmp_path):
    shutil.copy(page.parent / "fits.json", tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(UserError, match=r"study\.json: cannot be read"):
        write_report(tmp_path)


def test_the_same_in_markdown(page):
    text = (page.parent / "report.md").read_text(encoding="utf-8")
    advice = json.loads((page.parent / "fits.json").read_text())["advice"]
    page_of_it = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    shown = html.unescape(re.sub("<[^>]*>", "", page_of_it))
    assert shown.index(advice[0]) < shown.index("The laws") < shown.index("Every run")
    assert PLANTED in shown
    assert "<script" not in page_of_it
    for name in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (page.parent / name).is_file(), name


def test_an_analysis_without_a_law(tmp_path):
    Image.effect_noise((300, 200), 40).save(tmp_path / "sensitivity.png")
    found = {"answer": ["It does no harm."], "sentences": ["No turn is shown."]}
    found["figures"] = [{"file": "sensitivity.png", "caption": "By budget"}]
    (tmp_path / "overtraining.json").write_text(json.dumps(found))
    text = write_report(tmp_path).read_text()
    assert text.index("It does no harm.") < text.index("No turn is shown.") < text.index("By budget")


def test_a_table_first_and_the_details_folded(tmp_path):
    Image.effect_noise((300, 200), 40).save(tmp_path / "sensitivity.png")
    found = {"answer": ["It does no harm."], "sentences": ["No turn is shown.", "Nothing is repeated."]}
    found["figures"] = [{"file": "sensitivity.png", "caption": "By budget"}]
    found["overview"] = {"heads": ["", "a", "b"], "rows": [["loss, lr 0.1", "falls", "rises"]], "notes": ["A legend."]}
    (tmp_path / "overtraining.json").write_text(json.dumps(found))
    text = write_report(tmp_path).read_text()
    order = [
        "It does no harm.",
        "A legend.",
        "loss, lr 0.1",
        "By budget",
        "<details>",
        "No turn is shown.",
        "</details>",
    ]
    places = [text.index(each) for each in order]
    assert places == sorted(places)
    assert 'data-head="a">falls' in text
    assert '<table class="words wraps">' in text  # words stand at the left
    written = (tmp_path / "report.md").read_text()
    assert written.index("loss, lr 0.1") < written.index("No turn is shown.") < written.index("Nothing is repeated.")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "", None, 3])
def test_a_figure_is_a_file_of_the_folder(tmp_path, name):
    (tmp_path / "in").mkdir()
    Image.effect_noise((30, 20), 40).save(tmp_path / "secret.png")
    found = {"answer": [], "sentences": [], "figures": [{"file": name, "caption": "a"}]}
    (tmp_path / "in" / "overtraining.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"overtraining\.json"):
        write_report(tmp_path / "in")
    assert not (tmp_path / "in" / "report.html").exists()


class Browser:
    """Headless Chromium over its own pipes: no port, no library."""

    def __init__(self, profile: Path) -> None:
        (commands, self.write), (self.read, answers) = os.pipe(), os.pipe()

        def as_three_and_four() -> None:
            a, b = os.dup(commands), os.dup(answers)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.process = subprocess.Popen(
            [
                CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--remote-debugging-pipe", f"--user-data-dir={profile}",
            ],
            preexec_fn=as_three_and_four, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self.events: list[dict] = []
        self.number, self.buffer, self.session = 0, b"", None

    def _receive(self) -> dict:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read], [], [], 60)
            assert ready, "Chromium is silent"
            self.buffer += os.read(self.read, 1 << 20)
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method: str, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method: str) -> None:
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._receive())

    def value(self, expression: str):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        os.close(self.read)
        os.close(self.write)


@pytest.fixture
def browser(tmp_path):
    made = Browser(tmp_path / "profile")
    yield made
    made.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [390, 1440])
def test_in_a_browser(page, browser, width):
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    browser.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    for domain in ("Runtime", "Log", "Page", "Network"):
        browser.call(f"{domain}.enable")
    browser.call("Page.navigate", url=page.as_uri())
    browser.wait_for("Page.loadEventFired")

    assert browser.value("innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width
    drawn = browser.value("[...document.images].map(i => [i.complete && i.naturalWidth, i.clientWidth])")
    assert len(drawn) >= 5
    assert all(natural > 0 and 0 < shown <= width for natural, shown in drawn)
    # what is wider than the page scrolls inside its own box
    wide = browser.value(
        "[...document.body.querySelectorAll('*')].filter(e => !e.closest('.scroll, pre, svg')"
        f" && e.getBoundingClientRect().right > {width} + 1).map(e => e.tagName)"
    )
    assert wide == []
    assert browser.value("document.querySelector('.answer').getBoundingClientRect().top") < 300
    assert browser.value("document.scripts.length") == 1  # what sorts the table; none that was planted
    errors = "[...document.querySelectorAll('table.all tbody tr')].map(r => r.cells[{}].textContent)"
    column = browser.value("[...document.querySelectorAll('table.all th')].findIndex(c => c.textContent == 'error')")
    browser.value(f"document.querySelectorAll('table.all th')[{column}].click()")
    values = [float(value) for value in browser.value(errors.format(column))]
    assert len(values) > 10
    assert values == sorted(values)
    assert browser.value("document.querySelector('button').textContent").startswith("Copy")
    troubles = [e for e in browser.events if e.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled")]
    troubles += [e for e in browser.events if e.get("method") == "Log.entryAdded"]
    assert troubles == []
    asked = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
