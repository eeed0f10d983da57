"""Makes a process of the parts: options, settings, wiring, drain."""
