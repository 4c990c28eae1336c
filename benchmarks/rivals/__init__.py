"""The other ways to log scalars, each as its users run it."""
