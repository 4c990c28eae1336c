"""Capture: what the user calls, turned into records in the ring. Knows no sink."""
