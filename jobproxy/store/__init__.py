"""Stores for keys, results, orphans and messages between nodes; one interface for all."""
