"""The journal: what some sink has not acknowledged, in append-only segments on disk."""
