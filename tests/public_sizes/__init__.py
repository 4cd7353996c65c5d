"""Models of public sizes: what toys cannot show, because their sizes are round."""
