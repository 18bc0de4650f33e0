"""Checks a data set before training: unreadable files, duplicates, leaks, statistics."""
