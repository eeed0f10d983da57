"""How Sphinx builds these documents; nothing here needs the network."""

from jobproxy import __version__

project = "jobproxy"
version = release = __version__
project_copyright = "the authors of jobproxy"

extensions: list[str] = []
exclude_patterns: list[str] = []
nitpicky = True
# A quoted word in a sentence is as it came, not as a typographer would have it.
smartquotes = False
highlight_language = "none"

html_theme = "furo"
html_title = f"jobproxy {__version__}"
html_copy_source = False
html_show_sphinx = False
