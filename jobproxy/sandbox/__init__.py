"""What is needed to try jobproxy on one machine: a simulated job server, jobclient, a demo."""
