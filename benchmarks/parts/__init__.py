"""A file for each question: what `run(settings)` measures is one part of the report."""
