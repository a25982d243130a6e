"""The workshop that makes checkpoints: data sets, augmentation, recipes, the loop, evaluation."""
