"""Where keys, results and orphans are kept; one interface for all stores."""
