"""Reads a folder tree: which folders are splits and which are classes."""
