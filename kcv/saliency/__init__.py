"""Heat maps and how far to trust them."""
