"""The model types, grouped by how they take pictures."""

from benchmarks.conformance.kinds import Kind
from benchmarks.conformance.types import encoders, gemma, grids, grids_sparse, sized, text, tiles, whole

KINDS: dict[str, Kind] = {
    **whole.KINDS,
    **tiles.KINDS,
    **sized.KINDS,
    **grids.KINDS,
    **grids_sparse.KINDS,
    **gemma.KINDS,
    **encoders.KINDS,
    **text.KINDS,
}
"""All types whose miniatures are described here; of others the configuration alone is known."""

TEXT = tuple(text.KINDS)
"""The families that read text only."""
