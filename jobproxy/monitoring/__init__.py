"""What the operator and Prometheus see: metrics, status, probes, the page."""
