"""`explore.py` as users start it: in a browser by keyboard alone, and with mistakes."""

import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from bert4rec_tf.serving.export import export
from tests.support.command_line import ROOT, run
from tests.support.short_run import build, train_here

pytest.importorskip("starlette", reason="starlette is an extra: pip install -r requirements-explore.txt")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WIDTHS = (360, 1400)
# As root, Chromium needs --no-sandbox; the others keep it from calling home.
CHROMIUM_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
# The names in the first list of recommendations.
NAMES = (
    "[...document.querySelectorAll('#model-1 ~ .recommended .what > .name span.title')].map(each => each.textContent)"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Records, two exports, and titles: a long one, one with HTML, and none for some items."""
    path = tmp_path_factory.mktemp("explore")
    build(path / "data")
    for name, steps in (("shop", 6), ("other", 4)):
        train_here(path / "data", path / f"model-{name}", training={"num_steps": steps})
        export(path / f"model-{name}", path / "exports" / name)
    titles = {f"item-{number:04}": f"Film {number} (19{number:02})" for number in range(9)}
    titles["item-0003"] = "A title of many words that is much longer than a telephone is wide " * 2
    titles["item-0004"] = "<b>Bold</b> & co"
    titles["item-0005"] = "Wordwithoutanyspaceoveralongdistance" * 3
    lines = ["item_id\ttitle", *(f"{item_id}\t{title}" for item_id, title in titles.items())]
    (path / "titles.tsv").write_text("\n".join(lines) + "\n")
    return path


class Explorer:
    """A running explorer."""

    def __init__(self, *arguments: str):
        command = [sys.executable, "explore.py", "--port=0", *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.endswith(" shows the model; Ctrl-C ends it\n"), line + self.process.communicate()[1]
        self.address = line.split()[0]

    def stop(self, number: int = signal.SIGINT) -> str:
        """Ends it by a signal; gives what it printed after its first line."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        return out + err


@pytest.fixture(scope="module")
def explorer(trained: pathlib.Path) -> Iterator[Explorer]:
    running = Explorer(
        f"--export_dir={trained / 'exports/shop'}", f"--compare_with={trained / 'exports/other'}",
        f"--data_dir={trained / 'data'}", f"--item_titles={trained / 'titles.tsv'}",
    )  # fmt: skip
    yield running
    running.stop()


class Browser:
    """Chromium, driven by keys."""

    def __init__(self, profile: pathlib.Path):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*CHROMIUM_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))

    def resize(self, width: int) -> None:
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def js(self, expression: str) -> Any:
        return self.driver.execute_script(f"return {expression}")

    def keys(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str:
        return str(self.js("document.activeElement.id || document.activeElement.tagName"))

    def tab_to(self, name: str, limit: int = 80) -> None:
        """Presses Tab until the element of this id has the focus, and checks that each focus can be seen."""
        for _ in range(limit):
            if self.focused() == name:
                return
            self.keys("\ue004")
            outline = self.js("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none" or self.focused() == "BODY", self.focused()
        raise AssertionError(f"{name} cannot be reached by Tab")

    def wait(self, condition: Callable[[], Any]) -> Any:
        from selenium.common.exceptions import WebDriverException
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 30, ignored_exceptions=[WebDriverException]).until(lambda _: condition())

    def query(self) -> dict[str, list[str]]:
        """The query of the page that is shown, when it is loaded."""
        self.wait(lambda: self.js("document.readyState") == "complete" and "/act" not in self.driver.current_url)
        return urllib.parse.parse_qs(urllib.parse.urlsplit(self.driver.current_url).query)

    def requested(self) -> set[str]:
        """The scheme and host of every request over a network; the browser's own pages, such as a new tab, are none."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        parts = [urllib.parse.urlsplit(url) for url in urls]
        return {f"{part.scheme}://{part.netloc}/" for part in parts if part.scheme in ("http", "https", "ws", "wss")}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs Chromium and its driver (Debian: apt-get install chromium chromium-driver)")
    pytest.importorskip("selenium", reason="needs requirements-dev.txt")
    running = Browser(tmp_path_factory.mktemp("profile"))
    yield running
    running.driver.quit()


def check_page(browser: Browser, width: int) -> None:
    """Nothing is wider than the page, every control has a name, and the console is empty."""
    browser.driver.execute_script("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert browser.js("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('body *')].filter(each => each.getBoundingClientRect().right > innerWidth + 1"
    assert browser.js(f"{wide}).map(each => each.outerHTML.slice(0, 200))") == []
    controls = "[...document.querySelectorAll('button, input:not([type=hidden]), select, summary, a')]"
    named = "each.textContent.trim() || each.ariaLabel || (each.labels && each.labels.length)"
    assert browser.js(f"{controls}.filter(each => !({named})).map(each => each.outerHTML)") == []
    small = "each.tagName == 'BUTTON' && each.offsetParent && each.getBoundingClientRect().height < 24"
    assert browser.js(f"{controls}.filter(each => {small}).length") == 0
    ids = browser.js("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len(set(ids))
    assert browser.driver.get_log("browser") == []


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_everything_by_keyboard(browser: Browser, explorer: Explorer, width: int) -> None:
    browser.resize(width)
    browser.driver.get(explorer.address)
    check_page(browser, width)
    browser.driver.get(explorer.address)
    browser.tab_to("q", limit=4)
    browser.keys("film 7")
    browser.wait(lambda: "Film 7 (1907)" in browser.js("document.getElementById('matches').textContent"))
    assert "Enter adds the first" in browser.js("document.getElementById('search-status').textContent")
    browser.keys("\ue007")
    browser.wait(lambda: browser.query().get("h") == ["item-0007"])
    assert browser.focused() == "q", "the next title can be typed at once"
    browser.keys("<b>bold")
    browser.wait(lambda: "<b>Bold</b> & co" in browser.js("document.getElementById('matches').textContent"))
    browser.tab_to("match-0")
    browser.keys("\ue007")
    browser.wait(lambda: browser.query().get("h") == ["item-0007", "item-0004"])
    check_page(browser, width)
    browser.driver.get(browser.driver.current_url)
    browser.tab_to("seen")
    browser.keys(" ")
    browser.wait(lambda: browser.query().get("seen") == ["1"])
    assert browser.focused() == "seen"
    names = browser.js(NAMES)
    assert len(names) == 10
    browser.tab_to("exclude-1-1")
    browser.keys("\ue007")
    browser.wait(lambda: browser.query().get("x"))
    assert browser.focused() == "exclude-1-1"
    assert browser.js(NAMES)[0] == names[1]
    browser.driver.back()
    browser.wait(lambda: "x" not in browser.query())
    assert browser.js(NAMES) == names
    browser.driver.forward()
    browser.wait(lambda: browser.query().get("x"))
    browser.driver.get(browser.driver.current_url)
    while browser.js("document.activeElement.tagName") != "SUMMARY":
        browser.keys("\ue004")
    browser.keys("\ue007")
    assert browser.js("document.activeElement.parentElement.open")
    assert "Nearest items" in browser.js("document.activeElement.parentElement.textContent")
    browser.driver.get(browser.driver.current_url)
    browser.tab_to("k")
    browser.keys("5" if browser.js("document.activeElement.value") != "5" else "1")
    browser.wait(lambda: browser.query().get("k"))
    assert browser.focused() == "k"
    browser.driver.get(browser.driver.current_url)
    browser.tab_to("random")
    browser.keys("\ue007")
    user = browser.wait(lambda: browser.query().get("user"))
    assert f"Test user {user[0]} took next:" in browser.js("document.querySelector('.truth').textContent")
    assert len(re.findall("rank|no rank", browser.js("document.querySelector('.truth').innerText"))) >= 2
    check_page(browser, width)
    browser.driver.get(browser.driver.current_url)
    browser.keys("\ue004")
    assert browser.js("document.activeElement.className") == "skip"
    browser.keys("\ue007")
    assert browser.js("location.hash") == "#results"
    assert browser.driver.get_log("browser") == []
    assert browser.requested() == {explorer.address}


@pytest.mark.slow
def test_without_scripts_enter_adds_and_apply_applies(browser: Browser, explorer: Explorer) -> None:
    browser.resize(WIDTHS[0])
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.driver.get(explorer.address)
        browser.tab_to("q", limit=4)
        browser.keys("film 7", "\ue007")
        browser.wait(lambda: browser.query().get("h") == ["item-0007"])
        browser.tab_to("seen")
        browser.keys(" ")
        browser.tab_to("apply")
        browser.keys("\ue007")
        browser.wait(lambda: browser.query() == {"h": ["item-0007"], "seen": ["1"]})
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_listens_on_loopback_and_ends_without_an_error(trained: pathlib.Path, number: int) -> None:
    running = Explorer(f"--model_dir={trained / 'model-shop'}")
    assert running.address.startswith("http://127.0.0.1:")
    assert "attention" in requests.get(running.address, params={"h": ["item-0001", "item-0002"]}, timeout=60).text
    assert running.stop(number) == "ended\n", "and nothing of TensorFlow"


@pytest.mark.slow
def test_mistakes_end_in_one_line(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    exports = f"--export_dir={trained / 'exports/shop'}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        printed = run("explore.py", exports, f"--port={port}", code=2)
        assert printed.startswith("error: --host and --port must be free on this machine. Received: 127.0.0.1:")
    for arguments, message in (
        (["--export_dir=s3://bucket/exports"], "--export_dir must be a path on this machine"),
        ([f"--export_dir={tmp_path}", "--server=localhost:1"], "--server must answer for --model="),
        ([exports, "--data_dir=absent"], "absent"),
    ):
        printed = run("explore.py", "--port=0", *arguments, code=2)
        assert message in printed
        assert printed.count("\n") == 1, printed
