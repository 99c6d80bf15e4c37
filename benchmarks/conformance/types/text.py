"""Families that read text only."""

from benchmarks.conformance.kinds import Kind

KINDS: dict[str, Kind] = {"llama": Kind()}
