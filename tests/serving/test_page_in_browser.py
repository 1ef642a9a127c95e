"""The page in a real browser, on a server with a tiny real model."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from openhart.serving.service import ServiceSettings
from tests.browser import complaints, launched, needs_browser
from tests.serving.conftest import running, wait_for
from tests.serving.visitor import Page, Steps

pytestmark = [needs_browser, pytest.mark.slow]
AXE = Path(os.environ.get("AXE", Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"))
"""Accessibility checks: ``npm install axe-core`` in the folder of the project."""


@pytest.fixture(scope="module")
def chromium():
    with launched() as driver:
        yield driver


@pytest.fixture
def visit(chromium, serve):
    """Opens the page of a server of its own, whose origin has no history yet."""

    @contextmanager
    def visited(settings=None):
        with serve(settings) as server:
            page = Page(chromium, server.url)
            page.open()
            complaints(chromium)
            yield page, server
            chromium.get("about:blank")

    return visited


def test_an_image_sharpens_scale_by_scale(visit):
    with visit() as (page, server):
        server.model.gate = Steps()
        page.generate("a red apple", count=1)
        seen = []
        for scale in (1, 2, 3):
            server.model.gate.set(1)
            page.wait(lambda scale=scale: len(page.all(".steps .done")) == scale)
            assert len(page.all(".steps i")) == 4
            seen.append(page.all(".tile img")[0].get_attribute("src"))
            assert not page.all("li.finished")
        server.model.gate.set()
        page.finished(1)
        assert len({*seen, page.all(".tile img")[0].get_attribute("src")}) == 4
        assert page.text("note").startswith("1 image in")
        assert complaints(page.driver) == []


def test_four_seeds_and_a_history_that_survives_a_reload(visit):
    with visit() as (page, _):
        page.generate("a red apple")
        page.finished(4)
        page.generate("a green heart", count=1)
        page.finished(1)
        captions = [each.text for each in page.all(".caption")]
        page.driver.refresh()
        page.finished(1)
        assert page.text("caption") == "a green heart"
        assert [each.text for each in page.all(".caption")] == captions
        thumbnails = page.all(".thumbnail")
        assert [each.get_attribute("title") for each in thumbnails] == ["a green heart", "a red apple"]
        thumbnails[1].click()
        page.finished(4)
        seeds = [int(each.text.removeprefix("seed ")) for each in page.all(".caption")]
        assert seeds == list(range(seeds[0], seeds[0] + 4))
        assert page.get("prompt").get_attribute("value") == "a red apple"
        page.get("remove").click()
        page.wait(lambda: len(page.all(".thumbnail")) == 1)
        page.driver.refresh()
        page.finished(1)
        assert len(page.all(".thumbnail")) == 1
        assert complaints(page.driver) == []


def test_stop_ends_the_work_of_the_server(visit):
    from selenium.webdriver.common.keys import Keys

    with visit() as (page, server):
        server.model.gate = Steps()
        page.generate("a red apple")
        page.wait(lambda: server.engine.open_requests == 4)
        page.get("stop").click()
        page.wait(lambda: page.text("note") == "Stopped.")
        server.model.gate.set()
        wait_for(lambda: server.engine.open_requests == 0)
        assert not page.get("stage").is_displayed()
        server.model.gate = Steps()
        page.generate("a red apple")
        page.wait(lambda: server.engine.open_requests == 4)
        page.press(Keys.ESCAPE)
        page.wait(lambda: page.text("note") == "Stopped.")
        server.model.gate.set()
        wait_for(lambda: server.engine.open_requests == 0)
        page.generate("a red apple")
        page.finished(4)
        assert complaints(page.driver) == []


def test_errors_are_one_sentence(visit):
    with visit() as (page, server):
        page.generate(" ")
        assert page.text("error") == "Enter what the image should show."
        page.get("toggle").click()
        page.get("setting-guidance_scale").send_keys("-1")
        page.generate("a red apple")
        page.wait(lambda: page.text("error").startswith("Guidance scale must be"))
        page.get("reset").click()
        server.model.fails = True
        page.generate("a red apple")
        page.wait(lambda: page.text("error").startswith("The server failed to answer this request"))
        assert "/secret" not in page.text("error")
        assert page.get("error").get_attribute("role") == "alert"
        server.model.fails = False
        page.generate("a red apple")
        page.finished(4)
        assert not page.get("error").is_displayed()


def test_a_server_out_of_reach_is_an_error(visit):
    with visit() as (page, _):
        page.driver.execute_cdp_cmd("Network.enable", {})
        page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/v1/*"]})
        page.generate("a red apple")
        page.wait(lambda: page.text("error").startswith("The server cannot be reached."))
        page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
        page.generate("a red apple")
        page.finished(4)


def test_by_keyboard_alone(visit):
    from selenium.webdriver.common.keys import Keys

    with visit() as (page, _):
        assert page.focused().get_attribute("id") == "prompt"
        page.press("a red apple", Keys.ENTER)
        page.finished(4)
        for _ in range(20):
            page.press(Keys.TAB)
            if "tile" in page.focused().get_attribute("class"):
                break
        tile = page.focused()
        page.press(Keys.ENTER)
        page.wait(lambda: page.get("viewer").is_displayed())
        first = page.text("details")
        page.press(Keys.ARROW_RIGHT)
        assert page.text("details") != first
        page.press(Keys.ARROW_LEFT)
        assert page.text("details") == first
        page.press(Keys.ESCAPE)
        page.wait(lambda: not page.get("viewer").is_displayed())
        assert page.focused() == tile
        assert complaints(page.driver) == []


def test_the_enlarged_image_goes_back_to_earlier_scales_and_downloads(visit):
    from selenium.webdriver.common.keys import Keys

    with visit() as (page, _):
        page.generate("a red apple", count=1)
        page.finished(1)
        page.all(".tile")[0].click()
        last = page.pixels("large")
        assert page.text("scale-name") == "4 of 4"
        page.get("scale").send_keys(Keys.ARROW_LEFT)
        assert page.text("scale-name") == "3 of 4"
        assert page.pixels("large") != last
        seed = page.all("#details dd")[0].text
        assert page.get("download").get_attribute("download") == f"a-red-apple-{seed}.png"
        assert page.get("large").get_attribute("alt") == "a red apple"
        page.get("use-seed").click()
        assert page.get("seed").get_attribute("value") == seed
        assert page.focused().get_attribute("id") == "prompt"


def test_codes_alone_beside_the_image_with_residual(visit):
    from selenium.webdriver.common.keys import Keys

    with visit() as (page, server):
        page.generate("a red apple", count=1)
        page.finished(1)
        page.all(".tile")[0].click()
        hybrid = page.pixels("large")
        page.get("compare").click()
        page.wait(lambda: page.get("comparison").is_displayed())
        assert page.pixels("large") == hybrid
        assert page.pixels("codes") != hybrid
        assert page.focused().get_attribute("id") == "cut"
        page.press(Keys.ARROW_RIGHT)
        assert page.get("comparison").get_attribute("style") == "--cut: 51%;"
        made = len(server.model.batches)
        page.get("compare").click()
        page.get("compare").click()
        page.wait(lambda: page.get("comparison").is_displayed())
        assert len(server.model.batches) == made
        assert complaints(page.driver) == []


def test_a_link_makes_the_same_image_again(visit):
    with visit() as (page, _):
        page.get("toggle").click()
        page.get("setting-top_k").send_keys("3")
        page.get("setting-use_residual").click()
        page.generate("a red apple & more", count=1)
        page.finished(1)
        fragment = page.driver.current_url.split("/")[-1]
        page.all(".tile")[0].click()
        pixels, details = page.pixels("large"), page.text("details")
    with visit() as (page, _):
        page.open(fragment)
        page.finished(1)
        assert page.get("setting-top_k").get_attribute("value") == "3"
        page.all(".tile")[0].click()
        assert page.pixels("large") == pixels
        assert page.text("details") == details
        assert page.text("viewer-title") == "a red apple & more"


def test_a_model_of_classes(chromium, label_pipeline):
    with running(label_pipeline) as server:
        page = Page(chromium, server.url)
        page.open()
        assert page.text("prompt-label") == "Number of a class, 0 to 4"
        assert not page.get("examples").is_displayed()
        page.generate("9")
        page.wait(lambda: page.text("error").startswith("Prompt must be the number of a class"))
        page.generate("3", count=1)
        page.finished(1)
        page.all(".tile")[0].click()
        assert not page.get("compare").is_displayed()
        chromium.get("about:blank")


def test_a_key_stays_in_the_tab(visit):
    with visit(ServiceSettings(keys=("right",))) as (page, _):
        assert page.get("key-form").is_displayed()
        page.get("key").send_keys("wrong\n")
        page.wait(lambda: page.text("error") == "The server does not accept this key.")
        page.get("key").clear()
        page.get("key").send_keys("right\n")
        page.wait(lambda: page.get("generate").is_enabled())
        assert not page.get("key-form").is_displayed()
        page.generate("a red apple", count=1)
        page.finished(1)
        assert page.driver.execute_script(
            "return [localStorage.length, location.href.includes('right')]"
        ) == [0, False]


def test_nothing_is_requested_from_elsewhere(visit):
    with visit() as (page, _):
        page.generate("a red apple")
        page.finished(4)
        names = page.driver.execute_script(
            "return performance.getEntriesByType('resource').map((each) => each.name)"
        )
        assert any(name.endswith("/page/app.js") for name in names)
        assert all(name.startswith((page.url, "blob:" + page.url)) for name in names)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_accessibility(visit, scheme, size):
    if not AXE.exists():
        pytest.skip("needs axe-core: npm install axe-core")

    def check(what):
        page.driver.execute_script(AXE.read_text())
        result = page.driver.execute_async_script("axe.run().then(arguments[0])")
        assert [(what, each["id"], each["nodes"][0]["target"]) for each in result["violations"]] == []
        width = "return [document.documentElement.scrollWidth, innerWidth]"
        scrolled, inner = page.driver.execute_script(width)
        assert scrolled <= inner, what

    with visit() as (page, _):
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 500}
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        try:
            check("empty")
            page.generate("a red apple")
            page.finished(4)
            check("finished")
            page.get("toggle").click()
            page.all("summary")[0].click()
            check("settings")
            page.generate(" ")
            check("error")
            page.driver.execute_script("scrollTo(0, 1e6)")
            page.all(".tile")[0].click()
            check("viewer")
            page.get("compare").click()
            page.wait(lambda: page.get("comparison").is_displayed())
            check("comparison")
        finally:
            page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
