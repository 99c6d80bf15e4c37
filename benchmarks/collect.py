"""``python -m benchmarks.collect runs/a runs/sweep ... [output=DIR]``: many runs, one table, one picture.

Rows stand in one table only where they are comparable; each table says what its rows stand for, and what
keeps those of another table of the same names apart.
"""

import csv
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from benchmarks import frontier
from benchmarks.comparable import Group, Row, brief, groups, several
from benchmarks.report import ABREAST, DIGITS, LEGEND, cell
from benchmarks.usage import UsageError, nearest

KEYS = {"output": "", "figure": "CHAIR_i", "against": "recall"}
"""Keys of the command and their defaults: where to write, and what the picture shows."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """Rows of finished runs, and in sentences what is not among them."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    levels: dict[Any, list[str]] = field(default_factory=dict)
    """bootstrap.level -> the runs that have it."""


def collect(
    folders: Sequence[Path], output: Path | None = None, *, figure: str = "CHAIR_i", against: str = "recall"
) -> str:
    """One text of all runs in and below ``folders``; into ``output`` table.md, rows.csv and frontier.png.

    Raises: UsageError when nothing can be gathered, or ``output`` is a run folder.
    """
    gathered = gather(folders)
    if not gathered.rows:
        told = "".join(f"; {note}" for note in gathered.notes)
        raise UsageError(
            f"no finished run in {', '.join(map(str, folders))}: expected folders that hold scores.json{told}"
        )
    tables = groups(gathered.rows)
    text = "\n\n".join(document(tables, gathered))
    if output is None:
        return text
    if (output / "scores.json").exists():
        raise UsageError(f"output={output} is a run folder, with a table of its own; choose another")
    output.mkdir(parents=True, exist_ok=True)
    written = ["table.md", "rows.csv", "frontier.png"]
    if not frontier.draw(tables, figure, against, output / "frontier.png"):
        text += f"\n\nNo picture: no table has both {figure} and {against}."
        (output / written.pop()).unlink(missing_ok=True)
    (output / "table.md").write_text(text + "\n", encoding="utf-8")
    (output / "rows.csv").write_text(table_of(tables), encoding="utf-8")
    return f"{text}\n\nIn {output}: {', '.join(written)}"


def found(folder: Path) -> bool:
    """Whether a finished run lies in or below the folder."""
    return next(folder.rglob("scores.json"), None) is not None


def gather(folders: Sequence[Path]) -> Gathered:
    """All rows of the runs at any depth. Raises: UsageError on a folder that is not there."""
    gathered, seen = Gathered(), set()
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"no folder {folder}")
        for path in runs_in(folder):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                _read(path, gathered)
    return gathered


def runs_in(folder: Path) -> list[Path]:
    """Run folders, finished or not, in or below the folder."""
    finished = {path.parent for path in folder.rglob("scores.json")}
    begun = {path.parent for path in folder.rglob("versions.json") if path.with_name("config.yaml").exists()}
    return sorted(finished | begun)


def _read(path: Path, gathered: Gathered) -> None:
    if not (path / "scores.json").exists():
        gathered.notes.append(f"{path} is unfinished and not in the tables")
        return
    file = path / "scores.json"
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        known = [row for row in rows if "stands_for" in row]
        names = ("model", "method", "task", "n", "figures", "stands_for")
        read = [Row(str(path), *(row[name] for name in names)) for row in known]
        file = path / "config.yaml"
        texts = [file.read_text(encoding="utf-8")] if file.exists() else []
        levels = [yaml.safe_load(text).get("bootstrap", {}).get("level") for text in texts]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        gathered.notes.append(f"{file} cannot be read ({type(error).__name__}: {told}): left out")
        return
    gathered.rows.extend(read)
    for level in levels if known else []:
        gathered.levels.setdefault(level, []).append(str(path))
    if len(known) < len(rows):
        gathered.notes.append(
            f"{path} is of an older version, which did not note what its {len(rows) - len(known)} rows stand "
            f"for: left out"
        )


def document(tables: Sequence[Group], gathered: Gathered) -> list[str]:
    """Paragraphs of Markdown that can be read in a terminal too."""
    runs = len({row.folder for row in gathered.rows})
    parts = [f"# {len(gathered.rows)} rows of {runs} runs", LEGEND]
    for number, group in enumerate(tables, 1):
        parts += [f"## {number}. {group.name}", _stands_for(group), *_apart(tables, number), *_lines(group)]
        if codes := group.codes():
            parts.append(f"These runs were made by different code ({'; '.join(codes)}).")
    if len(gathered.levels) > 1:
        told = "; ".join(f"{level} in {several(runs)}" for level, runs in gathered.levels.items())
        parts.append(f"Intervals are of different levels: {told}.")
    return [*parts, *(f"{note}." for note in gathered.notes)]


def _stands_for(group: Group) -> str:
    """A list: the model, the data, the prompt, the limits and settings of the task."""
    known, terms = group.rows[0].stands_for, group.rows[0].terms()
    paths = ", ".join(dict.fromkeys(str(row.stands_for["path"]) for row in group.rows))
    limits = f"max_new_tokens={terms['max_new_tokens']}, unfinished={terms['unfinished']}"
    return "\n".join(
        [
            ", ".join(
                [f"- model: {paths}, {brief(known['weights'])}, {known['dtype']}", *_below("model", terms)]
            ),
            f"- data: {brief(known['data'])}"
            + (f", images {brief(terms['images'])}" if terms.get("images") else ""),
            f"- task: {', '.join(_below('task', terms | group.chosen()))}",
            f"- prompt: {brief(known['prompt'])}",
            f"- {limits}",
        ]
    )


def _below(part: str, terms: Mapping[str, Any]) -> list[str]:
    """``parser=lenient`` of ``task.parser``, and so on: what is set, but for what Hydra alone reads."""
    found = {key.removeprefix(f"{part}."): v for key, v in terms.items() if key.startswith(f"{part}.")}
    return [f"{key}={v}" for key, v in found.items() if v is not None and not key.startswith("_")]


def _apart(tables: Sequence[Group], number: int) -> Iterator[str]:
    """What keeps the table's rows apart from those of the earlier one of the same names that is nearest."""
    group = tables[number - 1]
    earlier = {n: group.differences(other) for n, other in enumerate(tables[: number - 1], 1)
               if group.same_names(other)}  # fmt: skip
    if earlier:
        nearest_one = min(earlier, key=lambda n: len(earlier[n]))
        yield f"Not comparable with table {nearest_one}: {'; '.join(earlier[nearest_one])}."


def _lines(group: Group) -> Iterator[str]:
    """A line a decoding, a column a figure; as many tables as that makes readable."""
    lines = group.lines()
    names = list(dict.fromkeys(name for line in lines for name in line.figures))
    for shown in (names[i : i + ABREAST] for i in range(0, len(names), ABREAST)):
        cells = [
            [
                line.label,
                *(over_seeds_too(line.figures[name], name) if name in line.figures else "" for name in shown),
            ]
            for line in lines
        ]
        yield tabulate(cells, ["", *shown], tablefmt="github", disable_numparse=True)


def over_seeds_too(figure: Any, name: str) -> str:
    """As in a run's table; over seeds ``14.2 ± 0.3  -3.1 ± 0.2``."""
    digits = DIGITS.get(name, 1)
    if "sd" not in figure:
        return cell(figure, digits)
    if figure["value"] is None:
        return "undefined"
    text = f"{figure['value']:.{digits}f} ± {figure['sd']:.{digits}f}"
    difference = figure["difference"]
    return (
        f"{text}  {difference['value']:+.{digits}f} ± {difference['sd']:.{digits}f}" if difference else text
    )


def table_of(tables: Sequence[Group]) -> str:
    """CSV, a line a row and figure, with all that the row stands for."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    own = ("table", "folder", "model", "task", "method", "n")
    known = ("path", "weights", "dtype", "data", "images", "pixels", "prompt")
    ends = ("value", "low", "high")
    columns = [*own, *known, "decoding", "seed", "code", "figure", *ends]
    writer.writerow([*columns, *(f"difference_{end}" for end in ends)])
    for number, group in enumerate(tables, 1):
        for row in group.rows:
            about = [number, row.folder, row.model, row.task, row.method, row.n]
            about += [row.stands_for.get(key) for key in known]
            about += [json.dumps(row.stands_for["decoding"]), row.seed, json.dumps(row.stands_for["code"])]
            for name, figure in row.figures.items():
                difference = figure["difference"] or {}
                numbers = [figure[end] for end in ends] + [difference.get(end) for end in ends]
                writer.writerow([*about, name, *numbers])
    return text.getvalue()


def run(words: Sequence[str]) -> None:
    """Folders and ``key=value`` words; a folder of a sweep has = in its name too."""
    given, folders = dict(KEYS), []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in KEYS:
            given[key] = value
        elif equals and "/" not in word and not Path(word).exists():
            raise UsageError(f"unknown key {key}: {nearest(key, KEYS)}")
        else:
            folders.append(Path(word))
    if not folders:
        raise UsageError("no folder given: python -m benchmarks.collect runs/a runs/sweep [output=DIR]")
    output = Path(given["output"]) if given["output"] else None
    print(collect(folders, output, figure=given["figure"], against=given["against"]))


def main() -> None:
    """Exit code 0, or 2 with one line on stderr."""
    from benchmarks.__main__ import stop  # a sweep that ends is in that module, under another name

    try:
        run(sys.argv[1:])
        sys.stdout.flush()
    except UsageError as error:
        stop(str(error))
    except BrokenPipeError:  # of | head, which has read enough; what is written later goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
