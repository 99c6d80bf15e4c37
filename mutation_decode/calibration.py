"""What a calibration comes to: the verdict, what to use, and what was measured and tried for it."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from torch import nn

from . import saved
from .detection import Detector
from .gate import Gate
from .processor import MutationLogitsProcessor
from .propose import Proposal, Remedy
from .resampling import Plain
from .strategy import Contrast, Skip
from .tokens import Verdict

SHOWN = ("CHAIR_i", "CHAIR_s", "recall", "length", "objects")
KINDS: dict[str, type[Contrast] | type[Skip]] = {"contrast": Contrast, "skip": Skip}


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Which strategy suits a model, made by `calibrate`.

    Attributes:
        verdict: where its prior enters: late, early, or none that can be told.
        remedies: contrast and skip -> the best candidate of that kind, where one helped.
        recommended: the better of them; None if nothing helped.
        model: the fingerprint of the model it was made for.
        report: everything measured and tried, in plain JSON: greedy's figures, curves, AUROCs, trials, notes.

    Example:
        calibration = Calibration.load("calibration.json", model)
        with calibration.processor(model) as processor:
            model.generate(**inputs, logits_processor=[processor])
    """

    verdict: Verdict
    remedies: Mapping[Remedy, Proposal]
    recommended: Remedy | None
    model: Mapping[str, Any]
    report: Mapping[str, Any] = field(repr=False)

    @property
    def strategy(self) -> Contrast | Skip | None:
        """What is recommended; None where nothing helped."""
        return None if self.recommended is None else self.remedies[self.recommended].strategy

    @property
    def detector(self) -> Detector | None:
        """Its detector."""
        return None if self.recommended is None else self.remedies[self.recommended].detector

    @property
    def gate(self) -> Gate | None:
        """Its gate, if it has one."""
        return None if self.recommended is None else self.remedies[self.recommended].gate

    def settings(self, remedy: Remedy | None = None) -> dict[str, Any]:
        """Arguments of `MutationLogitsProcessor` and `MutationDecoder`: strategy, detector, gate.

        Args:
            remedy: contrast or skip, to use that one; None for the recommended one.

        Raises:
            ValueError: if that did not help, so there is nothing to use.
        """
        chosen = self.remedies.get(remedy or self.recommended)  # type: ignore[arg-type]
        if chosen is None:
            raise ValueError(
                f"calibration ({self.verdict}) found no {remedy or 'remedy'} that helps this model: generate "
                f"without one. report['trials'] has what was tried."
            )
        return {"strategy": chosen.strategy, "detector": chosen.detector, "gate": chosen.gate}

    def processor(
        self, model: nn.Module, remedy: Remedy | None = None, **more: Any
    ) -> MutationLogitsProcessor:
        """The processor to use with a model; warns if it is another one than this was made for.

        Args:
            more: other arguments of `MutationLogitsProcessor`.

        Raises:
            ValueError: see `settings`; or if the layers do not fit the model.
        """
        chosen = self.settings(remedy)
        saved.warn_of_another(self.model, model, "this calibration")
        return MutationLogitsProcessor(model, **chosen, **more)

    def save(self, path: str | Path) -> None:
        """Writes a small JSON file, which `Detector`, `Contrast` and `Skip` load as well."""
        remedies = {
            kind: {name: saved.plain(getattr(one, name)) for name in ("strategy", "detector", "gate")}
            for kind, one in self.remedies.items()
        }
        content = {"verdict": self.verdict, "recommended": self.recommended, "model": dict(self.model)}
        saved.write(path, {**content, "remedies": remedies, "report": dict(self.report)})

    @classmethod
    def load(cls, path: str | Path, model: nn.Module | None = None) -> Self:
        """Reads what `save` wrote.

        Args:
            model: what it is to be used with; it warns if that is another one than it was made for.

        Raises:
            ValueError: if it is no such file, or of an unknown schema, or names layers the model lacks.
        """
        content = saved.read(path, model)
        remedies: dict[Remedy, Proposal] = {}
        for kind, section in content["remedies"].items():
            if kind not in KINDS:
                raise ValueError(f"{path}: expected remedies contrast and skip, got {kind!r}.")
            section = saved.section(section, kind, path)
            one = Proposal(
                saved.made(KINDS[kind], section["strategy"], path),
                saved.made(Detector, section["detector"], path),
                None if section["gate"] is None else saved.made(Gate, section["gate"], path),
            )
            if model is not None:
                saved.fits(one.strategy, model, path)
                saved.fits(one.detector, model, path)
            remedies[kind] = one
        if content["recommended"] not in {None, *remedies}:
            raise ValueError(f"{path} recommends {content['recommended']!r}, which it does not hold.")
        return cls(content["verdict"], remedies, content["recommended"], content["model"], content["report"])

    def __str__(self) -> str:
        report = self.report
        lines = [
            f"verdict: {self.verdict} ({report['images']} images; {report['tokens']['hallucinated']} "
            f"hallucinated and {report['tokens']['correct']} correct object words)",
            "how well signs tell hallucinated from correct words (AUROC, 95 % interval):",
            *(f"  {name:<12}{_interval(told)}" for name, told in report["auroc"].items()),
            f"  js of each block: {_curve([told[0] for told in report['auroc_of_blocks']])}",
            "share of words that lead at each readout already:",
            *(f"  {kind:<14}{_curve(report['leads'][kind])}" for kind in ("hallucinated", "correct")),
            "",
            f"{'validation':<12}" + "".join(f"{name:>10}" for name in (*SHOWN, "fired")),
            _row("greedy", report["greedy"]),
        ]
        for kind, one in self.remedies.items():
            trial = report["trials"][kind][report["chosen"][kind]]
            lines += [
                _row(kind, trial["figures"]),
                f"  CHAIR_i {_interval(trial['differences']['CHAIR_i'])} against greedy, recall "
                f"{_interval(trial['differences']['recall'])}",
                *(f"  {part}" for part in (one.strategy, one.detector, one.gate) if part is not None),
            ]
        lines += ["", f"recommended: {self.recommended or 'nothing'}", *report["notes"]]
        return "\n".join(lines)


def warned(notes: list[str]) -> list[str]:
    """Says each note as a warning to whoever called `calibrate`."""
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=4)
    return notes


def _row(name: str, figures: Mapping[str, Plain]) -> str:
    return f"{name:<12}" + "".join(f"{_number(figures[each][0], 2):>10}" for each in (*SHOWN, "fired"))


def _interval(told: Plain) -> str:
    value, low, high = (_number(number, 3) for number in told)
    return f"{value} [{low}, {high}]"


def _curve(values: Plain) -> str:
    return " ".join(_number(value, 2) for value in values)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
