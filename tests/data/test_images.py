import json

import pytest
import torch
from PIL import Image

from openhart.data import open_dataset
from openhart.errors import UserError

SIZE = (16, 24)


def save(path, colour="red", size=(40, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)


def describe(folder, *records):
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_folder_with_captions(tmp_path):
    save(tmp_path / "b.png", "blue")
    save(tmp_path / "a.jpg", "red")
    describe(tmp_path, {"file_name": "b.png", "text": "blue"}, {"file_name": "a.jpg", "text": "red"})
    dataset = open_dataset(str(tmp_path), SIZE)
    assert [dataset[i][1].fields["text"] for i in range(len(dataset))] == ["red", "blue"]
    image = dataset[1][0]
    assert image.shape == (3, *SIZE)
    torch.testing.assert_close(image[:, 0, 0], torch.tensor([-1.0, -1.0, 1.0]))


def test_class_folders_become_labels(tmp_path):
    for name in ("zebra", "ant"):
        save(tmp_path / name / "1.png")
    dataset = open_dataset(str(tmp_path), SIZE)
    assert [(r.main_caption, r.label()) for _, r in (dataset[0], dataset[1])] == [("ant", 0), ("zebra", 1)]


def test_images_may_lie_deeper_in_a_class_folder(tmp_path):
    save(tmp_path / "ant" / "wild" / "1.png")
    save(tmp_path / "bee" / "2.JPEG")
    dataset = open_dataset(str(tmp_path), SIZE)
    assert [(sample.name, sample.label()) for sample in dataset.samples] == [
        ("ant/wild/1.png", 0),
        ("bee/2.JPEG", 1),
    ]


def test_only_some_records(tmp_path):
    for name in "abc":
        save(tmp_path / f"{name}.png")
    describe(tmp_path, *({"file_name": f"{n}.png", "text": n, "style": n} for n in "abc"))
    assert len(open_dataset(str(tmp_path), SIZE, only={"style": ["a", "c"]})) == 2
    with pytest.raises(UserError, match="values z in style"):
        open_dataset(str(tmp_path), SIZE, only={"style": ["z"]})


def test_transparency_lies_on_white_and_photographs_stand_upright(tmp_path):
    save(tmp_path / "clear.png", (0, 0, 0, 0), mode="RGBA")
    picture = Image.new("RGB", (20, 10), "black")
    picture.paste("white", (0, 0, 10, 10))
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned clockwise: what is left comes on top
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    describe(tmp_path, {"file_name": "clear.png"}, {"file_name": "turned.jpg"})
    dataset = open_dataset(str(tmp_path), (20, 10))
    assert dataset[0][0].min() == 1
    turned = dataset[1][0]
    assert turned[:, :8].min() > 0.8
    assert turned[:, 12:].max() < -0.8


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{broken", "line 2 cannot be read as JSON"),
        ('{"text": "x"}', "line 2: a record must have a file_name"),
    ],
)
def test_a_bad_line_is_reported_with_its_number(tmp_path, line, word):
    save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n' + line + "\n")
    with pytest.raises(UserError, match=word):
        open_dataset(str(tmp_path), SIZE)


def test_missing_and_broken_images_are_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    describe(tmp_path, {"file_name": "broken.png"}, {"file_name": "gone.png"})
    dataset = open_dataset(str(tmp_path), SIZE)
    with pytest.raises(UserError, match=r"broken\.png"):
        dataset[0]
    with pytest.raises(UserError, match=r"gone\.png"):
        dataset[1]


def test_folders_without_images_are_reported(tmp_path):
    with pytest.raises(UserError, match="no images"):
        open_dataset(str(tmp_path), SIZE)
    with pytest.raises(UserError, match="no image folder"):
        open_dataset(str(tmp_path / "none"), SIZE)
