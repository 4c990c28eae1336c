"""The workers' side of the measurements: Tracelet, and the same calls of the others."""
