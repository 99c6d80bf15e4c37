"""report.html: one page of a run that needs nothing beside it; the figures are those of scores.json."""
