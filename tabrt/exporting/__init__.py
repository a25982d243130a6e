"""A checkpoint becomes a file that runs elsewhere."""
