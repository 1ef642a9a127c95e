"""The official clients of the OpenAI API against a real server."""

import asyncio
import base64
import io
import json

import httpx
import openai
import pytest
from PIL import Image

from openhart.serving.service import ServiceSettings
from tests.serving.conftest import wait_for


@pytest.fixture
def client(plain_server):
    with openai.OpenAI(base_url=f"{plain_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def picture(entry):
    return Image.open(io.BytesIO(base64.b64decode(entry.b64_json)))


def difference(first, second):
    pairs = zip(first.convert("RGB").tobytes(), second.convert("RGB").tobytes(), strict=True)
    return max(abs(a - b) for a, b in pairs)


def make(client, prompt="a cat", seed=1, **values):
    extra = {"seed": seed, **values.pop("extra_body", {})}
    return client.images.generate(prompt=prompt, extra_body=extra, **values)


def test_images_are_generated_with_following_seeds(client):
    answer = make(client, n=2)
    assert answer.size == "32x32" == "{}x{}".format(*picture(answer.data[0]).size)
    assert (answer.output_format, answer.background, answer.quality) == ("png", "opaque", "high")
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.usage.output_tokens == 2 * (1 + 4 + 9 + 16)
    assert [entry.seed for entry in answer.data] == [1, 2]
    assert difference(picture(answer.data[1]), picture(make(client, seed=2).data[0])) <= 1
    assert answer._request_id


def test_the_stream_ends_in_the_image_of_the_same_seed(client):
    events = list(make(client, stream=True, partial_images=2))
    assert [event.type for event in events] == [
        "image_generation.partial_image", "image_generation.partial_image", "image_generation.completed",
    ]  # fmt: skip
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert [event.scale_index for event in events[:2]] == [1, 2]
    assert {picture(event).size for event in events} == {(32, 32)}
    final = picture(events[-1])
    assert difference(final, picture(make(client).data[0])) <= 1
    assert difference(final, picture(events[0])) > 1
    assert events[-1].usage.output_tokens == 30


def test_every_scale_can_be_streamed(client):
    events = list(make(client, stream=True, extra_body={"every_scale": True}))
    assert [event.scale_index for event in events[:-1]] == [0, 1, 2]
    assert len(list(make(client, stream=True))) == 1


def test_the_asynchronous_client_streams_and_its_requests_share_a_batch(serve):
    async def test(server):
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            server.model.gate.clear()
            stream = await make(client, seed=9, stream=True, partial_images=1)
            await asyncio.to_thread(wait_for, lambda: server.engine.running)
            whole = [asyncio.create_task(make(client, seed=seed)) for seed in range(3)]
            await asyncio.to_thread(wait_for, lambda: server.engine.waiting == 3)
            server.model.gate.set()
            kinds = [event.type async for event in stream]
            return await asyncio.gather(*whole), kinds

    with serve() as server:
        answers, kinds = asyncio.run(test(server))
    assert [answer.data[0].seed for answer in answers] == [0, 1, 2]
    assert kinds == ["image_generation.partial_image", "image_generation.completed"]
    assert sorted(server.model.batches[-1]) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_formats(client, kind):
    compression = {} if kind == "png" else {"output_compression": 50}
    answer = make(client, output_format=kind, **compression)
    assert picture(answer.data[0]).format == kind.upper()
    assert answer.output_format == kind


def test_an_address_gives_the_image_without_a_key(serve):
    with serve(ServiceSettings(keys=("secret",))) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0)
        entry = make(client, response_format="url").data[0]
        found = httpx.get(entry.url)
        assert found.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(found.content)).size == (32, 32)
        assert httpx.get(f"{server.url}/files/other.png").json()["error"]["message"]


def test_sampling_settings_change_the_image(client):
    plain = picture(make(client).data[0])
    for extra in ({"top_k": 1}, {"guidance_scale": 1.0}, {"negative_prompt": "a dog"}):
        assert difference(plain, picture(make(client, extra_body=extra).data[0])) > 1, extra


def test_the_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["openhart"]
    assert client.models.retrieve("openhart").owned_by == "openhart"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("owner/other")
    assert error.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("values", "param", "code"),
    [
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": "x" * 32_001}, "prompt", "string_above_max_length"),
        ({"n": 11}, "n", "invalid_value"),
        ({"n": 2, "stream": True}, "n", "invalid_value"),
        ({"size": "30x32"}, "size", "invalid_value"),
        ({"size": "1024x1024"}, "size", "invalid_value"),
        ({"background": "transparent"}, "background", "invalid_value"),
        ({"output_format": "gif"}, "output_format", "invalid_value"),
        ({"output_compression": 5}, "output_compression", "invalid_value"),
        ({"extra_body": {"top_k": -1}}, "top_k", "invalid_value"),
        ({"extra_body": {"guidance": 3}}, "guidance", "unknown_parameter"),
    ],
)
def test_a_wrong_parameter_is_an_error_of_the_protocol(client, values, param, code):
    with pytest.raises(openai.BadRequestError) as error:
        make(client, **values)
    assert (error.value.param, error.value.code, error.value.type) == (param, code, "invalid_request_error")
    assert error.value.request_id
    assert param in error.value.message


def test_other_sizes_are_made_or_resized(serve):
    with serve(ServiceSettings(resize=True)) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        answer = client.images.with_raw_response.generate(prompt="a cat", size="100x50")
        assert "resized" in answer.headers["x-openhart-warning"]
        parsed = answer.parse()
        assert parsed.size == "100x50"
        assert picture(parsed.data[0]).size == (100, 50)


def test_unknown_models_edits_and_variations_are_not_found(client):
    with pytest.raises(openai.NotFoundError) as error:
        make(client, model="dall-e-3")
    assert (error.value.param, error.value.code) == ("model", "model_not_found")
    file = io.BytesIO()
    Image.new("RGBA", (32, 32)).save(file, "PNG")
    with pytest.raises(openai.NotFoundError, match="cannot edit"):
        client.images.edit(image=("a.png", file.getvalue()), prompt="a cat")


def test_keys(serve):
    with serve(ServiceSettings(keys=("one", "two"))) as server:
        for key in ("one", "two"):
            assert make(openai.OpenAI(base_url=f"{server.url}/v1", api_key=key)).data
        wrong = openai.OpenAI(base_url=f"{server.url}/v1", api_key="three", max_retries=0)
        for call in (lambda: make(wrong), lambda: wrong.models.list()):
            with pytest.raises(openai.AuthenticationError) as error:
                call()
            assert error.value.code == "invalid_api_key"
        assert httpx.get(f"{server.url}/health").status_code == 200


def test_a_long_prompt_is_cut_and_a_header_states_it(client):
    answer = client.images.with_raw_response.generate(prompt="a cat and " * 50)
    assert "cut to its first 8 tokens" in answer.headers["x-openhart-warning"]


def test_a_failure_of_the_model_reveals_nothing(serve):
    with serve() as server:
        server.model.fails = True
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.InternalServerError) as error:
            make(client)
        assert error.value.request_id in error.value.message
        with pytest.raises(openai.APIError) as in_stream:
            list(make(client, stream=True))
        for text in (error.value.message, in_stream.value.message):
            assert "secret" not in text
            assert "Traceback" not in text
        server.model.fails = False
        assert make(client).data


def test_a_safety_checker_that_asks_for_it_gets_the_moderation_of_the_request(serve):
    def check(prompt, image, moderation):
        return f"moderation is {moderation}"

    with serve(ServiceSettings(checker=check)) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        for wanted, options in (("auto", {}), ("low", {"moderation": "low"})):
            with pytest.raises(openai.BadRequestError, match=f"moderation is {wanted}"):
                make(client, **options)


def test_a_safety_checker_sees_prompt_and_images(serve):
    seen = []

    def check(prompt, image):
        seen.append((prompt, image and image.size))
        return "it shows a dog" if "dog" in prompt and (image or "bad" in prompt) else False

    with serve(ServiceSettings(checker=check)) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        assert make(client).data
        assert seen == [("a cat", None), ("a cat", (32, 32))]
        made = len(server.model.batches)
        for prompt in ("a bad dog", "a dog"):
            with pytest.raises(openai.BadRequestError, match="it shows a dog") as error:
                make(client, prompt)
            assert error.value.code == "moderation_blocked"
        assert len(server.model.batches) == made + 1
        with pytest.raises(openai.APIError, match="it shows a dog"):
            list(make(client, "a dog", stream=True, partial_images=2))


def test_images_carry_how_they_were_made_unless_it_is_turned_off(client, serve):
    image = picture(make(client, "a cat,\nsitting", seed=9).data[0])
    record = json.loads(image.info["openhart"])
    assert (record["prompt"], record["seed"], record["height"]) == ("a cat,\nsitting", 9, 32)
    assert record["model_hash"] == "0123456789abcdef"
    assert image.info["parameters"].startswith("a cat,\nsitting\nCFG scale: 3.0")
    with serve(ServiceSettings(metadata=False)) as server:
        plain = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
        assert not picture(make(plain).data[0]).info


def test_a_full_queue_is_refused_at_once(serve):
    from openhart.serving.engine import Limits

    with serve(ServiceSettings(limits=Limits(queue=1))) as server:
        server.model.gate.clear()
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=20)
        streams = [make(client, stream=True)]
        wait_for(lambda: server.engine.running)
        streams.append(make(client, stream=True))
        with pytest.raises(openai.RateLimitError) as error:
            make(client, stream=True)
        assert error.value.code == "queue_full"
        assert 1 <= int(error.value.response.headers["retry-after"]) <= 60
        server.model.gate.set()
        assert [list(stream)[-1].type for stream in streams] == ["image_generation.completed"] * 2
        text = httpx.get(f"{server.url}/metrics").text
        assert 'openhart_requests_rejected_total{reason="queue_full"} 1.0' in text
