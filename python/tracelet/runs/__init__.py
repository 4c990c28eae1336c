"""A run's folder on disk, and who owns it."""
