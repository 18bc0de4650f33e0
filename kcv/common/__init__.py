"""Small things that every room needs: files, text, downloads, progress, and the boundary for untrusted bytes."""
