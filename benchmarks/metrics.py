"""The scorers as ``evaluate.Metric``: batch by batch, over several processes, without a network.

Example:
    metric = Chair(ground_truth="ground_truth.json", variant="original")
    metric.add_batch(predictions=["A dog on a bench."], references=["391895"])
    metric.compute()    # {"CHAIR_s": 0.0, "CHAIR_i": 0.0, "recall": 66.7, ...}
"""

from typing import Any, ClassVar

import datasets
import evaluate

from benchmarks.predictions import Prediction
from benchmarks.scorers import prepare


class _Texts(evaluate.Metric):
    """Predictions are texts, references the ids of what they answer; figures are in percent, unrounded.

    Args:
        options: of evaluate.Metric, such as num_process, process_id, experiment_id, cache_dir.
        settings: the keys of ``python -m benchmarks.score``, such as ground_truth, annotations or questions.

    Raises: UsageError, before anything is scored, on a setting that is none and on files that are not there.
    """

    task: ClassVar[str]

    def __init__(self, *, options: dict[str, Any] | None = None, **settings: Any) -> None:
        self._score = prepare(self.task, settings)
        super().__init__(config_name=self.task, **(options or {}))

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description="predictions: texts; references: ids of the images, items or questions.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        found = [Prediction(key, text, {}) for key, text in zip(references, predictions, strict=True)]
        return self._score(found).values()


class Chair(_Texts):
    """CHAIR: objects in captions that are not in the image; references are COCO image ids."""

    task = "chair"


class Amber(_Texts):
    """AMBER, both parts: references are AMBER ids."""

    task = "amber"


class Pope(_Texts):
    """POPE: yes/no questions about objects; references are question ids."""

    task = "pope"
