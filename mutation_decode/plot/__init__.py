"""Pictures of what layers do: of an answer's trace, and of js by layer for groups of tokens.

Those of a `Trace` are the figures of the paper, drawn for any model:

| function | the paper's | needs |
|---|---|---|
| `token_probabilities` | fig. 2 | a `Record` |
| `rivals` | fig. 3 | a `Record` |
| `js_heatmap` | fig. 4 | |
| `states_of_answer` | fig. 6 | `Record(states=True)` |
| `states_of_images` | fig. 7 | `Record(states=True)` |
| `with_and_without_image` | sec. 6 | |

Needs matplotlib and, for states, scikit-learn (`pip install 'mutation-decode[plots]'`), imported when a
picture is drawn. Nothing is shown or saved: each function draws on the axes it is given, or on new ones, and
returns them. Letters are those of a page in print: nothing below 7 points, no picture wider than 7.2 inches.

Source: "Towards Understanding How Knowledge Evolves in Large Vision-Language Models" (CVPR 2025).

Example:
    with MutationLogitsProcessor(model, trace=Record(states=True)) as processor:
        model.generate(**inputs, logits_processor=[processor])
    trace = processor.trace.row(0).named(tokenizer)
    plot.token_probabilities(trace).figure.savefig("probabilities.pdf")
"""

from .axes import COLOURS, DASHES, JS, SMALL, WIDE
from .by_layer import js_by_layer, with_and_without_image
from .heat import js_heatmap, mark, token_probabilities
from .labels import labels
from .rivals import probability_of, rival_of, rivals
from .states import embedded, states_of_answer, states_of_images

__all__ = [
    "COLOURS",
    "DASHES",
    "JS",
    "SMALL",
    "WIDE",
    "embedded",
    "js_by_layer",
    "js_heatmap",
    "labels",
    "mark",
    "probability_of",
    "rival_of",
    "rivals",
    "states_of_answer",
    "states_of_images",
    "token_probabilities",
    "with_and_without_image",
]
