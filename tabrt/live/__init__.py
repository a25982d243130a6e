"""A camera followed for days: the newest frame, and all that shows, records or sends it."""
