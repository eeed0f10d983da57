"""The HTTP/1.1 edge: llhttp, through httptools, under Klein and under treq."""
