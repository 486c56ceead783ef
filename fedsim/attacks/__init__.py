"""Attacks on privacy: who was in the training data, told from what a federation lets others see."""
