"""Heat maps and measures of how far they can be trusted."""
