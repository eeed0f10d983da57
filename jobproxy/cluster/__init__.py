"""Several nodes: which node owns a job, and how its callback reaches that node."""
