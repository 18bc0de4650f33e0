"""Networks, one family per file: each registers its own entries, and nothing else names them."""
