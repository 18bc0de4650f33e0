"""Networks, one family per file. Each file registers its own entries; no other code names them."""
