"""The life of a twistd service: options, start, stop, systemd."""
