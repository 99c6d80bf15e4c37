"""The evidence: every method on every training of the miniatures, the ablations, and the page about them."""
