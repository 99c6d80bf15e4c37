"""``python -m benchmarks.overhead``: time and peak memory of every decoding method against plain generate.

A busy machine changes its speed from one second to the next, so every run of a method has a greedy run right
beside it, and what counts is the ratio of the two. Whether a gated method acts is not left to the weights: a
threshold of ln 2 nats is never passed, one of 0 always.
"""

import math
import os
import platform
import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import hydra
import torch
import transformers
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from benchmarks.__main__ import command, mistakes_in
from benchmarks.baselines import DoLa
from benchmarks.folder import RunFolder, versions
from benchmarks.mistakes import CONF
from benchmarks.overhead_model import load, prompts
from benchmarks.usage import UsageError, nearest
from mutation_decode import Anatomy, Contrast, Detector, ForwardStrategy, LogitLens, Record, Skip, Strategy
from mutation_decode import MutationLogitsProcessor as Processor

Trace = bool | Literal["watched"] | Record

NEVER, ALWAYS = Detector(threshold=math.log(2)), Detector(threshold=0.0)

LEGEND = """\
time: of model.generate, the prompt included, over that of the plain greedy run right beside it; the median of
the repeats, in brackets the lowest and the highest. greedy stands against another greedy run: that is noise.
tokens/s: made by all rows together, median; runs lie minutes apart, so compare the ratios instead.
acted: percent of the tokens at which the strategy acted, from a call of its own that is traced and not timed.
"""
MEMORY = "memory: the highest peak of allocated device memory, weights included, over greedy's."
NO_MEMORY = "memory: left out; what a call takes at its peak is known on CUDA only."


@dataclass(frozen=True, slots=True)
class Bench:
    """A model, its parts, and how many tokens it makes in a run."""

    model: Any
    anatomy: Anatomy
    tokens: int

    def generate(self, ids: Tensor, tokens: int, processor: Processor | None) -> None:
        used = [] if processor is None else [processor]
        length = {"min_new_tokens": tokens, "max_new_tokens": tokens}
        mask = torch.ones_like(ids)
        made = self.model.generate(ids, attention_mask=mask, logits_processor=used, **length)
        made.cpu()  # waits until the device has done it

    def measure(self, method: "Method", ids: Tensor) -> tuple[float, int]:
        """Seconds of one run, and its peak of device memory in bytes; 0 where it is not known."""
        device = self.model.device
        with method.on(self, trace=method.trace) as processor:
            self.generate(ids[:, :4], 3, processor)  # what a processor checks in its first call only
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            start = time.perf_counter()
            self.generate(ids, self.tokens, processor)
            seconds = time.perf_counter() - start
            return seconds, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


@dataclass(frozen=True, slots=True)
class Method:
    """A row of the table: a strategy, or generate without one, plain or under a lens that reads nothing."""

    name: str
    strategy: Strategy | ForwardStrategy | None = None
    detector: Detector | None = None
    trace: Trace = False
    lens: bool = False

    @contextmanager
    def on(self, bench: Bench, *, trace: Trace) -> Iterator[Processor | None]:
        """The method, on the model for the time of the context: greedy runs are those of the bare model."""
        model, parts = bench.model, bench.anatomy
        if self.strategy is None:
            with LogitLens(model, readouts=(), anatomy=parts) if self.lens else nullcontext():
                yield None
            return
        made = Processor(model, self.strategy, detector=self.detector, trace=trace, anatomy=parts)
        with made, warnings.catch_warnings():
            if self.detector == NEVER:
                warnings.filterwarnings("ignore", ".* never acted in this generate", UserWarning)
            yield made

    def percent_acted(self, bench: Bench, ids: Tensor) -> float | None:
        """None without a strategy. Raises: UsageError if the library refuses it on this model."""
        try:
            with self.on(bench, trace=True) as processor:
                bench.generate(ids, bench.tokens, processor)
                trace = processor.trace if processor else None
                return trace.percent_acted if trace else None
        except ValueError as error:
            raise UsageError(f"{self.name}: {error}") from error


GREEDY = Method("greedy")


def methods(depth: int) -> list[Method]:
    """The rows of the table, for a model of ``depth`` blocks."""
    block, quarter = 3 * depth // 4, range(depth // 2, 3 * depth // 4)
    skip = Skip(layers=[block], gated=True)
    return [
        GREEDY,
        Method("hooks alone", lens=True),
        Method("contrast, threshold ln 2: never", Contrast(), NEVER),
        Method('contrast, threshold ln 2, trace="watched"', Contrast(), NEVER, trace="watched"),
        Method("contrast, threshold ln 2, trace=True", Contrast(), NEVER, trace=True),
        Method("contrast, threshold ln 2, trace=Record()", Contrast(), NEVER, trace=Record()),
        Method("contrast, threshold 0: always", Contrast(), ALWAYS),
        Method(f"skip of block {block}, threshold ln 2: never", skip, NEVER),
        Method(f"skip of block {block}, threshold 0: always", skip, ALWAYS),
        Method(f"skip of block {block} at every token, known beforehand", Skip(layers=[block])),
        Method("skip of the paper", Skip(), Detector.paper()),
        Method(f"depth compression, blocks {quarter[0]}..{quarter[-1]}", Skip(layers=quarter, prompt=True)),
        Method("dola", DoLa()),
    ]


def compare(bench: Bench, ids: Tensor, repeats: int, order: random.Random) -> Iterator[dict[str, Any]]:
    """The figures of every method, for prompts ``[rows, positions]``."""
    chosen, rows = methods(bench.anatomy.depth), len(ids)
    acted = {method.name: method.percent_acted(bench, ids) for method in chosen}
    runs: dict[str, list[tuple[float, ...]]] = {method.name: [] for method in chosen}
    for _ in tqdm(range(repeats), unit=" repeats", desc=f"batches of {rows}"):
        shuffled = order.sample(chosen, len(chosen))
        shuffled += [GREEDY] * (len(shuffled) % 2)
        for first, second in zip(shuffled[::2], shuffled[1::2], strict=True):
            # One greedy run stands between two methods, right beside both.
            before, plain, after = (bench.measure(method, ids) for method in (first, GREEDY, second))
            runs[first.name].append((*before, *plain))
            runs[second.name].append((*after, *plain))
    for name, figures in runs.items():
        seconds, peaks, plain_seconds, plain_peaks = zip(*figures, strict=True)
        ratios = [own / plain for own, plain in zip(seconds, plain_seconds, strict=True)]
        yield {
            "batch_size": rows,
            "method": name,
            "time": median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
            "ratios": ratios,
            "tokens_per_second": rows * bench.tokens / median(seconds),
            "memory": max(peaks) / max(plain_peaks) if max(plain_peaks) else None,
            "percent_acted": acted[name],
        }


def document(about: Mapping[str, str], rows: Sequence[Mapping[str, Any]], style: str) -> str:
    """The table, what it was measured on above it, and what it means below."""
    measured = all(row["memory"] for row in rows)
    table = [
        {
            "batch": row["batch_size"],
            "method": row["method"],
            "time": f"{row['time']:.2f} [{row['lowest']:.2f}, {row['highest']:.2f}]",
            **({"memory": f"{row['memory']:.2f}"} if measured else {}),
            "tokens/s": f"{row['tokens_per_second']:.0f}",
            "acted": "" if row["percent_acted"] is None else f"{row['percent_acted']:.0f} %",
        }
        for row in rows
    ]
    parts = [
        "\n".join(f"- {key}: {value}" for key, value in about.items()),
        tabulate(table, "keys", tablefmt=style, disable_numparse=True),
        LEGEND + (MEMORY if measured else NO_MEMORY),
    ]
    return "\n\n".join(parts) + "\n"


def machine(bench: Bench, config: Mapping[str, Any]) -> dict[str, str]:
    """What the ratios hold for."""
    device, text = bench.model.device, bench.model.config.get_text_config()
    chip = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    kind = f"{type(bench.model).__name__}, {config['checkpoint'] or 'random weights'}"
    return {
        "model": f"{kind}, {bench.anatomy.depth} blocks, hidden {text.hidden_size}, "
        f"vocabulary {text.vocab_size}, {config['dtype']}",
        "runs": f"prompts of {config['prompt']} tokens, {bench.tokens} new ones, {config['repeats']} repeats",
        "machine": f"{device}, {chip}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "software": f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"commit {versions()['commit']}",
    }


def check(config: Mapping[str, Any]) -> None:
    """Raises: UsageError on a key that is none, or a value that cannot work."""
    known = {str(key) for key in OmegaConf.load(CONF / "overhead.yaml")} - {"defaults", "hydra"}
    for key in set(config) - known:  # those of +key=value
        raise UsageError(f"unknown key {key}: {nearest(key, known)}")
    least = dict.fromkeys(("hidden", "heads", "prompt", "new_tokens", "repeats"), 1)
    for key, lowest in {**least, "blocks": 4, "vocabulary": 4, "seed": 0}.items():
        if type(config[key]) is not int or config[key] < lowest:
            raise UsageError(f"{key}={config[key]}; expected a whole number, at least {lowest}")
    sizes = config["batch_sizes"]
    if not isinstance(sizes, list) or not sizes or any(type(size) is not int or size < 1 for size in sizes):
        raise UsageError(f"batch_sizes={sizes}; expected whole numbers, at least 1, such as [1,8]")
    if config["hidden"] % (2 * config["heads"]):
        raise UsageError(f"hidden={config['hidden']} is no multiple of twice heads={config['heads']}")
    if config["dtype"] not in ("float32", "bfloat16", "float16"):
        raise UsageError(f"dtype {config['dtype']!r} is none; use float32, bfloat16 or float16")
    if config["checkpoint"] is not None and not Path(str(config["checkpoint"])).is_dir():
        raise UsageError(f"no folder {config['checkpoint']}; checkpoint=null takes random weights")


def run(config: Mapping[str, Any], folder: Path) -> None:
    """Measures, prints, and writes overhead.json and overhead.md. Raises: UsageError."""
    check(config)
    model, parts = load(config)
    bench, order = Bench(model, parts, config["new_tokens"]), random.Random(config["seed"])
    rows = [
        row
        for size in config["batch_sizes"]
        for row in compare(bench, prompts(model, size, config["prompt"]), config["repeats"], order)
    ]
    about = machine(bench, config)
    written = RunFolder(folder)
    written.write("overhead.json", {"config": config, "about": about, "rows": rows})
    written.write("overhead.md", "# Overhead\n\n" + document(about, rows, "github"))
    print(document(about, rows, "simple"))


@hydra.main(config_path=str(CONF), config_name="overhead", version_base="1.3")
def job(config: DictConfig) -> None:
    """One table, or one of a sweep."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    with mistakes_in(folder):
        resolved = OmegaConf.to_container(config, resolve=True)
        assert isinstance(resolved, dict)
        run({str(key): value for key, value in resolved.items()}, folder)


def main() -> None:
    """Exit code 0, or 2 with one line on stderr; a bug keeps its traceback."""
    command(job, "overhead")


if __name__ == "__main__":
    main()
