"""Images of a folder: of any mode, missing, damaged; and 40,000 of them."""

import gc
import os
import re
import time

import numpy as np
import pytest
from layouts import SIZE, broken, draw, odd
from PIL import Image

from benchmarks.tasks.describe import Describe
from benchmarks.tasks.images import images, rgb
from benchmarks.usage import UsageError


def test_images_of_every_mode_are_read_as_they_are(tmp_path):
    modes = odd(tmp_path)
    found = {name: read() for name, read in images(tmp_path, modes).items()}
    assert {name: image.mode for name, image in found.items()} == dict(modes)
    assert {image.size for image in found.values()} == {SIZE}
    for name, image in found.items():
        assert (np.asarray(image) == np.asarray(Image.open(tmp_path / name))).all(), name


def test_what_is_damaged_or_missing_says_so_when_it_is_read_and_leaves_no_file_open(tmp_path):
    names = [*broken(tmp_path), "missing.jpg"]
    (tmp_path / "folder.jpg").mkdir()
    draw(tmp_path / "good.jpg")
    found = images(tmp_path, ["good.jpg", "folder.jpg", *names])
    for name in ("folder.jpg", *names):
        with pytest.raises((OSError, ValueError)):
            found[name]()
    with pytest.raises(FileNotFoundError, match=re.escape("missing.jpg")):
        found["missing.jpg"]()
    gc.collect()
    gc.disable()  # which closes files late
    try:
        before = os.listdir("/proc/self/fd")
        for name in names:
            with pytest.raises((OSError, ValueError)):
                found[name]()
        assert os.listdir("/proc/self/fd") == before
    finally:
        gc.enable()
    assert found["good.jpg"]().size == SIZE


def test_whatever_pillow_raises_on_a_damaged_file_is_a_value_error(tmp_path):
    Image.new("1", (20_000, 10_000)).save(tmp_path / "huge.png")
    with pytest.raises(ValueError, match="DecompressionBombError: Image size"):
        images(tmp_path, ["huge.png"])["huge.png"]()


def test_a_turned_image_is_read_upright(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(draw(tmp_path / "a.png")).save(tmp_path / "turned.jpg", exif=turned)
    assert images(tmp_path, ["turned.jpg"])["turned.jpg"]().size == SIZE[::-1]


def test_16_bits_become_the_upper_8_where_pillow_makes_all_white(tmp_path):
    odd(tmp_path)
    deep = images(tmp_path, ["deep.png"])["deep.png"]()
    assert (np.asarray(rgb(deep)) == (np.asarray(deep) // 257)[..., None]).all()
    assert len(np.unique(np.asarray(rgb(deep)))) > 10
    wide = Image.fromarray(np.array([[0, 255, 256, 65535, 70000, -5]], np.int32))
    assert np.asarray(rgb(wide))[0, :, 0].tolist() == [0, 0, 1, 255, 255, 0]


def test_other_modes_become_what_pillow_makes_of_them(tmp_path):
    modes = {name: mode for name, mode in odd(tmp_path).items() if mode != "I;16"}
    for name, read in images(tmp_path, modes).items():
        assert rgb(read()).tobytes() == Image.open(tmp_path / name).convert("RGB").tobytes()


def test_40_000_images_are_listed_at_once_and_none_is_opened(tmp_path):
    (tmp_path / "0.jpg").touch()
    images(tmp_path, ["0.jpg"])  # the import
    start = time.perf_counter()
    found = images(tmp_path, (f"{number}.jpg" for number in range(40_000)))
    assert time.perf_counter() - start < 2
    assert len(found) == 40_000


def test_a_name_that_comes_twice_is_one_image(tmp_path):
    draw(tmp_path / "a.jpg")
    assert list(images(tmp_path, ["a.jpg", "a.jpg"])) == ["a.jpg"]
    assert images(tmp_path, []) == {}


def test_names_of_any_script_are_found(tmp_path):
    draw(tmp_path / "ü 猫 ::.jpg")
    assert images(tmp_path, ["ü 猫 ::.jpg"])["ü 猫 ::.jpg"]().size == SIZE


def test_a_folder_that_is_not_there_or_has_none_of_them(tmp_path):
    with pytest.raises(UsageError, match=r"there is no folder of images .*nowhere"):
        images(tmp_path / "nowhere", ["a.jpg"])
    with pytest.raises(UsageError, match=r"has none of 2 images, such as a\.jpg"):
        images(tmp_path, ["a.jpg", "b.jpg"])


def test_a_folder_to_describe_reads_through_the_same(tmp_path):
    odd(tmp_path)
    bad = broken(tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    items = Describe(images=str(tmp_path), prompt="describe", max_new_tokens=4).items()
    unread = []
    for item in items:
        try:
            assert item.turns[0].images[0]().size == SIZE
        except (OSError, ValueError):
            unread.append(item.image_id)
    assert unread == sorted(bad)
