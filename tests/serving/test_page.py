"""The page without a browser: what is served, and that nothing in it points to another site."""

import re
from importlib.resources import files

import httpx

from openhart.serving.service import ServiceSettings

FOLDER = files("openhart.serving") / "page"


def test_every_file_of_the_page_is_served_under_a_strict_policy(plain_server):
    for name in ("/", *(f"/page/{each.name}" for each in FOLDER.iterdir())):
        answer = httpx.get(plain_server.url + name)
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"].startswith("default-src 'none';")
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert httpx.get(plain_server.url + "/page/app.js").headers["content-type"].startswith("text/javascript")


def test_no_file_names_another_site():
    for each in FOLDER.iterdir():
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", each.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, each.name


def test_other_names_are_refused(plain_server):
    for name in ("/page/none.js", "/page/..%2fpage.py", "/page/%2e%2e/page.py", "/page/"):
        assert httpx.get(plain_server.url + name).status_code == 404


def test_the_page_can_be_turned_off(serve):
    with serve(ServiceSettings(page=False)) as server:
        assert httpx.get(server.url + "/").status_code == 404


def test_the_list_of_models_describes_the_settings(plain_server, text_pipeline):
    model = httpx.get(plain_server.url + "/v1/models").json()["data"][0]["openhart"]
    assert model["size"] == "32x32"
    assert model["scales"] == 4
    assert model["classes"] is None
    assert model["has_residual"] is True
    settings = {setting["name"]: setting for setting in model["settings"]}
    assert settings["guidance_scale"]["default"] == text_pipeline.sampling_settings().guidance_scale
    assert settings["top_p"]["most"] == 1
    assert settings["top_k"]["most"] is None
    assert "ddpm" in settings["residual_solver"]["choices"]


def test_the_defaults_of_the_description_are_accepted(plain_server):
    model = httpx.get(plain_server.url + "/v1/models").json()["data"][0]["openhart"]
    given = {setting["name"]: setting["default"] for setting in model["settings"]}
    plain, explicit = (
        httpx.post(
            plain_server.url + "/v1/images/generations",
            json={"prompt": "a cat", "seed": 3, **extra},
            timeout=60,
        ).json()
        for extra in ({}, given)
    )
    assert plain["data"][0]["b64_json"] == explicit["data"][0]["b64_json"]
