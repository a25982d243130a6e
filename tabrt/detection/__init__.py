"""Where faces are."""
