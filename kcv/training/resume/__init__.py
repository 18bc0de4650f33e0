"""Resumes an interrupted run bit for bit: saves its whole state to disk and restores it."""
