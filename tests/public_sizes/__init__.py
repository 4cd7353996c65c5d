"""Models of public sizes, which show mistakes that the round sizes of toys hide."""
