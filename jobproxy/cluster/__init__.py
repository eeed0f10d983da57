"""Several nodes: who owns a job, and how its callback reaches that node."""
