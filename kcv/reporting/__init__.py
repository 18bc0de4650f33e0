"""Reports for people: the page, the model card, tables of an evaluation, plots."""
