"""One module per command; app.py imports a module only when its command is run."""
