"""COCO, AMBER and POPE as small folders in the layouts of their authors, with drawn images.

Example: ``benchmarks_data(folder)`` makes ``folder/coco``, ``folder/amber`` and ``folder/pope``, with which
``python -m benchmarks task=[chair] data=folder`` runs.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.tasks import amber_files, pope_questions

CATEGORIES = ("person", "dog", "cat", "car", "pizza", "chair", "bus", "cup", "dining table", "tie")
FIRST = 139
"""COCO's id of the first image; the others follow in steps of 1000."""

SIZE = (64, 48)


def benchmarks_data(folder: Path, n: int = 4) -> Path:
    """All three, about ``n`` images each, in the folder that ``data=`` names."""
    coco(folder / "coco", n)
    amber(folder / "amber", n)
    pope(folder / "pope", n)
    return folder


def coco_names(n: int, year: str = "2014", split: str = "val") -> list[str]:
    """File names of the images of a split."""
    first = FIRST + (0 if split == "val" else 500)
    prefix = f"COCO_{split}2014_" if year == "2014" else ""
    return [f"{prefix}{first + 1000 * place:012d}.jpg" for place in range(n)]


def coco_objects(place: int) -> list[str]:
    """The annotated objects of an image, each once."""
    return [CATEGORIES[(place + step) % len(CATEGORIES)] for step in range(3)]


def coco(folder: Path, n: int = 4, year: str = "2014") -> Path:
    """Annotations of both splits, and the validation images: ``n`` with three annotated objects each.

    Five captions each, which name the first of them and a bench, which is not annotated.
    """
    annotations, images = folder / "annotations", folder / f"val{year}"
    annotations.mkdir(parents=True)
    images.mkdir()
    for split in ("train", "val"):
        names = coco_names(n, year, split)
        listed = [{"id": int(name[-16:-4]), "file_name": name} for name in names]
        boxes, captions = [], []
        for place, image in enumerate(listed):
            objects = coco_objects(place)
            boxes += [
                {
                    "id": len(boxes) + step,
                    "image_id": image["id"],
                    "category_id": CATEGORIES.index(name) + 1,
                    "bbox": [1.0, 2.0, 30.5, 20.25],
                    "segmentation": [[1.0, 2.0, 31.5, 2.0, 31.5, 22.25]],
                }
                for step, name in enumerate(objects, 1)
            ]
            texts = [f"A {objects[0]} beside a bench.", *["A picture."] * 4]
            captions += [
                {"id": len(captions) + step, "image_id": image["id"], "caption": text}
                for step, text in enumerate(texts, 1)
            ]
        categories = [{"id": key, "name": name} for key, name in enumerate(CATEGORIES, 1)]
        _json(
            annotations / f"instances_{split}{year}.json",
            {"images": listed, "annotations": boxes, "categories": categories},
        )
        _json(annotations / f"captions_{split}{year}.json", {"images": listed, "annotations": captions})
    for place, name in enumerate(coco_names(n, year)):
        draw(images / name, place)
    return folder


def amber(folder: Path, n: int = 3) -> Path:
    """A clone of AMBER's repository, with the folder of its images: ``n`` to describe, 6 ``n`` questions."""
    (folder / "data" / "query").mkdir(parents=True)
    (folder / "image").mkdir()
    truth, hallu = ["sky", "forest", "person"], ["cloud", "dog"]
    asked = {
        "discriminative-attribute-state": ("attribute", "Is the sky sunny in this image?", "yes"),
        "discriminative-attribute-number": ("attribute", "Are there two persons in this image?", "no"),
        "discriminative-attribute-action": ("attribute", "Does the person stand in this image?", "yes"),
        "discriminative-hallucination": ("existence", "Is there a dog in this image?", "no"),
        "discriminative-relation": ("relation", "Is there direct contact between person and sky?", "yes"),
        "relation": ("relation", "Is there direct contact between dog and sky?", "no"),
    }
    images = [f"AMBER_{place}.jpg" for place in range(1, n + 1)]
    annotations: list[dict[str, Any]] = [
        {"id": place, "type": "generative", "truth": truth, "hallu": hallu} for place in range(1, n + 1)
    ]
    queries: dict[str, list[dict[str, Any]]] = {name: [] for name in amber_files.QUERIES}
    queries["query/query_generative.json"] = [
        {"id": place, "image": image, "query": "Describe this image."}
        for place, image in enumerate(images, 1)
    ]
    for kind, (file, text, right) in asked.items():
        for image in images:
            key = len(annotations) + 1
            annotations.append({"id": key, "type": kind, "truth": right})
            queries[f"query/query_discriminative-{file}.json"].append(
                {"id": key, "image": image, "query": text}
            )
    _json(folder / "data" / "annotations.json", annotations)
    associations = {"sky": [], "forest": ["tree"], "person": ["people", "man"], "cloud": [], "dog": ["puppy"]}
    _json(folder / "data" / "relation.json", associations)
    (folder / "data" / "safe_words.txt").write_text("camera\nlight\n")
    (folder / "data" / "metrics.txt").write_text("chair_num=0.001\nchair_score=0\n")
    for name, entries in queries.items():
        _json(folder / "data" / name, entries)
    for place, image in enumerate(images):
        draw(folder / "image" / image, place)
    return folder


def pope(folder: Path, n: int = 4) -> Path:
    """The three question files about the images of ``coco``, 6 ``n`` questions each; no images."""
    folder.mkdir(parents=True)
    objects = {name: coco_objects(place) for place, name in enumerate(coco_names(n))}
    for strategy, questions in pope_questions.build(objects, seed=0, images=n).items():
        pope_questions.write(folder / f"coco_pope_{strategy}.json", questions)
    return folder


def conversations(path: Path, images: Sequence[str]) -> Path:
    """A conversation of two turns about each image, and one that is about all of them."""

    def content(names: Sequence[str], text: str) -> list[dict[str, str]]:
        return [*({"type": "image", "image": name} for name in names), {"type": "text", "text": text}]

    found = [
        {
            "id": f"about {name}",
            "messages": [
                {"role": "user", "content": content([name], "What is there?")},
                {"role": "assistant", "content": "A dog."},
                {"role": "user", "content": "And what else?"},
            ],
        }
        for name in images
    ]
    found.append({"id": "all", "messages": [{"role": "user", "content": content(images, "What differs?")}]})
    path.write_text("".join(json.dumps(line) + "\n" for line in found), encoding="utf-8")
    return path


def draw(path: Path, seed: int = 0, mode: str = "RGB", size: tuple[int, int] = SIZE) -> Path:
    """Writes an image of its own for each seed; ``mode`` is one of Pillow's, or I;16."""
    shape = (size[1] // 8, size[0] // 8, 3)
    coarse = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    pixels = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    if mode == "I;16":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(pixels).convert(mode).save(path)
    return path


ODD = {
    "grey.jpg": "L",
    "alpha.png": "RGBA",
    "grey-alpha.png": "LA",
    "palette.png": "P",
    "deep.png": "I;16",
    "ink.jpg": "CMYK",
    "bits.png": "1",
}
"""Images that are not RGB: file -> its mode."""


def odd(folder: Path) -> Mapping[str, str]:
    """Writes an image of every mode; returns file -> mode."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, mode in ODD.items():
        draw(folder / name, mode=mode)
    return ODD


def broken(folder: Path) -> list[str]:
    """Writes one file of every kind of damage; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {suffix: draw(folder / f"whole.{suffix}").read_bytes() for suffix in ("jpg", "png")}
    flipped = bytearray(whole["png"])
    flipped[60] ^= 255
    files = {
        "beheaded.jpg": whole["jpg"][: len(whole["jpg"]) // 2],
        "cut.jpg": whole["jpg"][:-40],
        "cut.png": whole["png"][: len(whole["png"]) // 2],
        "flipped.png": bytes(flipped),
        "garbage.png": whole["png"][:8] + b"no image at all",
        "text.jpg": b"no image",
        "zero.jpg": b"",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for suffix in whole:
        (folder / f"whole.{suffix}").unlink()
    return list(files)


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
