"""Archives of class folders (.zip, .tar, .tar.gz), read in place."""
