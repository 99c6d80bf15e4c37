"""Finds the late layers where a vision-language model changes its mind, and contrasts what stood before.

Layers are counted in two ways and no third: a block is 0..L-1, a readout 0..L is the number of blocks already
run. Divergences are Jensen-Shannon, in nats.
"""

import transformers

__version__ = "0.1.0"

if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (5, 10):
    raise ImportError(
        f"mutation_decode needs transformers 5.10 or later, found {transformers.__version__}; "
        f"pip install -U transformers."
    )

from .anatomy import Anatomy
from .asking import Example
from .calibrate import calibrate
from .calibration import Calibration
from .decoder import MutationDecoder
from .detection import Detector, Mutations
from .diagnose import Diagnosis, diagnose
from .divergence import adjacent_js, js_divergence
from .examine import examine
from .findings import Findings
from .gate import Gate
from .lens import LogitLens
from .processor import MutationLogitsProcessor
from .propose import Proposal
from .readout import Readout
from .record import Record
from .strategy import Contrast, ForwardStrategy, Skip, Strategy
from .trace import Trace
from .twins import with_twins

__all__ = [
    "Anatomy",
    "Calibration",
    "Contrast",
    "Detector",
    "Diagnosis",
    "Example",
    "Findings",
    "ForwardStrategy",
    "Gate",
    "LogitLens",
    "MutationDecoder",
    "MutationLogitsProcessor",
    "Mutations",
    "Proposal",
    "Readout",
    "Record",
    "Skip",
    "Strategy",
    "Trace",
    "__version__",
    "adjacent_js",
    "calibrate",
    "diagnose",
    "examine",
    "js_divergence",
    "with_twins",
]
