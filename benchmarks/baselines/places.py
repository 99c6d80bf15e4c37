"""Where in the depth a method reads, so that one YAML serves every model."""


def earlier_readout(knob: str, place: float | int, depth: int) -> int:
    """A readout before the last: an int is one, a float a fraction of the depth.

    Raises: ValueError when it is not in ``0..depth - 1``; a fraction in [0, 1) always is.
    """
    fraction = isinstance(place, float) and 0 <= place < 1
    readout = min(round(place * depth), depth - 1) if fraction else place
    if not isinstance(readout, int) or not 0 <= readout < depth:
        raise ValueError(
            f"{knob}={place!r} is no earlier readout of a model of {depth} blocks; choose one in "
            f"0..{depth - 1}, or a fraction of the depth in [0, 1)"
        )
    return readout
