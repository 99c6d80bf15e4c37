"""What a check of a model type may do to its process; in a module, as every process imports it anew."""

import os
import time

from benchmarks.conformance.outcome import PASS, Outcome


def check(name: str) -> Outcome:
    """Ends as the name says."""
    if name == "abort":
        os.abort()
    if name == "exit":
        os._exit(3)
    if name == "hang":
        time.sleep(600)
    if name == "grow":
        return Outcome(PASS, f"{len(bytearray(4 << 30))} bytes were had")
    return Outcome(PASS, PASS, (name,))
