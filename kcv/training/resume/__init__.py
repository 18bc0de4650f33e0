"""Continues an interrupted run bit for bit: its whole state, on disk and back."""
