import pytest
import torch

from openhart.data.augment import AugmentedCopies, background, may_mirror, moved
from openhart.data.sample import Sample

SIZE = (24, 32)


def dotted(row=10, column=8, ground=-0.5):
    image = torch.full((3, *SIZE), ground)
    image[:, row, column] = 1.0
    return image


class OnePicture:
    def __init__(self, text="a cat"):
        self.text = text

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return dotted(), Sample({"text": self.text})

    def bucket(self, index):
        return None


def dot(image):
    return [int(place) for place in (image[0] == image[0].max()).nonzero()[0]]


def test_a_shift_moves_the_picture_over_its_own_background():
    found = moved(dotted(), 1.0, (0.25, -0.125))
    assert dot(found) == [16, 4]
    assert torch.equal(found, dotted(16, 4))
    assert torch.equal(moved(dotted(), 1.0, (0.0, 0.0)), dotted())


def test_what_leaves_the_frame_is_lost():
    assert (moved(dotted(), 1.0, (-0.5, 0.0)) == -0.5).all()


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_a_picture_shrinks_and_grows_about_its_centre(factor):
    image = torch.full((3, *SIZE), -1.0)
    image[:, 8:16, 12:20] = 1.0
    found = moved(image, factor, (0.0, 0.0))
    assert found.shape == image.shape
    assert found.abs().max() <= 1
    assert (found > 0).float().sum() == pytest.approx(3 * 64 * factor**2, rel=0.15)
    rows, columns = (found[0] > 0).nonzero().float().mean(dim=0)
    assert (rows, columns) == (pytest.approx(11.5, abs=0.3), pytest.approx(15.5, abs=0.3))
    assert (found[:, 0] == -1).all()


def test_the_background_is_the_edge_without_what_touches_it():
    image = torch.full((3, *SIZE), 0.2)
    image[:, 0, :10] = 1.0
    torch.testing.assert_close(background(image), torch.full((3,), 0.2))


def test_copies_are_the_picture_and_its_changes_the_same_each_time():
    copies = AugmentedCopies(OnePicture(), 6, True, 0.2, (0.8, 1.2))
    assert len(copies) == 6
    assert torch.equal(copies[0][0], dotted())
    assert len({copies[index][0].numpy().tobytes() for index in range(6)}) == 6
    assert all(torch.equal(copies[index][0], copies[index][0]) for index in range(6))
    assert copies[5][1] == Sample({"text": "a cat"})


def test_half_of_the_copies_are_mirrored_where_they_may_be():
    places = {}
    for text in ("a cat", "a cat left of a dog"):
        copies = AugmentedCopies(OnePicture(text), 40, True, 0.0, (1.0, 1.0))
        places[text] = [dot(copies[index][0]) for index in range(40)]
    assert {tuple(place) for place in places["a cat"]} == {(10, 8), (10, 23)}
    assert 8 < places["a cat"].count([10, 23]) < 32
    assert places["a cat left of a dog"] == [[10, 8]] * 40


@pytest.mark.parametrize(
    ("record", "allowed"),
    [
        ({"text": "a cat"}, True),
        ({"label": 3}, True),
        ({"text": "a clock", "mirror": False}, False),
        ({"captions": ["a cat", "a cat facing Left"]}, False),
        ({"text": "a bright copyright"}, True),
    ],
)
def test_what_names_a_side_is_not_mirrored(record, allowed):
    assert may_mirror(Sample(record)) == allowed
