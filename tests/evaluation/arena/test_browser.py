"""The page in a real browser: Debian's chromium, driven by selenium."""

import threading
import time

import pytest
import uvicorn

from openhart.evaluation.arena.app import Arena, arena_app
from openhart.evaluation.arena.entries import find_entries
from openhart.evaluation.arena.votes import VoteFile
from tests.browser import complaints, launched, needs_browser


@pytest.fixture
def arena(folders, tmp_path):
    entries = find_entries(folders)
    return Arena(entries, VoteFile.open(tmp_path / "votes.sqlite", entries.folders, entries.digests))


@pytest.fixture
def address(arena):
    server = uvicorn.Server(uvicorn.Config(arena_app(arena), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture
def browser():
    with launched() as driver:
        yield driver


@needs_browser
@pytest.mark.slow
def test_votes_by_keyboard_and_mouse(browser, address, arena, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def wait_for(text):
        WebDriverWait(browser, 20).until(lambda b: text in b.find_element(By.ID, "status").text)
        WebDriverWait(browser, 20).until(
            lambda b: b.execute_script(
                "return [...document.images].every(i => !i.src || (i.complete && i.naturalWidth > 0))"
            )
        )

    browser.get(address)
    wait_for("0 of 3")
    assert browser.find_element(By.ID, "prompt").text.startswith("picture")
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.ARROW_LEFT)
    wait_for("1 of 3")
    body.send_keys(Keys.BACKSPACE)
    wait_for("0 of 3")
    assert arena.votes.all() == []
    body.send_keys(Keys.ARROW_DOWN)
    wait_for("1 of 3")
    browser.find_element(By.ID, "right").click()
    wait_for("2 of 3")
    browser.save_screenshot(str(tmp_path / "arena.png"))
    body.send_keys(Keys.ARROW_RIGHT)
    wait_for("All 3 pairs are done")
    assert [vote.choice for vote in arena.votes.all()] == ["tie", "right", "right"]
    assert complaints(browser) == []
