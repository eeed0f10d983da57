"""Everything needed to try jobproxy on one machine: a job server, a load client and a demo."""
