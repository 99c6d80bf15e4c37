"""The model types, grouped by how they take pictures."""
