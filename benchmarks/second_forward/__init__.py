"""Published methods that run the model a second time, on other inputs, and compare: VCD, ICD, M3ID, PAI.

They are plain processors of transformers and need nothing of the library.
"""

from benchmarks.second_forward.contrast import ICD, VCD
from benchmarks.second_forward.ground import M3ID, PAI
from benchmarks.second_forward.processor import SecondForward
from benchmarks.second_forward.second import Second, check_arguments, check_model

__all__ = ["ICD", "M3ID", "PAI", "VCD", "Second", "SecondForward", "check_arguments", "check_model"]
