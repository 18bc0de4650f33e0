"""Finds copies: one pass over all images, and the search for exact and near-duplicates among them."""
