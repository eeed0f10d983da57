"""HTTP/1.1 servers for Klein and clients for treq, with the parser llhttp of httptools."""
