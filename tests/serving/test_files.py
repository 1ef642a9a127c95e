"""The store of images that are fetched by their address."""

from openhart.serving.files import FileStore


def test_files_are_gone_after_their_time():
    now = [0.0]
    store = FileStore(seconds=10, clock=lambda: now[0])
    first = store.add(b"one", "image/png", "png")
    now[0] = 6
    second = store.add(b"two", "image/png", "png")
    assert store.get(first).content == b"one"
    now[0] = 11
    assert store.get(first) is None
    assert store.get(second).content == b"two"
    assert store.size == 3


def test_the_oldest_files_make_room():
    store = FileStore(largest=10)
    names = [store.add(b"1234", "image/png", "png") for _ in range(5)]
    assert [store.get(name) is not None for name in names] == [False, False, False, True, True]
    assert store.size == 8


def test_names_cannot_be_guessed():
    store = FileStore()
    names = {store.add(b"", "image/png", "png") for _ in range(100)}
    assert len(names) == 100
    assert min(map(len, names)) > 30
