"""The workshop that turns checkpoints into shipped models, and shows that they compute the same."""
