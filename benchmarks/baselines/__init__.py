"""Published layer-wise methods as strategies of the library; they use nothing but its public names."""

from benchmarks.baselines.calrd import CALRD
from benchmarks.baselines.confident import Confident
from benchmarks.baselines.deco import DeCo
from benchmarks.baselines.dola import DoLa
from benchmarks.baselines.early_exit import EarlyExit
from benchmarks.baselines.sled import SLED

__all__ = ["CALRD", "SLED", "Confident", "DeCo", "DoLa", "EarlyExit"]
