"""Callbacks for `fit`: `logging` reports metrics, `control` selects weights and stops, `checkpoint` saves state."""
