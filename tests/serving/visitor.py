"""A visitor of the page in a browser, and a gate for the scales of the server's model."""

import threading

from tests.serving.conftest import wait_for


class Steps:
    """A gate that lets as many scales pass as were released."""

    def __init__(self):
        self._left = threading.Semaphore(0)

    def wait(self, seconds):
        return self._left.acquire(timeout=seconds)

    def set(self, count=1000):
        self._left.release(count)


class Page:
    """The page as a visitor uses it."""

    def __init__(self, driver, url):
        self.driver = driver
        self.url = url

    def open(self, fragment=""):
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}/{fragment}")
        self.wait(lambda: self.get("generate").is_enabled() or self.get("key-form").is_displayed())

    def get(self, name):
        return self.driver.find_element("id", name)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def text(self, name):
        return self.get(name).text

    def wait(self, condition):
        wait_for(condition, 120)

    def press(self, *keys):
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def generate(self, prompt, count=4):
        self.get("prompt").clear()
        self.get("prompt").send_keys(prompt)
        if count == 1:
            self.all("[name=count]")[0].find_element("xpath", "..").click()
        self.get("generate").click()

    def finished(self, count):
        self.wait(lambda: len(self.all("li.finished")) == count and self.get("generate").is_displayed())

    def pixels(self, name):
        """The pixels of an image element."""
        return self.driver.execute_async_script(
            """const [name, done] = arguments, image = document.getElementById(name);
            image.decode().then(() => {
              const canvas = document.createElement("canvas");
              canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
              const context = canvas.getContext("2d");
              context.drawImage(image, 0, 0);
              done([...context.getImageData(0, 0, canvas.width, canvas.height).data]);
            });""",
            name,
        )

    def focused(self):
        return self.driver.switch_to.active_element
