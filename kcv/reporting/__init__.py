"""Reports for people: the HTML page, the model card, evaluation tables and plots."""
