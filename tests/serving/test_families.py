"""Models of the sibling families are served as HART is: the engine needs only their stream."""

import httpx
import openai
import pytest

import openhart
from tests.serving.conftest import running
from tests.serving.test_clients import difference, make, picture


@pytest.fixture
def server(sibling_model):
    with running(openhart.from_pretrained(sibling_model)) as server:
        yield server


def test_the_stream_of_a_sibling_ends_in_the_image_of_the_same_seed(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        *partial, final = make(client, stream=True, partial_images=2)
        assert len(partial) == 2
        assert difference(picture(final), picture(make(client).data[0])) <= 1
        assert difference(picture(final), picture(make(client, seed=2).data[0])) > 1


def test_what_a_sibling_can_do_is_listed(server):
    (entry,) = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert entry["openhart"]["scales"] in (None, 1)
    assert not entry["openhart"]["has_residual"]
    assert httpx.get(f"{server.url}/").status_code == 200
