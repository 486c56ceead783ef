"""A model that learns, answers and is scored: engines aside, all of it."""
