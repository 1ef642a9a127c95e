"""The engine without HTTP."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from openhart.serving.engine import Limits
from openhart.serving.model import ServedModel
from openhart.serving.request import Finished, GenerationError, Preview, RefusedError, preview_indices
from tests.serving.fakes import SCALES, FakeModel, asked, level, until, with_engine


def difference(first, second):
    return max(abs(a - b) for a, b in zip(first.tobytes(), second.tobytes(), strict=True))


@pytest.fixture(scope="module")
def tiny(text_pipeline):
    return ServedModel(text_pipeline, "tiny")


def text_request(model, prompt, seed, **values):
    settings = {"size": model.size, "sampling": model.settings("high", {})}
    return asked(seed, prompt=prompt, **{**settings, **values})


def test_a_batch_gives_each_request_the_image_that_it_would_get_alone(tiny):
    prompts = [f"a picture of number {number}" for number in range(5)]
    alone, together = [], []

    async def one_by_one(engine):
        for seed, prompt in enumerate(prompts):
            alone.extend(await engine.submit(text_request(tiny, prompt, seed)).images())

    async def at_once(engine):
        tickets = [engine.submit(text_request(tiny, p, seed)) for seed, p in enumerate(prompts)]
        for images in await asyncio.gather(*(ticket.images() for ticket in tickets)):
            together.extend(images)
        assert engine.metrics.registry.get_sample_value("openhart_batch_size_sum") == 5
        assert engine.metrics.registry.get_sample_value("openhart_batch_size_count") == 1

    with_engine(tiny, one_by_one)
    with_engine(tiny, at_once)
    assert max(map(difference, alone, together)) <= 1
    assert min(difference(alone[0], other) for other in alone[1:]) > 1


def test_the_images_of_a_request_have_the_seeds_that_follow_its_own(tiny):
    async def test(engine):
        three = await engine.submit(text_request(tiny, "a cat", 5, count=3)).images()
        last = await engine.submit(text_request(tiny, "a cat", 7)).images()
        assert difference(three[2], last[0]) <= 1

    with_engine(tiny, test)


def test_prompts_are_encoded_while_the_tokens_of_others_are_counted(tiny):
    over = threading.Event()

    def count():
        while not over.is_set():
            assert tiny.tokens("a picture of a very long and winding road")[0] >= 1

    expected = tiny.pipeline.encode_condition("a cat")
    with ThreadPoolExecutor(2) as pool:
        counting = [pool.submit(count) for _ in range(2)]
        try:
            for _ in range(300):
                found = tiny.pipeline.encode_condition("a cat")
                assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        finally:
            over.set()
    assert [each.result() for each in counting] == [None, None]


def test_previews_are_the_decoded_scales_and_the_last_event_is_the_image_without_previews(tiny):
    async def test(engine):
        request = text_request(tiny, "a cat", 3, previews=2)
        events = [event async for event in engine.submit(request)]
        plain = await engine.submit(text_request(tiny, "a cat", 3)).images()
        assert [event.scale_index for event in events[:-1]] == [1, 2]
        assert difference(events[-1].images[0], plain[0]) <= 1

    with_engine(tiny, test)


def test_previews_show_the_image_of_their_own_row(tiny):
    async def test(engine):
        wanted = {"previews": 1}
        ticket = engine.submit(text_request(tiny, "a dog", 4, **wanted))
        alone = (await ticket.next()).image
        await ticket.next()
        other = engine.submit(text_request(tiny, "a cat", 3))
        among = engine.submit(text_request(tiny, "a dog", 4, **wanted))
        assert difference(alone, (await among.next()).image) <= 1
        await asyncio.gather(among.next(), other.images())

    with_engine(tiny, test)


def test_only_requests_of_equal_shape_and_settings_share_a_batch():
    model = FakeModel()

    async def test(engine):
        kinds = [{}, {"sampling": "other"}, {"size": (16, 8)}, {"negative_prompt": "a dog"}, {}]
        tickets = [engine.submit(asked(seed, **kind)) for seed, kind in enumerate(kinds)]
        await asyncio.gather(*(ticket.images() for ticket in tickets))

    with_engine(model, test)
    assert model.batches == [[0, 4], [1], [2], [3]]


def test_the_oldest_request_is_served_first_and_batches_have_a_largest_size():
    model = FakeModel()

    async def test(engine):
        order = [{"sampling": "a"}, {"sampling": "b"}, *[{"sampling": "a"}] * 4]
        tickets = [engine.submit(asked(seed, **kind)) for seed, kind in enumerate(order)]
        await asyncio.gather(*(ticket.images() for ticket in tickets))

    with_engine(model, test, Limits(batch=3))
    assert model.batches == [[0, 2, 3], [1], [4, 5]]


def test_what_arrives_during_a_batch_joins_the_next_one():
    model = FakeModel()

    async def test(engine):
        model.gate.clear()
        tickets = [engine.submit(asked(0))]
        await until(lambda: model.batches)
        tickets += [engine.submit(asked(seed, count=2)) for seed in (10, 20)]
        model.gate.set()
        found = await asyncio.gather(*(ticket.images() for ticket in tickets))
        assert [[level(image)[0] for image in images] for images in found] == [[0], [10, 11], [20, 21]]

    with_engine(model, test)
    assert model.batches == [[0], [10, 11, 20, 21]]


def test_a_full_queue_refuses_at_once_and_states_when_to_return():
    model = FakeModel()

    async def test(engine):
        model.gate.clear()
        first = engine.submit(asked(0))
        await until(lambda: model.batches)
        second = engine.submit(asked(1, count=3))
        with pytest.raises(RefusedError) as refused:
            engine.submit(asked(2, count=2))
        assert refused.value.reason == "queue_full"
        assert 1 <= refused.value.retry_after <= 60
        engine.submit(asked(3))
        model.gate.set()
        await first.images()
        assert len(await second.images()) == 3

    with_engine(model, test, Limits(queue=4))


def test_a_key_has_its_share_and_others_are_not_held_back():
    model = FakeModel()

    async def test(engine):
        model.gate.clear()
        tickets = [engine.submit(asked(0, owner="one", count=2))]
        with pytest.raises(RefusedError) as refused:
            engine.submit(asked(1, owner="one"))
        assert refused.value.reason == "key_limit"
        tickets.append(engine.submit(asked(2, owner="two")))
        model.gate.set()
        await asyncio.gather(*(ticket.images() for ticket in tickets))
        await engine.submit(asked(3, owner="one")).images()

    with_engine(model, test, Limits(per_key=2))


def test_a_client_that_leaves_the_queue_frees_its_place():
    model = FakeModel()

    async def test(engine):
        model.gate.clear()
        running = engine.submit(asked(0))
        await until(lambda: model.batches)
        leaving = engine.submit(asked(1))
        with pytest.raises(RefusedError):
            engine.submit(asked(2))
        leaving.close()
        staying = engine.submit(asked(3))
        model.gate.set()
        await running.images()
        await staying.images()

    with_engine(model, test, Limits(queue=1))
    assert model.batches == [[0], [3]]


def test_a_client_that_leaves_in_the_middle_of_a_batch_frees_its_place_and_harms_nobody():
    model = FakeModel()

    async def test(engine):
        leaving = engine.submit(asked(1, owner="one", previews=1))
        staying = engine.submit(asked(2, owner="two"))
        assert isinstance(await leaving.next(), Preview)
        leaving.close()
        engine.submit(asked(3, owner="one"))
        assert level((await staying.images())[0]) == (2, SCALES - 1)

    with_engine(model, test, Limits(per_key=1))


def test_generation_stops_when_all_clients_of_a_batch_have_left():
    model = FakeModel()

    async def test(engine):
        model.gate.clear()
        tickets = [engine.submit(asked(seed)) for seed in range(3)]
        await until(lambda: model.batches)
        for ticket in tickets:
            ticket.close()
        model.gate.set()
        await until(lambda: model.closed)
        assert model.finished_scales == 1
        assert level((await engine.submit(asked(9)).images())[0]) == (9, SCALES - 1)

    with_engine(model, test)


def test_a_request_that_breaks_the_pipeline_does_not_harm_those_of_its_batch():
    model = FakeModel(fails_on="bad")

    async def test(engine):
        tickets = [engine.submit(asked(seed, prompt=p)) for seed, p in enumerate(["good", "bad", "good"])]
        assert level((await tickets[0].images())[0])[0] == 0
        with pytest.raises(GenerationError) as failed:
            await tickets[1].images()
        assert "secret" not in str(failed.value)
        assert level((await tickets[2].images())[0])[0] == 2
        assert engine.alive

    with_engine(model, test)


def test_draining_finishes_what_was_accepted_and_refuses_the_rest():
    model = FakeModel()

    async def test(engine):
        model.gate.clear()
        tickets = [engine.submit(asked(seed, sampling=str(seed))) for seed in range(3)]
        draining = asyncio.create_task(engine.drain(20))
        await until(lambda: engine.draining)
        with pytest.raises(RefusedError) as refused:
            engine.submit(asked(9))
        assert refused.value.reason == "draining"
        model.gate.set()
        assert await draining
        assert [len(await ticket.images()) for ticket in tickets] == [1, 1, 1]

    with_engine(model, test)


def test_stopping_ends_every_request_by_an_exception():
    model = FakeModel()

    async def test(engine):
        model.gate.clear()
        tickets = [engine.submit(asked(seed, sampling=str(seed))) for seed in range(3)]
        assert not await engine.drain(0.05)
        model.gate.set()
        await engine.stop()
        for ticket in tickets:
            with pytest.raises(RefusedError):
                await ticket.images()

    with_engine(model, test)


def test_the_loop_stays_free_while_images_are_made():
    model = FakeModel()

    async def test(engine):
        model.gate.clear()
        ticket = engine.submit(asked(0))
        await until(lambda: model.batches)
        for _ in range(5):
            await asyncio.sleep(0)
        model.gate.set()
        assert isinstance([event async for event in ticket][-1], Finished)

    with_engine(model, test)


@pytest.mark.parametrize(
    ("wanted", "scales", "indices"),
    [(0, 6, set()), (1, 6, {2}), (3, 6, {1, 2, 4}), (3, 10, {2, 4, 7}), (3, 3, {0, 1}), (9, 1, set())],
)
def test_previews_are_spread_over_the_scales(wanted, scales, indices):
    assert preview_indices(wanted, scales) == indices
