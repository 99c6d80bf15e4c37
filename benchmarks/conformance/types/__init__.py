"""The model types, grouped by how they take pictures."""

from benchmarks.conformance.kinds import Kind
from benchmarks.conformance.types import grids, grids_sparse, text, whole

KINDS: dict[str, Kind] = {**whole.KINDS, **grids.KINDS, **grids_sparse.KINDS, **text.KINDS}
"""All types whose miniatures are described here; of others the configuration alone is known."""

TEXT = tuple(text.KINDS)
"""The families that read text only."""
