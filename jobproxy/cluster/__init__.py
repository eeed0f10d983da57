"""Several nodes that know the same keys: a callback may come to any of them, and any may die."""
