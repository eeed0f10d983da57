"""Profiles: how one job server's API is spoken, as TOML files."""
