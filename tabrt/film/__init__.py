"""Films and pictures in and out, with sound and true times."""
