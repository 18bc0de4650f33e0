"""Helpers for all packages: files, text, downloads, progress, and reading untrusted files."""
