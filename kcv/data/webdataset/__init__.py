"""WebDataset: tar files in which `key.jpg` lies beside `key.cls` or `key.json`."""
